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

HD inline double acceptance(double a) { return a < 0.0 ? exponential(a) : 1.0; }      // min(1, e^a)

struct ChainEnd {                 // of one chain's trajectory
    double energy, proposal_energy, kinetic, proposal_kinetic, log_ratio, beta;
};

struct Decision {
    bool accepted, finite;
    double a, hamiltonian;        // beta E + K of the state that is kept
};

HD inline Decision decide(const ChainEnd& e, float log_u) {
    const double a = e.beta * (e.energy - e.proposal_energy) + (e.kinetic - e.proposal_kinetic) + e.log_ratio;
    const bool finite = is_finite(e.proposal_energy) && is_finite(e.proposal_kinetic) && a == a;
    const bool accepted = finite && static_cast<double>(log_u) <= a;
    return {accepted, finite, a, accepted ? e.beta * e.proposal_energy + e.proposal_kinetic : e.beta * e.energy + e.kinetic};
}

HD inline void count(const Decision& d, double max_error, double* counters) {      // # (5,)
    const double probability = d.finite ? acceptance(d.a) : 0.0;
    counters[0] += probability;
    counters[1] += d.accepted;
    counters[2] += !d.finite || d.a < -max_error;
    counters[3] = probability;
    counters[4] = d.hamiltonian;
}

EBM_FAST_CORE_END
