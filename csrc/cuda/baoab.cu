// Kick, drift, friction with noise, drift: 20 bytes of traffic per float32 element.
#include "../core/baoab.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) baoab_kernel(const BaoabParams p) {
    const Counter key = make_counter(p.stream);
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        if (p.active && !p.active[at.chain]) continue;
        const int64_t from = at.element<WHOLE>(p.dim);
        const int count = WHOLE ? 4 : at.count(p.dim);
        T x[4], q[4], grad[4], sigma[4];
        load4<WHOLE>(static_cast<const T*>(p.x) + from, count, x);
        load4<WHOLE>(static_cast<const T*>(p.momentum) + from, count, q);
        load4<WHOLE>(static_cast<const T*>(p.grad) + from, count, grad);
        load_scale<WHOLE>(p.scale, at.block * int64_t(4), count, sigma);
        uint32_t w[4];
        float z[4];
        words_of(key, at.chain, at.block, w);
        normals_of(w, z);
        const T kick = value_of<T>(p.kick, at.chain), drift = value_of<T>(p.drift, at.chain);
        BaoabCoefficients<T> c;
        c.kicks = p.kicks;
        c.persistence = value_of<T>(p.persistence, at.chain), c.noise_std = value_of<T>(p.noise_std, at.chain);
        for (int k = 0; k < 4; ++k) {
            c.kick = kick * sigma[k], c.drift = drift * sigma[k];
            baoab_update(x[k], q[k], grad[k], T(z[k]), c);
        }
        store4<WHOLE>(static_cast<T*>(p.x) + from, count, x);
        store4<WHOLE>(static_cast<T*>(p.momentum) + from, count, q);
    }
}

template <class T>
void launch(const BaoabParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.momentum) && aligned<T>(p.grad) && aligned<T>(p.scale);
    const auto kernel = whole ? baoab_kernel<T, true> : baoab_kernel<T, false>;
    kernel<<<grid_for(p.chains, p.dim, "baoab_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "baoab_cuda");
}

}  // namespace

void baoab_cuda(const BaoabParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, s) : launch<float>(p, s);
}

}  // namespace ebm_fast
