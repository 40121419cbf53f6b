// Core headers are compiled several times in one process: once per CPU instruction set and once by nvcc. Their contents
// sit in an anonymous namespace, or the linker could keep the AVX-512 copy of an inline function for everybody.
#pragma once
#include <cstdint>
#include "params.h"

#if defined(__CUDACC__)
#define HD __host__ __device__
#define EBM_FAST_INLINE inline
#define EBM_FAST_UNROLL _Pragma("unroll")
#define EBM_FAST_UNROLL_EVENT _Pragma("unroll")
#else
#define HD
#define EBM_FAST_INLINE inline __attribute__((always_inline))      // a call would push a dozen registers of lanes
#define EBM_FAST_UNROLL _Pragma("GCC unroll 16")
#define EBM_FAST_UNROLL_EVENT                                      // events are of any length
#endif

#define EBM_FAST_CORE_BEGIN \
    namespace ebm_fast { \
    namespace {
#define EBM_FAST_CORE_END \
    } \
    }
