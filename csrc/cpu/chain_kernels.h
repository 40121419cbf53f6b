// What each instruction set offers for whole chains: tiles [begin, end) of `groups` x `lanes` chains.
#pragma once
#include "../core/chain.h"

namespace ebm_fast {

struct ChainKernels {
    int lanes, most_groups;
    int64_t (*packed_size)(const ChainParams&);                       // floats, 0: parameters are read as they are
    void (*pack)(const ChainParams&, float* out);
    int64_t (*space)(const ChainParams&, int groups);                 // bytes of workspace a thread needs
    void (*run)(const ChainParams&, int groups, const float* packed, int64_t begin, int64_t end, void* space);
    void (*math)(int function, const float* x, float* y, int64_t n);
};

extern const ChainKernels baseline_chain, avx2_chain, avx512_chain;

}  // namespace ebm_fast
