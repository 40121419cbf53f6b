// Kick and drift over a range of units: chains, or tiles of chains where events are long.
#pragma once
#include "../core/leapfrog.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

template <class T>
struct Leapfrog {
    using V = typename Storage<T>::Vector;
    const LeapfrogParams& p;
    const bool drifts;

    template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t, int64_t n, const V (&c)[2]) {
        T* momentum = static_cast<T*>(p.momentum) + from;
        T* x = static_cast<T*>(p.x) + from;
        const V q = kicked(get<PART>(momentum, n), get<PART>(static_cast<const T*>(p.grad) + from, n), c[0]);
        put<PART>(momentum, q, n);
        if (drifts) put<PART>(x, drifted(get<PART>(x, n), q, c[1]), n);
    }
};

template <class T>
inline void leapfrog_units(const LeapfrogParams& p, int64_t begin, int64_t end) {
    Coefficients<T, 2, 2> coefficients({p.kick, p.drift}, p.scale, p.dim);
    Leapfrog<T> body{p, p.drift.value != 0.0 || p.drift.at};
    coefficients.units(begin, end, body, [](int64_t, int64_t, int64_t, int64_t) {});
}

inline void leapfrog_range(const LeapfrogParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) leapfrog_units<double>(p, begin, end);
    else leapfrog_units<float>(p, begin, end);
}

EBM_FAST_CORE_END
