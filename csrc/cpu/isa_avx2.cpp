#define EBM_FAST_ISA avx2
#include "isa.inl"
