// Runs an op on the CPU: the best instruction set of the machine (or the forced one), on `threads` threads.
#pragma once
#include <string>
#include <vector>
#include "../core/chain.h"

namespace ebm_fast {

void noise_cpu(const NoiseParams& params, int threads);
void langevin_cpu(const LangevinParams& params, int threads);
void norm_cpu(const NormParams& params, int threads);
void proposal_cpu(const ProposalParams& params, int threads);
void leapfrog_cpu(const LeapfrogParams& params, int threads);
void metropolis_cpu(const MetropolisParams& params, int threads);
void baoab_cpu(const BaoabParams& params, int threads);
void swap_cpu(const SwapParams& params, int threads);
void moments_cpu(const MomentsParams& params, int threads);
void guard_cpu(const GuardParams& params, int threads);
void perturb_cpu(const PerturbParams& params, int threads);
void randperm_cpu(const RandpermParams& params, int threads);
void gather_cpu(const GatherParams& params, int threads);
void scatter_cpu(const ScatterParams& params, int threads);
void adapt_cpu(const AdaptParams& params, int threads);
void chain_cpu(const ChainParams& params, int threads);
bool chain_in_lanes(EnergyKind kind, int64_t dim);      // whether the lanes hold elements of one chain, else chains
void math_cpu(int function, const float* x, float* y, int64_t n);      // of core/math.h, for tests

std::vector<std::string> available_isas();     // best last
std::string current_isa();
void force_isa(const std::string& name);       // throws std::invalid_argument if this machine lacks it

}  // namespace ebm_fast
