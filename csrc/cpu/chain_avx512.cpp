#define EBM_FAST_ISA avx512
#include "chain.inl"
