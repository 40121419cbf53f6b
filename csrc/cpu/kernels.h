// What each instruction set offers: every op over a range of its units (blocks of the noise sequence, or chains).
#pragma once
#include "../core/params.h"

namespace ebm_fast {

struct CpuKernels {
    const char* isa;
    void (*noise)(const NoiseParams&, int64_t begin, int64_t end);
    void (*langevin)(const LangevinParams&, int64_t begin, int64_t end);
    void (*norm)(const NormParams&, int64_t begin, int64_t end);
};

extern const CpuKernels baseline_kernels, avx2_kernels, avx512_kernels;

}  // namespace ebm_fast
