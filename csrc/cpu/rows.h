// Lane = chain: the event along the rows of a tile of G x W chains, its normals, and its way from and to memory.
#pragma once
#include "../core/share.h"
#include "noise.h"

EBM_FAST_CORE_BEGIN

// The first round of Philox multiplies the block and the step, which all lanes of a group share: numbers instead of vectors.
struct FirstRound {
    uint32_t chain, second, third, fourth;      // to be combined with the lanes' chains; the other words of the counter

    FirstRound(const KeyTable& keys, uint32_t block, uint32_t step, uint32_t tag) {
        const uint64_t a = uint64_t{block} * 0xD2511F53u, b = uint64_t{step} * 0xCD9E8D57u;
        chain = static_cast<uint32_t>(b >> 32) ^ static_cast<uint32_t>(keys.first(0)), second = static_cast<uint32_t>(b);
        third = static_cast<uint32_t>(a >> 32) ^ tag ^ static_cast<uint32_t>(keys.second(0)), fourth = static_cast<uint32_t>(a);
    }
};

// Normals of an event's elements for G groups of chains, as rows: out[i][g]
template <int G>
inline void normal_rows(const Whole& share, const KeyTable& keys, uint32_t step, uint32_t tag, const U (&chains)[G], F* out) {
    const int dim = share.dim;
    if (dim <= 2) {      // half of a block: its other half is not even computed
        const FirstRound round(keys, 0, step, tag);
        for (int g = 0; g < G; g += GROUPS) {
            U chain[GROUPS];
            for (int k = 0; k < GROUPS; ++k) chain[k] = chains[(g + k) % G] ^ round.chain;
            Words counter[4] = {to_words(chain), to_words(round.second), to_words(round.third), to_words(round.fourth)};
            philox4x32_10<1>(counter, keys);
            for (int k = 0; k < GROUPS && g + k < G; ++k) {
                F z0, z1;
                box_muller<F, I, U>(group_of(counter[0], k), group_of(counter[1], k), z0, z1);
                out[g + k] = z0;
                if (dim > 1) out[G + g + k] = z1;
            }
        }
        return;
    }
    const int blocks = (dim + 3) / 4, units = blocks * G;
    for (int unit = 0; unit < units; unit += GROUPS) {
        U chain[GROUPS], third[GROUPS], fourth[GROUPS];
        uint32_t second = 0;
        for (int k = 0; k < GROUPS; ++k) {
            const FirstRound round(keys, static_cast<uint32_t>((unit + k) / G), step, tag);
            chain[k] = chains[(unit + k) % G] ^ round.chain, second = round.second;
            third[k] = U{} + round.third, fourth[k] = U{} + round.fourth;
        }
        Words counter[4] = {to_words(chain), to_words(second), to_words(third), to_words(fourth)};
        philox4x32_10<1>(counter, keys);
        for (int k = 0; k < GROUPS && unit + k < units; ++k) {
            const int first = (unit + k) / G * 4, rest = dim - first;
            F* row = out + first * G + (unit + k) % G;
            F z0, z1;
            box_muller<F, I, U>(group_of(counter[0], k), group_of(counter[1], k), z0, z1);
            row[0] = z0;
            if (rest > 1) row[G] = z1;
            if (rest <= 2) continue;
            box_muller<F, I, U>(group_of(counter[2], k), group_of(counter[3], k), z0, z1);
            row[2 * G] = z0;
            if (rest > 3) row[3 * G] = z1;
        }
    }
}

// Which chains a tile holds; lanes beyond the last chain repeat it.
template <int G>
struct TileIndex {
    int64_t first, count;  // chains of the tile that exist
    int64_t chain(int lane) const { return first + (lane < count ? lane : count - 1); }
};

// Rows of a tile from and to chains in memory
template <int G>
inline void load_rows(const Whole& share, const TileIndex<G>& tile, const float* from, F* rows) {
    const int64_t dim = share.dim;
    float* out = reinterpret_cast<float*>(rows);
    for (int lane = 0; lane < G * W; ++lane) {
        const float* event = from + tile.chain(lane) * dim;
        for (int64_t i = 0; i < dim; ++i) out[i * G * W + lane] = event[i];
    }
}

template <int G>
inline void store_rows(const Whole& share, const TileIndex<G>& tile, const F* rows, float* to) {
    const int64_t dim = share.dim;
    for (int g = 0; g < G && g * W < tile.count; ++g) {
        const int lanes = tile.count - g * W < W ? static_cast<int>(tile.count - g * W) : W;
        float* event = to + (tile.first + g * W) * dim;
        int64_t i = 0;
        for (; i + 4 <= dim; i += 4) {
            const I four[4] = {(I)rows[i * G + g], (I)rows[(i + 1) * G + g], (I)rows[(i + 2) * G + g], (I)rows[(i + 3) * G + g]};
            I packed[4];
            interleave4(four, packed);
            for (int lane = 0; lane < lanes; ++lane)
                std::memcpy(event + lane * dim + i, reinterpret_cast<const char*>(packed) + 16 * lane, 16);
        }
        for (; i < dim; ++i)
            for (int lane = 0; lane < lanes; ++lane) event[lane * dim + i] = rows[i * G + g][lane];
    }
}

// Of one lane's chain
template <int G>
inline double square_norm(const Whole& share, const F* rows, int lane) {
    double sum = 0.0;
    for (int i = 0; i < share.dim; ++i) {
        const double a = rows[i * G + lane / W][lane % W];
        sum += a * a;
    }
    return sum;
}

inline int64_t row_space(const Whole& share) { return share.dim; }
inline void trim(const Whole&, F*) {}

EBM_FAST_CORE_END
