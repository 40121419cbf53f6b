// Replica exchange: one group of threads a pair; its first thread decides.
#include "../core/swap.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T>
__device__ inline void exchange(T& a, T& b) {
    const T first = a;
    a = b;
    b = first;
}

template <bool WHOLE, class T>
__device__ inline void exchange_blocks(T* here, int64_t dim, int count) {
    T a[4], b[4];
    load4<WHOLE>(here, count, a);
    load4<WHOLE>(here + dim, count, b);
    store4<WHOLE>(here, count, b);
    store4<WHOLE>(here + dim, count, a);
}

template <class T>
__device__ inline bool settle(const SwapParams& p, int64_t chain, int64_t j) {
    const int64_t at = chain * p.replicas + j;
    T* energy = static_cast<T*>(p.energy) + at;
    const Counter key = make_counter(p.stream);
    uint32_t w[4];
    words_of(key, static_cast<uint32_t>(chain), static_cast<uint32_t>(j / 4), w);
    const uint32_t word = j % 4 == 0 ? w[0] : j % 4 == 1 ? w[1] : j % 4 == 2 ? w[2] : w[3];
    const float log_u = log_unit<float, int32_t>(word_to_uniform<float, uint32_t>(word));
    const SwapDecision decision = decide_swap(energy[0], energy[1], p.betas[j], p.betas[j + 1], log_u);
    if (p.counters) count(decision, p.counters + 2 * (chain * (p.replicas - 1) + j));
    if (decision.swapped) {
        exchange(energy[0], energy[1]);
        if (p.labels) exchange(p.labels[at], p.labels[at + 1]);
    }
    return decision.swapped;
}

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) swap_kernel(const SwapParams p, const int64_t pairs) {
    const Group<SIZE> group(p.chains * pairs);
    const int64_t chain = group.index / pairs, j = group.index % pairs * 2 + p.parity;
    if (!group.broadcast(group.leads() && settle<T>(p, chain, j)) || !group.exists) return;
    const int64_t first = (chain * p.replicas + j) * p.dim;
#pragma unroll 1  // or registers spill
    for (int64_t i = group.lane * int64_t(4); i < p.dim; i += SIZE * 4) {
        const int count = WHOLE ? 4 : static_cast<int>(p.dim - i < 4 ? p.dim - i : 4);
        exchange_blocks<WHOLE>(static_cast<T*>(p.x) + first + i, p.dim, count);
        if (p.grad) exchange_blocks<WHOLE>(static_cast<T*>(p.grad) + first + i, p.dim, count);
    }
}

template <class T, bool WHOLE>
void launch(const SwapParams& p, int64_t pairs, cudaStream_t stream) {
    constexpr char name[] = "swap_cuda";
    const int64_t groups = p.chains * pairs;
    auto kernel = swap_kernel<T, WHOLE, THREADS>;
    unsigned grid = 0;
    if (p.dim <= ONE_THREAD) kernel = swap_kernel<T, false, 1>, grid = grid_of<1>(groups, name);
    else if (p.dim <= EIGHT_THREADS) kernel = swap_kernel<T, WHOLE, 8>, grid = grid_of<8>(groups, name);
    else if (p.dim <= ONE_WARP) kernel = swap_kernel<T, WHOLE, 32>, grid = grid_of<32>(groups, name);
    else grid = grid_of<THREADS>(groups, name);
    kernel<<<grid, THREADS, 0, stream>>>(p, pairs);
    check(cudaGetLastError(), name);
}

template <class T>
void launch(const SwapParams& p, int64_t pairs, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.grad);
    whole ? launch<T, true>(p, pairs, stream) : launch<T, false>(p, pairs, stream);
}

}  // namespace

void swap_cuda(const SwapParams& p, uintptr_t stream) {
    const int64_t pairs = (p.replicas - p.parity) / 2;
    if (p.chains == 0 || pairs <= 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, pairs, s) : launch<float>(p, pairs, s);
}

}  // namespace ebm_fast
