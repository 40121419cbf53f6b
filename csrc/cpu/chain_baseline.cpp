#define EBM_FAST_ISA baseline
#include "chain.inl"
