// Refreshment of one element's momentum at the start of a trajectory: p = c p + n z, n = sqrt(1 - c^2) (Horowitz 1991).
#pragma once
#include "leapfrog.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline V refreshed(V p, V z, V persistence, V noise_std) {
    return fma(persistence, p, noise_std * z);
}

EBM_FAST_CORE_END
