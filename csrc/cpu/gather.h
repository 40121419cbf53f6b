// Rows of a buffer over a range of chains; noise is drawn for those rows alone that start anew.
#pragma once
#include "../core/gather.h"
#include "noise.h"

EBM_FAST_CORE_BEGIN

template <class T>
inline void fill_row(T* out, int64_t dim, float value) {
    using V = typename Storage<T>::Vector;
    const V all = broadcast<V>(value);
    int64_t i = 0;
    for (; i + W <= dim; i += W) store(out + i, all);
    if (i < dim) store_part(out + i, all, dim - i);
}

template <class T>
class Gather {
public:
    using V = typename Storage<T>::Vector;

    explicit Gather(const GatherParams& params) : p(params), key(make_counter(params.stream)), keys(key.keys), coin(key) {
        coin.tag = (key.tag & ~0xFFu) | params.coin;
    }

    void rows(int64_t begin, int64_t end) {
        alignas(64) float coins[TILE_BLOCKS + SURPLUS];
        for (int64_t at = begin; at < end; at += TILE_BLOCKS) {
            const int64_t stop = at + TILE_BLOCKS < end ? at + TILE_BLOCKS : end;
            fill_tile<UniformOf>(coin, keys, 1, at, stop, coins);
            for (int64_t chain = at; chain < stop; ++chain) row(chain, coins[chain - at] <= static_cast<float>(p.rate));
        }
    }

private:
    void row(int64_t chain, bool fresh) {
        T* out = static_cast<T*>(p.out) + chain * p.dim;
        if (p.fresh) p.fresh[chain] = fresh;
        if (!fresh) {
            const int64_t slot = p.slots[chain];
            if (slot < 0 || slot >= p.size) fill_row(out, p.dim, __builtin_nanf(""));
            else copy(out, p.source, slot);
        } else if (p.rows) {
            alignas(64) float word[1 + SURPLUS];
            fill_tile<BitsOf>(key, keys, 1, chain, chain + 1, word);
            uint32_t bits;
            std::memcpy(&bits, word, sizeof bits);
            copy(out, p.rows, row_of(bits, p.count));
        } else if (p.kind == NoiseKind::uniform) {
            draw<UniformOf>(out, chain);
        } else {
            draw<NormalOf>(out, chain);
        }
    }

    void copy(T* out, const void* from, int64_t row) const {
        std::memcpy(out, static_cast<const T*>(from) + row * p.dim, static_cast<size_t>(p.dim) * sizeof(T));
    }

    template <class Kind> void draw(T* out, int64_t chain) {
        const int64_t per_chain = blocks_per_chain(p.dim), first = chain * per_chain;
        const V shift = broadcast<V>(p.shift), spread = broadcast<V>(p.spread);
        for (int64_t at = 0; at < per_chain; at += TILE_BLOCKS, out += TILE) {
            const int64_t stop = at + TILE_BLOCKS < per_chain ? at + TILE_BLOCKS : per_chain;
            fill_tile<Kind>(key, keys, p.dim, first + at, first + stop, noise);
            const int64_t left = p.dim - 4 * at, count = left < TILE ? left : TILE;
            int64_t i = 0;
            for (; i + W <= count; i += W) store(out + i, placed(__builtin_convertvector(load(noise + i), V), shift, spread));
            if (i < count) store_part(out + i, placed(__builtin_convertvector(load(noise + i), V), shift, spread), count - i);
        }
    }

    const GatherParams& p;
    const Counter key;
    const KeyTable keys;
    Counter coin;
    alignas(64) float noise[TILE + SURPLUS];
};

inline void gather_range(const GatherParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return Gather<float>(p).rows(begin, end);
        case DType::float64: return Gather<double>(p).rows(begin, end);
        case DType::bfloat16: return Gather<BFloat16>(p).rows(begin, end);
        case DType::float16: return Gather<Half>(p).rows(begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
