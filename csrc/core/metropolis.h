// The Metropolis decision of one chain, in float64: log u <= a, a = beta (E - E') + K - K' + r.
#pragma once
#include "leapfrog.h"

EBM_FAST_CORE_BEGIN

HD inline double exponential(double a) {
#if defined(__CUDACC__)
    return ::exp(a);
#else
    return __builtin_exp(a);
#endif
}

HD inline bool is_finite(double a) { return a - a == 0.0; }

// min(1, e^a), and 0 where a is not a number
HD inline double acceptance(double a) { return a != a ? 0.0 : a < 0.0 ? exponential(a) : 1.0; }

struct ChainEnd {                 // of one chain's trajectory
    double energy, proposal_energy, kinetic, proposal_kinetic, log_ratio, beta;
};

struct Decision {
    bool accepted, diverged;
    double probability, hamiltonian;      // beta E + K of the state that is kept
};

HD inline Decision decide(const ChainEnd& e, float log_u, double max_error) {
    const double a = e.beta * (e.energy - e.proposal_energy) + (e.kinetic - e.proposal_kinetic) + e.log_ratio;
    const bool finite = is_finite(e.proposal_energy) && is_finite(e.proposal_kinetic) && a == a;
    Decision d;
    d.accepted = finite && static_cast<double>(log_u) <= a;
    d.diverged = !finite || a < -max_error;
    d.probability = finite ? acceptance(a) : 0.0;
    d.hamiltonian = d.accepted ? e.beta * e.proposal_energy + e.proposal_kinetic : e.beta * e.energy + e.kinetic;
    return d;
}

HD inline void count(const Decision& d, double* counters) {      // # (5,)
    counters[0] += d.probability;
    counters[1] += d.accepted;
    counters[2] += d.diverged;
    counters[3] = d.probability;
    counters[4] = d.hamiltonian;
}

EBM_FAST_CORE_END
