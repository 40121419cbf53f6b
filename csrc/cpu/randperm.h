// Members of random permutations over a range of indices.
#pragma once
#include "../core/randperm.h"
#include "noise.h"

EBM_FAST_CORE_BEGIN

inline void randperm_range(const RandpermParams& p, int64_t begin, int64_t end) {
    const Counter key = make_counter(p.stream);
    const KeyTable table(key.keys);
    alignas(64) float tile[ROUNDS + SURPLUS];
    uint32_t keys[ROUNDS];
    const uint32_t size = static_cast<uint32_t>(p.size), a = static_cast<uint32_t>(p.across), b = (size + a - 1) / a;
    int64_t known = -1;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t group = p.group ? p.group[i] : 0, index = p.index ? p.index[i] : i;
        if (group != known) {
            fill_tile<BitsOf>(key, table, ROUNDS, group * (ROUNDS / 4), (group + 1) * (ROUNDS / 4), tile);
            std::memcpy(keys, tile, sizeof keys);
            known = group;
        }
        p.out[i] = group * p.size + permuted(static_cast<uint32_t>(static_cast<uint64_t>(index) % size), keys, size, a, b);
    }
}

EBM_FAST_CORE_END
