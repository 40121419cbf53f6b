// Cuts the chains into tiles and hands them to the threads; a thread keeps its workspace from call to call.
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include "chain_kernels.h"
#include "launch.h"
#include "parallel.h"

namespace ebm_fast {
namespace {

const ChainKernels& kernels() {
    const std::string isa = current_isa();
#if defined(__x86_64__)
    if (isa == "avx512" || isa == "avx512_bf16") return avx512_chain;
    if (isa == "avx2") return avx2_chain;
#endif
    return baseline_chain;
}

const MlpKernels* mlp_kernels([[maybe_unused]] const ChainParams& c) {
#if defined(__x86_64__)
    if (c.energy_kind == EnergyKind::mlp && c.precision == static_cast<int>(Precision::bfloat16) &&
        current_isa() == "avx512_bf16")
        return &avx512_bf16_mlp;
#endif
    return nullptr;
}

struct Workspace {
    void* at = nullptr;
    int64_t bytes = 0;
    ~Workspace() { std::free(at); }
    void* of(int64_t wanted) {
        if (wanted > bytes) {
            std::free(at);
            bytes = (wanted + 4095) / 4096 * 4096;
            at = std::aligned_alloc(128, static_cast<size_t>(bytes));
            if (!at) bytes = 0;
        }
        return at;
    }
};
thread_local Workspace workspace, packing;

constexpr int64_t LEAST_WORK = 8192;  // of a thread

}  // namespace

void chain_cpu(const ChainParams& c, int threads) {
    const ChainKernels& k = kernels();
    const MlpKernels* const mlp = mlp_kernels(c);
    const int64_t lanes = k.lanes, vectors = (c.chains + lanes - 1) / lanes;
    const int most = k.most_groups(c);
    int groups = most ? 1 : 0;                     // as wide as leaves every thread a tile, two where there is plenty
    while (groups < most && vectors >= 2 * groups * threads) groups *= 2;
    const int64_t tile = groups ? lanes * groups : 1, tiles = (c.chains + tile - 1) / tile, bytes = k.space(c, mlp, groups);
    const int64_t packed = mlp ? mlp->packed_size(c) : k.packed_size(c);
    float* const parameters = packed ? static_cast<float*>(packing.of(packed * 4)) : nullptr;
    bool failed = packed && !parameters;
    if (failed) throw std::bad_alloc();
    if (packed) (mlp ? mlp->pack : k.pack)(c, parameters);
    // Multiply-adds of a tile: what lasts but a few microseconds stays on one thread, since to wake another takes longer.
    // Packed parameters are read in each evaluation.
    const int64_t evaluations = c.transition == TransitionKind::hmc ? c.leapfrogs : 1;
    const int64_t work = c.steps * evaluations * (groups ? (c.dim + 8 + packed) * groups : c.dim / lanes + 8);
    const int64_t grain = (LEAST_WORK + work - 1) / work;
    parallel_for(tiles, grain, 1, threads, [&](int64_t begin, int64_t end) {
        void* space = workspace.of(bytes);
        if (space) k.run(c, mlp, groups, parameters, begin, end, space);
        else failed = true;
    });
    if (failed) throw std::bad_alloc();
}

bool chain_in_lanes(EnergyKind kind, int64_t dim) { return kernels().in_lanes(kind, dim); }

void math_cpu(int function, const float* x, float* y, int64_t n) { kernels().math(function, x, y, n); }

}  // namespace ebm_fast
