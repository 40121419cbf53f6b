#define EBM_FAST_ISA baseline
#include "isa.inl"
