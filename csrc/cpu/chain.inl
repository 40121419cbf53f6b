// The whole-chain kernels of one instruction set: chain_*.cpp defines EBM_FAST_ISA and is compiled with its flags.
#include "chain_kernels.h"
#include "chain.h"

#define EBM_FAST_JOIN_(a, b) a##b
#define EBM_FAST_JOIN(a, b) EBM_FAST_JOIN_(a, b)

const ebm_fast::ChainKernels ebm_fast::EBM_FAST_JOIN(EBM_FAST_ISA, _chain) = {
    ebm_fast::W,           ebm_fast::in_lanes,    ebm_fast::most_groups, ebm_fast::packed_size, ebm_fast::pack_parameters,
    ebm_fast::chain_space, ebm_fast::chain_range, ebm_fast::math_range};
