// Streaming moments: 20 bytes of traffic per float32 element.
#include "../core/moments.h"
#include "blocks.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) moments_kernel(const MomentsParams p) {
    const T one_over_count = T(1.0 / double(p.count_at ? *p.count_at : p.count));
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        const int64_t from = at.element<WHOLE>(p.dim);
        const int count = WHOLE ? 4 : at.count(p.dim);
        T x[4], mean[4], squares[4];
        load4<WHOLE>(static_cast<const T*>(p.x) + from, count, x);
        load4<WHOLE>(static_cast<const T*>(p.mean) + from, count, mean);
        load4<WHOLE>(static_cast<const T*>(p.squares) + from, count, squares);
        for (int k = 0; k < 4; ++k) welford(x[k], mean[k], squares[k], one_over_count);
        store4<WHOLE>(static_cast<T*>(p.mean) + from, count, mean);
        store4<WHOLE>(static_cast<T*>(p.squares) + from, count, squares);
    }
}

template <class T>
void launch(const MomentsParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.mean) && aligned<T>(p.squares);
    const auto kernel = whole ? moments_kernel<T, true> : moments_kernel<T, false>;
    kernel<<<grid_for(p.chains, p.dim, "moments_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "moments_cuda");
}

}  // namespace

void moments_cuda(const MomentsParams& params, uintptr_t stream) {
    MomentsParams p = params;
    if (p.chains * p.dim == 0) return;
    if (p.chains * p.dim <= MOST_DIM) p.dim *= p.chains, p.chains = 1;      // chains make no difference
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, s) : launch<float>(p, s);
}

}  // namespace ebm_fast
