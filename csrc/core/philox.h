// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// Counter = (block, chain, step, tag): block of four elements in the chain's event, global chain index, low 32 bits
// of the step, and purpose | (bits 32..55 of the step) << 8. Key = the 64-bit seed.
//
// W is a bundle of 32-bit words: uint32_t in a CUDA thread, `Words` (lanes.h) on the CPU. It needs
// `mulhilo(W a, uint32_t m, W& hi, W& lo)` and `xor3(W, W, uint32_t)`.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

// The keys of the ten rounds, computed as they are needed (a GPU thread) or read from a table (CPU lanes, see lanes.h).
struct KeySchedule {
    uint32_t k0, k1;
    HD uint32_t first(int round) const { return k0 + 0x9E3779B9u * static_cast<uint32_t>(round); }
    HD uint32_t second(int round) const { return k1 + 0xBB67AE85u * static_cast<uint32_t>(round); }
};

// FIRST rounds have been done.
template <int FIRST = 0, class W, class Keys>
HD EBM_FAST_INLINE void philox4x32_10(W (&c)[4], const Keys& keys) {
    EBM_FAST_UNROLL
    for (int round = FIRST; round < 10; ++round) {
        W hi0, lo0, hi1, lo1;
        mulhilo(c[0], 0xD2511F53u, hi0, lo0);
        mulhilo(c[2], 0xCD9E8D57u, hi1, lo1);
        c[0] = xor3(hi1, c[1], keys.first(round));
        c[2] = xor3(hi0, c[3], keys.second(round));
        c[1] = lo1;
        c[3] = lo0;
    }
}

struct Counter {              // what all blocks of one call share
    KeySchedule keys;
    uint32_t step, tag, chain_offset;
};

HD inline Counter make_counter(const ebm_fast::Stream& s) {
    const uint64_t seed = s.rng ? static_cast<uint64_t>(s.rng[0]) : s.seed;
    const uint64_t step = s.rng ? static_cast<uint64_t>(s.rng[1]) + s.step : s.step;
    return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
            static_cast<uint32_t>(step),
            s.purpose | static_cast<uint32_t>((step >> 32) & 0xFFFFFFu) << 8,
            s.chain_offset};
}

EBM_FAST_CORE_END
