// Kick and drift: 20 bytes of traffic per float32 element.
#include "../core/leapfrog.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) leapfrog_kernel(const LeapfrogParams p) {
    const bool drifts = p.drift.value != 0.0 || p.drift.at;
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        const int64_t from = at.element<WHOLE>(p.dim);
        const int count = WHOLE ? 4 : at.count(p.dim);
        T q[4], grad[4], sigma[4];
        load4<WHOLE>(static_cast<const T*>(p.momentum) + from, count, q);
        load4<WHOLE>(static_cast<const T*>(p.grad) + from, count, grad);
        load_scale<WHOLE>(p.scale, at.block * int64_t(4), count, sigma);
        const T kick = value_of<T>(p.kick, at.chain);
        for (int k = 0; k < 4; ++k) q[k] = kicked(q[k], grad[k], kick * sigma[k]);
        store4<WHOLE>(static_cast<T*>(p.momentum) + from, count, q);
        if (drifts) {
            T x[4];
            const T drift = value_of<T>(p.drift, at.chain);
            load4<WHOLE>(static_cast<const T*>(p.x) + from, count, x);
            for (int k = 0; k < 4; ++k) x[k] = drifted(x[k], q[k], drift * sigma[k]);
            store4<WHOLE>(static_cast<T*>(p.x) + from, count, x);
        }
    }
}

template <class T>
void launch(const LeapfrogParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.momentum) && aligned<T>(p.grad) && aligned<T>(p.scale);
    const auto kernel = whole ? leapfrog_kernel<T, true> : leapfrog_kernel<T, false>;
    kernel<<<grid_for(p.chains, p.dim, "leapfrog_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "leapfrog_cuda");
}

}  // namespace

void leapfrog_cuda(const LeapfrogParams& params, uintptr_t stream) {
    LeapfrogParams p = params;
    if (p.chains * p.dim == 0) return;
    if (!p.scale && !p.kick.stride && !p.drift.stride && p.chains * p.dim <= MOST_DIM) p.dim *= p.chains, p.chains = 1;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, s) : launch<float>(p, s);
}

}  // namespace ebm_fast
