// Noise in tiles: the blocks of all chains form one sequence (chain 0 block 0, 1, ...; chain 1 block 0, ...); W of them
// are drawn at once, and the elements that exist are packed as they lie in memory.
#pragma once
#include "../core/normal.h"
#include "../core/philox.h"
#include "storage.h"
#include "tiles.h"

EBM_FAST_CORE_BEGIN

// A broadcast from memory rides on another instruction; one from a general register takes a slot of the vector units.
struct KeyTable {
    uint64_t keys[20];
    explicit KeyTable(const KeySchedule& schedule) {
        for (int round = 0; round < 10; ++round) {
            keys[2 * round] = schedule.first(round);
            keys[2 * round + 1] = schedule.second(round);
        }
        asm volatile("" : : "r"(keys) : "memory");      // or the compiler computes them again, in registers
    }
    uint64_t first(int round) const { return keys[2 * round]; }
    uint64_t second(int round) const { return keys[2 * round + 1]; }
};

// index in memory of the first element of a block of the sequence
inline int64_t first_element(int64_t block, int64_t dim) {
    const int64_t per_chain = blocks_per_chain(dim);
    return block / per_chain * dim + block % per_chain * 4;
}

struct BitsOf {
    static void make(const U (&w)[4], I (&out)[4]) {
        for (int k = 0; k < 4; ++k) out[k] = (I)w[k];
    }
};
struct UniformOf {
    static void make(const U (&w)[4], I (&out)[4]) {
        for (int k = 0; k < 4; ++k) out[k] = (I)word_to_uniform<F, U>(w[k]);
    }
};
struct LogUniformOf {
    static void make(const U (&w)[4], I (&out)[4]) {
        for (int k = 0; k < 4; ++k) out[k] = (I)log_unit<F, I>(word_to_uniform<F, U>(w[k]));
    }
};
struct RademacherOf {
    static void make(const U (&w)[4], I (&out)[4]) {
        for (int k = 0; k < 4; ++k) out[k] = (I)((w[k] & 0x80000000u) | 0x3F800000u);
    }
};
struct NormalOf {
    static void make(const U (&w)[4], I (&out)[4]) {
        F z0, z1, z2, z3;
        box_muller<F, I, U>(w[0], w[1], z0, z1);
        box_muller<F, I, U>(w[2], w[3], z2, z3);
        out[0] = (I)z0, out[1] = (I)z1, out[2] = (I)z2, out[3] = (I)z3;
    }
};

// Fills `out` with the 32-bit values of blocks [begin, end) of the sequence; `out` needs room for SURPLUS more.
constexpr int LANES = GROUPS * W, SURPLUS = 4 * LANES;

// Memory that the caller reads next, fetched while the noise is computed: the hardware's prefetchers stop at each page, and the
// arithmetic of a tile takes longer than its memory, so a whole update then costs little more than its noise.
struct Ahead {
    const char* at[2] = {};      // null: nothing to fetch
    int64_t bytes = 0;           // of each
    Ahead() = default;
    template <class T>
    Ahead(int64_t from, int64_t count, const T* a, const T* b)
        : at{reinterpret_cast<const char*>(a ? a + from : nullptr), reinterpret_cast<const char*>(b ? b + from : nullptr)},
          bytes(count * static_cast<int64_t>(sizeof(T))) {}
};

template <class Kind> inline void fill_tile(const Counter& key, const KeyTable& keys, int64_t dim, int64_t begin, int64_t end,
                                            float* out, const Ahead& ahead = Ahead()) {
    const int64_t rounds = (end - begin + LANES - 1) / LANES, fetch = (ahead.bytes / rounds + 63) / 64 * 64;
    int64_t fetched = 0;
    const int64_t per_chain = blocks_per_chain(dim);
    uint32_t lane_chain[LANES], lane_block[LANES];
    int64_t chain = begin / per_chain, block = begin % per_chain;
    for (int i = 0; i < LANES; ++i) {
        lane_chain[i] = static_cast<uint32_t>(chain) + key.chain_offset;
        lane_block[i] = static_cast<uint32_t>(block);
        if (++block == per_chain) block = 0, ++chain;
    }
    U chains[GROUPS], blocks[GROUPS];
    std::memcpy(&chains, lane_chain, sizeof chains);
    std::memcpy(&blocks, lane_block, sizeof blocks);
    const uint32_t width = static_cast<uint32_t>(per_chain);
    const uint32_t chain_stride = static_cast<uint32_t>(LANES / per_chain);
    const uint32_t block_stride = static_cast<uint32_t>(LANES % per_chain);
    const bool whole = dim % 4 == 0;
    for (int64_t at = begin; at < end; at += LANES) {
        Words counter[4] = {to_words(blocks), to_words(chains), to_words(key.step), to_words(key.tag)};
        philox4x32_10(counter, keys);
        for (int64_t i = fetched; i < fetched + fetch; i += 64)
            for (const char* from : ahead.at)
                if (from) __builtin_prefetch(from + i);
        fetched += fetch;
        for (int g = 0; g < GROUPS; ++g) {
            const U words[4] = {group_of(counter[0], g), group_of(counter[1], g), group_of(counter[2], g),
                                group_of(counter[3], g)};
            I values[4], packed[4];
            Kind::make(words, values);
            interleave4(values, packed);
            if (whole) {
                std::memcpy(out, packed, sizeof packed);
                out += 4 * W;
            } else {
                const char* source = reinterpret_cast<const char*>(packed);
                for (int i = 0; i < W; ++i) {
                    std::memcpy(out, source + 16 * i, 16);
                    const int64_t rest = dim - 4 * static_cast<int64_t>(blocks[g][i]);
                    out += rest < 4 ? rest : 4;
                }
            }
            blocks[g] += block_stride;
            const U over = (U)(blocks[g] >= width);
            blocks[g] -= over & width;
            chains[g] += chain_stride + (over & 1u);
        }
    }
}

template <class T>
inline void store_noise(T* out, const float* tile, int64_t count) {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(out + i, __builtin_convertvector(load(tile + i), typename Storage<T>::Vector));
    if (i < count) store_part(out + i, __builtin_convertvector(load(tile + i), typename Storage<T>::Vector), count - i);
}

template <class Kind>
inline void noise_tiles(const NoiseParams& p, const Counter& key, int64_t begin, int64_t end) {
    const KeyTable keys(key.keys);
    alignas(64) float tile[4 * TILE_BLOCKS + SURPLUS];
    for (int64_t at = begin; at < end; at += TILE_BLOCKS) {
        const int64_t stop = at + TILE_BLOCKS < end ? at + TILE_BLOCKS : end;
        fill_tile<Kind>(key, keys, p.dim, at, stop, tile);
        const int64_t from = first_element(at, p.dim), count = first_element(stop, p.dim) - from;
        switch (p.dtype) {
            case DType::float32:
            case DType::int32: std::memcpy(static_cast<float*>(p.out) + from, tile, static_cast<size_t>(count) * 4); break;
            case DType::float64: store_noise(static_cast<double*>(p.out) + from, tile, count); break;
            case DType::bfloat16: store_noise(static_cast<BFloat16*>(p.out) + from, tile, count); break;
            case DType::float16: store_noise(static_cast<Half*>(p.out) + from, tile, count); break;
        }
    }
}

inline void noise_range(const NoiseParams& p, int64_t begin, int64_t end) {
    const Counter key = make_counter(p.stream);
    switch (p.kind) {
        case NoiseKind::bits: return noise_tiles<BitsOf>(p, key, begin, end);
        case NoiseKind::uniform: return noise_tiles<UniformOf>(p, key, begin, end);
        case NoiseKind::normal: return noise_tiles<NormalOf>(p, key, begin, end);
        case NoiseKind::rademacher: return noise_tiles<RademacherOf>(p, key, begin, end);
    }
}

EBM_FAST_CORE_END
