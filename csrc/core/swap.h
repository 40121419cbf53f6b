// The decision whether two neighbouring replicas change places (Swendsen and Wang 1986), in float64.
#pragma once
#include "metropolis.h"

EBM_FAST_CORE_BEGIN

struct SwapDecision {
    bool swapped;
    double probability;
};

HD inline SwapDecision decide_swap(double energy, double next_energy, double beta, double next_beta, float log_u) {
    const double a = (beta - next_beta) * (energy - next_energy);
    const bool finite = is_finite(energy) && is_finite(next_energy);
    return {finite && static_cast<double>(log_u) <= a, finite ? acceptance(a) : 0.0};
}

EBM_FAST_CORE_END
