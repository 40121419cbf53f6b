// What the parts of the whole-chain op tell each other: how a launch is laid out, and what each energy offers.
#pragma once
#include <cuda_runtime.h>
#include "../core/chain.h"

namespace ebm_fast {

// `team` 0, for short events of some energies: a thread has a chain, its state in registers. Else `team` threads have a chain,
// whose arrays lie in shared memory, or in the workspace where they are too long.
struct ChainLaunch {
    ChainParams c;
    const float* parameters;  // as the kernel reads them
    float* space;  // # (blocks, block_floats), or null: shared memory
    int64_t block_floats;
    int64_t begin, end;  // steps of this launch
    bool carried, finish;
    int team, chains, threads;  // threads a chain; chains and threads a block
    int slots[8];  // number of each array in a block's space, in the order of `Slot`
    int stride, arrays;  // floats between the chains of an array; number of arrays
    int near;  // float of shared memory from which a block keeps the parameters there, 0: they stay where they are
};

enum Slot { STATE, SLOPE, MOMENTUM, PROPOSAL, PROPOSAL_SLOPE, BEFORE, MEAN, SQUARES };

struct ChainEnergy {
    int together;  // the threads of a block evaluate all its chains together, at least so many; 0: chain by chain
    int eight;  // of such an energy: eight threads share an event of so many elements, a warp longer ones
    unsigned registers;  // bit d: events of d elements have a kernel with a thread a chain
    int64_t (*packed)(const ChainParams&);  // floats of the parameters as the kernel reads them, 0: as they are
    int64_t (*scratch)(const ChainParams&, int chains);  // floats that a block of so many chains needs
    int64_t (*near)(const ChainParams&, int chains);  // floats of its parameters in shared memory
    double (*work)(const ChainParams&);  // operations of one evaluation, roughly
    void (*pack)(const ChainLaunch&, float* out, int64_t count, cudaStream_t);
    void (*run)(const ChainLaunch&, int64_t blocks, int threads, int64_t shared_bytes, cudaStream_t);
};

extern const ChainEnergy gaussian_diagonal_chain, gaussian_dense_chain, mixture_chain, gamma_chain, double_well_chain,
    rosenbrock_chain, funnel_chain, ring_chain, phi_four_chain, logistic_regression_chain, eight_schools_chain, mlp_chain,
    mlp_tf32_chain, mlp_bfloat16_chain;

}  // namespace ebm_fast
