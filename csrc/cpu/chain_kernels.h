// What each instruction set offers for whole chains: tiles [begin, end) of `groups` x `lanes` chains, or without
// groups of one chain whose event has the lanes to itself.
#pragma once
#include "../core/chain.h"

namespace ebm_fast {

// An MLP at precision bfloat16 on instructions that an instruction set may have besides; numbers lie as in ChainTile.
struct MlpKernels {
    int64_t (*packed_size)(const ChainParams&);                       // floats
    void (*pack)(const ChainParams&, float* out);
    int64_t (*scratch)(const ChainParams&);                           // vectors a group
    using Evaluate = void (*)(const ChainParams&, const float* packed, const float* x, float* grad, float* energy,
                              float* scratch);
    Evaluate evaluate[2][4];                                          // of 1 or 2 groups, by Mode
};

struct ChainKernels {
    int lanes;
    bool (*in_lanes)(EnergyKind, int64_t dim);                        // whether a chain has all lanes to itself
    int (*most_groups)(const ChainParams&);                           // then 0
    int64_t (*packed_size)(const ChainParams&);                       // floats, 0: parameters are read as they are
    void (*pack)(const ChainParams&, float* out);
    // bytes of workspace a thread needs; mlp: null, or who evaluates the energy
    int64_t (*space)(const ChainParams&, const MlpKernels* mlp, int groups);
    void (*run)(const ChainParams&, const MlpKernels* mlp, int groups, const float* packed, int64_t begin, int64_t end,
                void* space);
    void (*math)(int function, const float* x, float* y, int64_t n);
};

extern const ChainKernels baseline_chain, avx2_chain, avx512_chain;
extern const MlpKernels avx512_bf16_mlp;

}  // namespace ebm_fast
