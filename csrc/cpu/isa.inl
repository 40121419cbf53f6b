// The body of every instruction set's translation unit: isa_*.cpp defines EBM_FAST_ISA and is compiled with its flags.
#include "adapt.h"
#include "baoab.h"
#include "gather.h"
#include "guard.h"
#include "kernels.h"
#include "langevin.h"
#include "leapfrog.h"
#include "metropolis.h"
#include "moments.h"
#include "noise.h"
#include "norm.h"
#include "perturb.h"
#include "proposal.h"
#include "randperm.h"
#include "scatter.h"
#include "swap.h"

#define EBM_FAST_JOIN_(a, b) a##b
#define EBM_FAST_JOIN(a, b) EBM_FAST_JOIN_(a, b)
#define EBM_FAST_NAME_(a) #a
#define EBM_FAST_NAME(a) EBM_FAST_NAME_(a)

const ebm_fast::CpuKernels ebm_fast::EBM_FAST_JOIN(EBM_FAST_ISA, _kernels) = {
    EBM_FAST_NAME(EBM_FAST_ISA),   ebm_fast::noise_range,       ebm_fast::langevin_range,    ebm_fast::norm_range,
    ebm_fast::proposal_range,      ebm_fast::proposal_segments, ebm_fast::leapfrog_range,    ebm_fast::metropolis_range,
    ebm_fast::metropolis_segments, ebm_fast::metropolis_decide, ebm_fast::metropolis_select, ebm_fast::baoab_range,
    ebm_fast::swap_range,          ebm_fast::moments_range,     ebm_fast::guard_range,       ebm_fast::perturb_range,
    ebm_fast::randperm_range,      ebm_fast::gather_range,      ebm_fast::scatter_range,     ebm_fast::adapt_weights,
    ebm_fast::adapt_sum,           ebm_fast::adapt_centres,     ebm_fast::adapt_slopes,      ebm_fast::adapt_step_sizes,
    ebm_fast::adapt_moments,
};
