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
        const bool one_sigma = !p.scale && (!p.sigma.at || !p.sigma.stride);
        if (one_sigma && p.copies == 1)
            return p.noise ? flat<true>(block_of(begin), block_of(end)) : flat<false>(block_of(begin), block_of(end));
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
    int64_t block_of(int64_t unit) const {
        if (p.dim <= TILE) return unit * blocks_per_chain(p.dim);
        const int64_t tiles = tiles_of_chain(p.dim);
        return unit / tiles * blocks_per_chain(p.dim) + unit % tiles * TILE_BLOCKS;
    }

    // One sigma and one copy: whole tiles, wherever chains end, so that no lane of the generator is wasted.
    template <bool KEPT> void flat(int64_t begin, int64_t end) {
        const T* x = static_cast<const T*>(p.x);
        T* out = static_cast<T*>(p.out);
        T* kept = static_cast<T*>(p.noise);
        const V sigma = broadcast<V>(p.sigma.at ? *static_cast<const S*>(p.sigma.at) : static_cast<S>(p.sigma.value));
        for (int64_t at = begin; at < end; at += TILE_BLOCKS) {
            const int64_t stop = at + TILE_BLOCKS < end ? at + TILE_BLOCKS : end;
            const int64_t from = first_element(at, p.dim), count = first_element(stop, p.dim) - from;
            fill_tile<NormalOf>(key, keys, p.dim, at, stop, noise, Ahead(from, count, x, static_cast<const T*>(nullptr)));
            int64_t i = 0;
            for (; i + W <= count; i += W) {
                const V z = __builtin_convertvector(load(noise + i), V);
                store(out + from + i, perturbed(load(x + from + i), z, sigma));
                if (KEPT) store(kept + from + i, z);
            }
            if (i == count) continue;
            const V z = __builtin_convertvector(load(noise + i), V);
            store_part(out + from + i, perturbed(load_part(x + from + i, count - i), z, sigma), count - i);
            if (KEPT) store_part(kept + from + i, z, count - i);
        }
    }

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
