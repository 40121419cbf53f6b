// The Langevin op over a range of blocks: a tile of noise in L1, then one pass over the tile's elements.
#pragma once
#include "../core/langevin.h"
#include "noise.h"
#include "norm.h"

EBM_FAST_CORE_BEGIN

constexpr int64_t LONG_CHAIN = 4 * W;       // from here on, looping chain by chain beats spreading coefficients

// Coefficients that differ from chain to chain, spread over the elements of a tile of short chains; with `scale` of any chains.
template <class S>
struct SpreadCoefficients {
    S step_size[4 * TILE_BLOCKS + W], noise_std[4 * TILE_BLOCKS + W], grad_scale[4 * TILE_BLOCKS + W];
    uint8_t active[4 * TILE_BLOCKS + W];

    void fill(const LangevinParams& p, int64_t from, int64_t count) {
        const S* steps = static_cast<const S*>(p.step_size_at);
        const S* noises = static_cast<const S*>(p.noise_std_at);
        const S* scales = static_cast<const S*>(p.grad_scale);
        const S* sigma = static_cast<const S*>(p.scale);
        int64_t chain = from / p.dim, next = (chain + 1) * p.dim - from;
        for (int64_t i = 0; i < count; ++chain, next += p.dim) {
            const S step = steps ? steps[chain * p.step_size_stride] : static_cast<S>(p.step_size);
            const S noise = noises ? noises[chain * p.noise_std_stride] : static_cast<S>(p.noise_std);
            const S scale = scales ? scales[chain] : S(1);
            const uint8_t live = p.active ? p.active[chain] : 1;
            const int64_t stop = next < count ? next : count;
            if (sigma) {
                const int64_t shift = p.dim - next;      // from an element's index in the tile to that in its event
                for (int64_t k = i; k < stop; ++k)
                    step_size[k] = step * sigma[k + shift] * sigma[k + shift], noise_std[k] = noise * sigma[k + shift];
            } else {
                for (int64_t k = i; k < stop; ++k) step_size[k] = step, noise_std[k] = noise;
            }
            for (; i < stop; ++i) grad_scale[i] = scale, active[i] = live;
        }
    }
};

template <class T>
struct LangevinTile {
    using V = typename Storage<T>::Vector;
    using S = typename Storage<T>::Scalar;
    const LangevinParams& p;
    LangevinCoefficients<V> c;

    explicit LangevinTile(const LangevinParams& params) : p(params) {
        c = {broadcast<V>(p.step_size),       broadcast<V>(p.noise_std), broadcast<V>(1),         broadcast<V>(p.momentum),
             broadcast<V>(p.prior_precision), broadcast<V>(p.grad_clip), broadcast<V>(p.step_lo), broadcast<V>(p.step_hi),
             broadcast<V>(p.noise_lo),        broadcast<V>(p.noise_hi)};
    }

    // W elements at `from`, of which `count` exist
    template <bool PART, bool SPREAD, bool NOISE>
    void update(int64_t from, int64_t count, const float* noise, const SpreadCoefficients<S>* spread, int64_t i) {
        T* x = static_cast<T*>(p.x) + from;
        const T* grad = p.grad ? static_cast<const T*>(p.grad) + from : nullptr;
        T* velocity = p.velocity ? static_cast<T*>(p.velocity) + from : nullptr;
        const auto get = [count](const T* at) { return PART ? load_part(at, count) : load(at); };
        const auto put = [count](T* at, V a) { PART ? store_part(at, a, count) : store(at, a); };
        if constexpr (SPREAD) {
            c.step_size = load(spread->step_size + i);
            c.noise_std = load(spread->noise_std + i);
            c.grad_scale = load(spread->grad_scale + i);
        }
        const V z = NOISE ? __builtin_convertvector(load(noise + i), V) : V{};
        const V old = get(x);
        V next, speed{};
        if (!grad) {
            next = langevin_noise(old, z, c);
        } else if (velocity) {
            speed = get(velocity);
            const V before = speed;
            next = langevin_update_heavy_ball(old, get(grad), z, speed, c);
            if constexpr (SPREAD) keep(spread->active + i, speed, before);
        } else {
            next = langevin_update(old, get(grad), z, c);
        }
        if constexpr (SPREAD) keep(spread->active + i, next, old);
        put(x, next);
        if (velocity && grad) put(velocity, speed);
    }

    static void keep(const uint8_t* active, V& next, const V& old) {
        for (int k = 0; k < W; ++k) next[k] = active[k] ? next[k] : old[k];
    }

    // Chains of some length, one after the other: their coefficients are constants of the loop.
    template <bool NOISE>
    void run_rows(int64_t from, int64_t count, const float* noise) {
        const S* steps = static_cast<const S*>(p.step_size_at);
        const S* noises = static_cast<const S*>(p.noise_std_at);
        const S* scales = static_cast<const S*>(p.grad_scale);
        int64_t chain = from / p.dim;
        for (int64_t i = 0; i < count; ++chain) {
            const int64_t rest = (chain + 1) * p.dim - from, stop = rest < count ? rest : count;
            if (!p.active || p.active[chain]) {
                if (steps) c.step_size = broadcast<V>(steps[chain * p.step_size_stride]);
                if (noises) c.noise_std = broadcast<V>(noises[chain * p.noise_std_stride]);
                if (scales) c.grad_scale = broadcast<V>(scales[chain]);
                run<false, NOISE>(from + i, stop - i, noise + i, nullptr);
            }
            i = stop;
        }
    }

    template <bool SPREAD, bool NOISE>
    void run(int64_t from, int64_t count, const float* noise, const SpreadCoefficients<S>* spread) {
        int64_t i = 0;
        for (; i + W <= count; i += W) update<false, SPREAD, NOISE>(from + i, W, noise, spread, i);
        if (i < count) update<true, SPREAD, NOISE>(from + i, count - i, noise, spread, i);
    }
};

// norm_sum += |grad| of the chains that end in blocks [at, stop), whose gradient lies in the nearest cache: each chain once, in
// `norm_of`'s order, however the blocks are cut.
template <class T>
inline void add_norms(const LangevinParams& p, int64_t at, int64_t stop) {
    const int64_t per_chain = blocks_per_chain(p.dim);
    for (int64_t chain = at / per_chain; chain < stop / per_chain; ++chain) {
        if (p.active && !p.active[chain]) continue;
        const double norm = norm_of(static_cast<const T*>(p.grad) + chain * p.dim, p.dim);
        p.norm_sum[chain] += static_cast<typename Storage<T>::Scalar>(norm);
    }
}

template <class T>
inline void langevin_tiles(const LangevinParams& p, int64_t begin, int64_t end) {
    alignas(64) float noise[4 * TILE_BLOCKS + SURPLUS] = {};
    SpreadCoefficients<typename Storage<T>::Scalar> spread;
    const bool per_chain = p.step_size_at || p.noise_std_at || p.grad_scale || p.active || p.scale;
    const bool noisy = p.noise_std != 0.0 || p.noise_std_at;
    const Counter key = make_counter(p.stream);
    const KeyTable keys(key.keys);
    LangevinTile<T> tile(p);
    for (int64_t at = begin; at < end; at += TILE_BLOCKS) {
        const int64_t stop = at + TILE_BLOCKS < end ? at + TILE_BLOCKS : end;
        const int64_t from = first_element(at, p.dim), count = first_element(stop, p.dim) - from;
        if (noisy)
            fill_tile<NormalOf>(key, keys, p.dim, at, stop, noise,
                                Ahead(from, count, static_cast<const T*>(p.x), static_cast<const T*>(p.grad)));
        if (!per_chain) {
            noisy ? tile.template run<false, true>(from, count, noise, nullptr)
                  : tile.template run<false, false>(from, count, noise, nullptr);
        } else if (p.dim >= LONG_CHAIN && !p.scale) {
            noisy ? tile.template run_rows<true>(from, count, noise) : tile.template run_rows<false>(from, count, noise);
        } else {
            spread.fill(p, from, count);
            noisy ? tile.template run<true, true>(from, count, noise, &spread)
                  : tile.template run<true, false>(from, count, noise, &spread);
        }
        if (p.norm_sum && p.grad) add_norms<T>(p, at, stop);
    }
}

inline void langevin_range(const LangevinParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return langevin_tiles<float>(p, begin, end);
        case DType::float64: return langevin_tiles<double>(p, begin, end);
        case DType::bfloat16: return langevin_tiles<BFloat16>(p, begin, end);
        case DType::float16: return langevin_tiles<Half>(p, begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
