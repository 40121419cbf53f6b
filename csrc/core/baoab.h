// B, A, O and A of underdamped Langevin dynamics on one element (Leimkuhler and Matthews 2013); `kick` and `drift` hold the
// factor scale. Two kicks are taken one after the other: a chain is the same, bit for bit, whether the last half kick of a step
// rides on the first of the next or not.
#pragma once
#include "leapfrog.h"

EBM_FAST_CORE_BEGIN

template <class V>
struct BaoabCoefficients {
    V kick, drift, persistence, noise_std;
    int kicks;
};

template <class V>
HD inline void baoab_update(V& x, V& p, V grad, V z, const BaoabCoefficients<V>& c) {
    for (int i = 0; i < c.kicks; ++i) p = kicked(p, grad, c.kick);
    x = drifted(x, p, c.drift);
    p = fma(c.persistence, p, c.noise_std * z);
    x = drifted(x, p, c.drift);
}

EBM_FAST_CORE_END
