// Members of random permutations: a thread each.
#include "../core/randperm.h"
#include "blocks.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

__global__ void __launch_bounds__(THREADS) randperm_kernel(const RandpermParams p) {
    const Counter key = make_counter(p.stream);
    const uint32_t size = static_cast<uint32_t>(p.size), a = static_cast<uint32_t>(p.across), b = (size + a - 1) / a;
    for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < p.chains; i += int64_t(gridDim.x) * THREADS) {
        const int64_t group = p.group ? p.group[i] : 0, index = p.index ? p.index[i] : i;
        // Before the keys take registers: a 64-bit division is a long subroutine.
        const bool small = static_cast<uint64_t>(index) >> 32 == 0;
        const uint32_t start =
            small ? static_cast<uint32_t>(index) % size : static_cast<uint32_t>(static_cast<uint64_t>(index) % size);
        uint32_t keys[ROUNDS];
        for (int k = 0; k < ROUNDS / 4; ++k) {
            uint32_t w[4];
            words_of(key, static_cast<uint32_t>(group), k, w);
            for (int j = 0; j < 4; ++j) keys[4 * k + j] = w[j];
        }
        p.out[i] = group * p.size + permuted(start, keys, size, a, b);
    }
}

void launch(const RandpermParams& p, cudaStream_t stream) {
    const auto kernel = randperm_kernel;
    kernel<<<grid_for(p.chains, 1, "randperm_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "randperm_cuda");
}

}  // namespace

void randperm_cuda(const RandpermParams& p, uintptr_t stream) {
    if (p.chains == 0) return;
    launch(p, reinterpret_cast<cudaStream_t>(stream));
}

}  // namespace ebm_fast
