// Rows written back to a buffer where they are finite: read twice (the second time from the cache) and written once.
#include "../core/gather.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) scatter_kernel(const ScatterParams p) {
    using V = typename Storage<T>::Value;
    const Group<SIZE> group(p.chains);
    const T* x = static_cast<const T*>(p.x) + group.index * p.dim;
    double bad = 0.0;
    for (int64_t i = group.lane * int64_t(4); group.exists && i < p.dim; i += SIZE * 4) {
        V a[4];
        load4<WHOLE>(x + i, static_cast<int>(p.dim - i < 4 ? p.dim - i : 4), a);
        for (int k = 0; k < 4; ++k) bad += not_finite(a[k]) == V(0) ? 0.0 : 1.0;
    }
    bad = group.sum(bad);
    if (!group.exists || bad != 0.0) return;
    const int64_t slot = p.slots[group.index];
    if (slot < 0 || slot >= p.size) return;
    T* target = static_cast<T*>(p.target) + slot * p.dim;
    for (int64_t i = group.lane * int64_t(4); i < p.dim; i += SIZE * 4) {
        const int count = WHOLE ? 4 : static_cast<int>(p.dim - i < 4 ? p.dim - i : 4);
        V a[4];
        load4<WHOLE>(x + i, count, a);
        store4<WHOLE>(target + i, count, a);
    }
}

template <class T>
void launch(const ScatterParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.target), is_long = p.dim > ONE_WARP / 4;
    const auto kernel = is_long ? (whole ? scatter_kernel<T, true, THREADS> : scatter_kernel<T, false, THREADS>)
                                : (whole ? scatter_kernel<T, true, 32> : scatter_kernel<T, false, 32>);
    const unsigned grid = is_long ? grid_of<THREADS>(p.chains, "scatter_cuda") : grid_of<32>(p.chains, "scatter_cuda");
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "scatter_cuda");
}

}  // namespace

void scatter_cuda(const ScatterParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("scatter_cuda: int32 is no state");
    }
}

}  // namespace ebm_fast
