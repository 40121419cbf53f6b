// Euclidean norm of each chain's event: one warp a chain, or one thread block where events are long. Each thread sums its elements
// in float64 in order, then a fixed tree: the result depends on the event alone.
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) norm_kernel(const NormParams p) {
    const Group<SIZE> group(p.chains);
    const T* x = static_cast<const T*>(p.x) + group.index * p.dim;
    double sum = 0.0;
    for (int64_t i = group.lane * int64_t(4); group.exists && i < p.dim; i += SIZE * 4) {
        typename Storage<T>::Value a[4];
        load4<WHOLE>(x + i, static_cast<int>(p.dim - i < 4 ? p.dim - i : 4), a);
        for (int k = 0; k < 4; ++k) sum = ::fma(double(a[k]), double(a[k]), sum);
    }
    sum = group.sum(sum);
    if (group.leads()) {
        using Out = typename Storage<T>::Value;
        static_cast<Out*>(p.out)[group.index] = static_cast<Out>(::sqrt(sum));
    }
}

template <class T>
void launch(const NormParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x), is_long = p.dim > ONE_WARP;
    const auto kernel = is_long ? (whole ? norm_kernel<T, true, THREADS> : norm_kernel<T, false, THREADS>)
                                : (whole ? norm_kernel<T, true, 32> : norm_kernel<T, false, 32>);
    const unsigned grid = is_long ? grid_of<THREADS>(p.chains, "norm_cuda") : grid_of<32>(p.chains, "norm_cuda");
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "norm_cuda");
}

}  // namespace

void norm_cuda(const NormParams& p, uintptr_t stream) {
    if (p.chains == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("norm_cuda: int32 has no norm");
    }
}

}  // namespace ebm_fast
