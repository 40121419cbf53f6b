// Runs an op on the current CUDA device, on `stream` (a cudaStream_t); returns at once, allocates nothing, never synchronises.
// Throws std::runtime_error with CUDA's words where the launch fails.
#pragma once
#include "../core/chain.h"

namespace ebm_fast {

void noise_cuda(const NoiseParams& params, uintptr_t stream);
void langevin_cuda(const LangevinParams& params, uintptr_t stream);
void norm_cuda(const NormParams& params, uintptr_t stream);
void proposal_cuda(const ProposalParams& params, uintptr_t stream);
void leapfrog_cuda(const LeapfrogParams& params, uintptr_t stream);
void metropolis_cuda(const MetropolisParams& params, uintptr_t stream);
void baoab_cuda(const BaoabParams& params, uintptr_t stream);
void swap_cuda(const SwapParams& params, uintptr_t stream);
void moments_cuda(const MomentsParams& params, uintptr_t stream);
void guard_cuda(const GuardParams& params, uintptr_t stream);
void perturb_cuda(const PerturbParams& params, uintptr_t stream);
void randperm_cuda(const RandpermParams& params, uintptr_t stream);
void gather_cuda(const GatherParams& params, uintptr_t stream);
void scatter_cuda(const ScatterParams& params, uintptr_t stream);
void adapt_cuda(const AdaptParams& params, uintptr_t stream);

// A run of steps may take several launches. `workspace`: device memory of as many bytes as chain_cuda_space says, at a multiple of 256.
struct CudaPlace {
    uintptr_t workspace, stream;
};
int64_t chain_cuda_space(const ChainParams& params);
void chain_cuda(const ChainParams& params, CudaPlace place);
void force_chain_steps(int64_t most);  // for tests: at most so many steps a launch; 0: as many as fit the time

}  // namespace ebm_fast
