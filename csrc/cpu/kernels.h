// What each instruction set offers: every op over a range of its units (blocks of the noise sequence, chains, or tiles of long
// chains; see tiles.h), and those that sum over chains also in steps over the segments of one long chain.
#pragma once
#include "../core/params.h"

namespace ebm_fast {

struct CpuKernels {
    const char* isa;
    void (*noise)(const NoiseParams&, int64_t begin, int64_t end);
    void (*langevin)(const LangevinParams&, int64_t begin, int64_t end);
    void (*norm)(const NormParams&, int64_t begin, int64_t end);
    void (*proposal)(const ProposalParams&, int64_t begin, int64_t end);
    void (*proposal_segments)(const ProposalParams&, int64_t chain, int64_t begin, int64_t end, double* sums);
    void (*leapfrog)(const LeapfrogParams&, int64_t begin, int64_t end);
    void (*metropolis)(const MetropolisParams&, int64_t begin, int64_t end);
    void (*metropolis_segments)(const MetropolisParams&, int64_t chain, int64_t begin, int64_t end, double* sums);
    bool (*metropolis_decide)(const MetropolisParams&, int64_t chain, double sum);
    void (*metropolis_select)(const MetropolisParams&, int64_t chain, bool accepted, int64_t begin, int64_t end);
    void (*baoab)(const BaoabParams&, int64_t begin, int64_t end);
    void (*swap)(const SwapParams&, int64_t begin, int64_t end);
    void (*moments)(const MomentsParams&, int64_t begin, int64_t end);
    void (*guard)(const GuardParams&, int64_t begin, int64_t end);
    void (*perturb)(const PerturbParams&, int64_t begin, int64_t end);
    void (*randperm)(const RandpermParams&, int64_t begin, int64_t end);
    void (*gather)(const GatherParams&, int64_t begin, int64_t end);
    void (*scatter)(const ScatterParams&, int64_t begin, int64_t end);
    void (*adapt_weights)(const AdaptParams&, double* weight, int64_t begin, int64_t end);
    double (*adapt_sum)(const double* values, int64_t n);
    void (*adapt_centres)(const AdaptParams&, const double* weight, double total, double* centre, int64_t begin, int64_t end);
    void (*adapt_slopes)(const AdaptParams&, const double* centre, double* weight, int64_t begin, int64_t end);
    void (*adapt_step_sizes)(const AdaptParams&);
    void (*adapt_moments)(const AdaptParams&, int64_t begin, int64_t end);
};

extern const CpuKernels baseline_kernels, avx2_kernels, avx512_kernels;

}  // namespace ebm_fast
