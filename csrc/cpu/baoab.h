// Kick, drift, friction with noise, drift over a range of units: chains, or tiles of chains where events are long.
#pragma once
#include "../core/baoab.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

template <class T>
class Baoab {
public:
    using V = typename Storage<T>::Vector;

    explicit Baoab(const BaoabParams& params)
        : p(params),
          key(make_counter(params.stream)),
          keys(key.keys),
          coefficients({params.kick, params.drift, params.persistence, params.noise_std}, params.scale, params.dim,
                       params.active) {}

    void units(int64_t begin, int64_t end) {
        coefficients.units(begin, end, *this, [this](int64_t b, int64_t e, int64_t from, int64_t count) {
            fill_tile<NormalOf>(key, keys, p.dim, b, e, noise,
                                Ahead(from, count, static_cast<const T*>(p.x), static_cast<const T*>(p.grad)));
        });
    }

    template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t i, int64_t n, const V (&c)[4]) {
        T* momentum = static_cast<T*>(p.momentum) + from;
        T* position = static_cast<T*>(p.x) + from;
        V x = get<PART>(position, n), q = get<PART>(momentum, n);
        const V z = __builtin_convertvector(get<PART>(noise + i, n), V);
        baoab_update(x, q, get<PART>(static_cast<const T*>(p.grad) + from, n), z, {c[0], c[1], c[2], c[3], p.kicks});
        put<PART>(position, x, n);
        put<PART>(momentum, q, n);
    }

private:
    const BaoabParams& p;
    const Counter key;
    const KeyTable keys;
    Coefficients<T, 4, 2> coefficients;
    alignas(64) float noise[TILE + SURPLUS];
};

inline void baoab_range(const BaoabParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) Baoab<double>(p).units(begin, end);
    else Baoab<float>(p).units(begin, end);
}

EBM_FAST_CORE_END
