// Perturbed copies over a range of units: chains, or tiles of chains where events are long.
#pragma once
#include "../core/perturb.h"
#include "walk.h"

EBM_FAST_CORE_BEGIN

template <class T>
class Perturb {
public:
    using V = typename Storage<T>::Vector;
    using S = typename Storage<T>::Scalar;

    explicit Perturb(const PerturbParams& params)
        : p(params), key(make_counter(params.stream)), keys(key.keys), coefficients({params.sigma}, params.scale, params.dim) {}

    void units(int64_t begin, int64_t end) {
        const bool one_copy = p.copies == 1;
        coefficients.units(begin, end, *this, [&](int64_t b, int64_t e, int64_t from, int64_t count) {
            fill_tile<NormalOf>(key, keys, p.dim, b, e, noise,
                                Ahead(from, one_copy ? count : 0, static_cast<const T*>(p.x), static_cast<const T*>(nullptr)));
        });
    }

    template <bool PART> EBM_FAST_INLINE void run(int64_t from, int64_t i, int64_t n, const V (&c)[1]) {
        const V z = __builtin_convertvector(get<PART>(noise + i, n), V);
        put<PART>(static_cast<T*>(p.out) + from, perturbed(source<PART>(from, n), z, c[0]), n);
        if (p.noise) put<PART>(static_cast<T*>(p.noise) + from, z, n);
    }

private:
    // Where there are several copies, the elements of one vector may come from several data.
    template <bool PART> EBM_FAST_INLINE V source(int64_t from, int64_t n) const {
        const T* x = static_cast<const T*>(p.x);
        if (p.copies == 1) return get<PART>(x + from, n);
        const int64_t chain = from / p.dim, e = from - chain * p.dim;
        if (e + n <= p.dim) return get<PART>(x + chain / p.copies * p.dim + e, n);
        T part[W] = {};
        int64_t datum = chain / p.copies, copy = chain % p.copies, place = e;
        for (int64_t k = 0; k < n; ++k) {
            part[k] = x[datum * p.dim + place];
            if (++place < p.dim) continue;
            place = 0;
            if (++copy == p.copies) copy = 0, ++datum;
        }
        return load(part);
    }

    const PerturbParams& p;
    const Counter key;
    const KeyTable keys;
    Coefficients<S, 1, 1> coefficients;
    alignas(64) float noise[TILE + SURPLUS];
};

inline void perturb_range(const PerturbParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return Perturb<float>(p).units(begin, end);
        case DType::float64: return Perturb<double>(p).units(begin, end);
        case DType::bfloat16: return Perturb<BFloat16>(p).units(begin, end);
        case DType::float16: return Perturb<Half>(p).units(begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
