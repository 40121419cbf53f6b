#include "launch.h"

#include <stdexcept>
#include "kernels.h"
#include "parallel.h"

namespace ebm_fast {
namespace {

std::vector<const CpuKernels*> available() {
    std::vector<const CpuKernels*> found{&baseline_kernels};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        found.push_back(&avx2_kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512_kernels);
#endif
    return found;
}

const CpuKernels*& current() {
    static const CpuKernels* kernels = available().back();
    return kernels;
}

int64_t blocks(int64_t chains, int64_t dim) { return chains * ((dim + 3) / 4); }

}  // namespace

// Grains: below about ten microseconds of work per thread, waking it costs more than it saves.
void noise_cpu(const NoiseParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(blocks(p.chains, p.dim), 4096, 512, threads, [&](int64_t b, int64_t e) { k->noise(p, b, e); });
}

void langevin_cpu(const LangevinParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(blocks(p.chains, p.dim), 4096, 512, threads, [&](int64_t b, int64_t e) { k->langevin(p, b, e); });
}

void norm_cpu(const NormParams& p, int threads) {
    const CpuKernels* k = current();
    const int64_t grain = 65536 / (p.dim > 0 ? p.dim : 1) + 1;
    parallel_for(p.chains, grain, 1, threads, [&](int64_t b, int64_t e) { k->norm(p, b, e); });
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const CpuKernels* k : available()) names.emplace_back(k->isa);
    return names;
}

std::string current_isa() { return current()->isa; }

void force_isa(const std::string& name) {
    std::string known;
    for (const CpuKernels* k : available()) {
        if (name == k->isa) {
            current() = k;
            return;
        }
        known += (known.empty() ? "" : ", ") + std::string(k->isa);
    }
    throw std::invalid_argument("EBM_FAST_CPU_ISA must be one of " + known + " on this machine, got '" + name + "'");
}

}  // namespace ebm_fast
