#define EBM_FAST_ISA avx2
#include "chain.inl"
