// The decision whether two neighbouring replicas change places (Swendsen and Wang 1986), in float64.
#pragma once
#include "metropolis.h"

EBM_FAST_CORE_BEGIN

struct SwapDecision {
    bool swapped, finite;
    double a;
};

HD inline SwapDecision decide_swap(double energy, double next_energy, double beta, double next_beta, float log_u) {
    const double a = (beta - next_beta) * (energy - next_energy);
    const bool finite = is_finite(energy) && is_finite(next_energy);
    return {finite && static_cast<double>(log_u) <= a, finite, a};
}

HD inline void count(const SwapDecision& d, double* counters) {      // # (2,)
    counters[0] += d.finite ? acceptance(d.a) : 0.0;
    counters[1] += d.swapped;
}

EBM_FAST_CORE_END
