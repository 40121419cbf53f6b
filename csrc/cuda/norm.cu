// Euclidean norm of each chain's event: one warp a chain, or one thread block where events are long. Each thread sums its elements
// in float64 in order, then a fixed tree: the result depends on the event alone.
#include "blocks.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

__device__ inline double warp_sum(double a) {
    for (int offset = 16; offset > 0; offset /= 2) a += __shfl_xor_sync(0xFFFFFFFFu, a, offset);
    return a;
}

template <class T, bool WHOLE, int WARPS>  // WARPS warps share a chain
__global__ void __launch_bounds__(THREADS) norm_kernel(const NormParams p) {
    constexpr int GROUP = 32 * WARPS;
    const int64_t chain = int64_t(blockIdx.x) * (THREADS / GROUP) + threadIdx.x / GROUP;
    if (chain >= p.chains) return;  // whole warps leave, and no barrier follows unless all stay
    const T* x = static_cast<const T*>(p.x) + chain * p.dim;
    double sum = 0.0;
    for (int64_t i = int64_t(threadIdx.x % GROUP) * 4; i < p.dim; i += GROUP * 4) {
        typename Storage<T>::Value a[4];
        load4<WHOLE>(x + i, static_cast<int>(p.dim - i < 4 ? p.dim - i : 4), a);
        for (int k = 0; k < 4; ++k) sum = ::fma(double(a[k]), double(a[k]), sum);
    }
    sum = warp_sum(sum);
    if constexpr (WARPS > 1) {
        __shared__ double part[WARPS];
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = 0.0;
        for (int k = 0; k < WARPS; ++k) sum += part[k];
    }
    if (threadIdx.x % GROUP == 0) {
        using Out = typename Storage<T>::Value;
        static_cast<Out*>(p.out)[chain] = static_cast<Out>(::sqrt(sum));
    }
}

template <class T>
void launch(const NormParams& p, cudaStream_t stream) {
    constexpr int ALL = THREADS / 32;
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x), is_long = p.dim > 4096;
    const auto kernel = is_long ? (whole ? norm_kernel<T, true, ALL> : norm_kernel<T, false, ALL>)
                                : (whole ? norm_kernel<T, true, 1> : norm_kernel<T, false, 1>);
    const int64_t grid = is_long ? p.chains : (p.chains + ALL - 1) / ALL;
    if (grid > 0x7FFFFFFF) throw std::runtime_error("norm_cuda: at most 2^31 - 1 thread blocks, so fewer chains");
    kernel<<<static_cast<unsigned>(grid), THREADS, 0, stream>>>(p);
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
