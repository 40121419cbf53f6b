// Noisy copies of data: 8 bytes of traffic per float32 element, 12 with the noise kept.
#include "../core/perturb.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) perturb_kernel(const PerturbParams p) {
    using V = typename Storage<T>::Value;
    const Counter key = make_counter(p.stream);
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        const int64_t to = at.element<WHOLE>(p.dim), e = at.block * int64_t(4);
        const int count = WHOLE ? 4 : at.count(p.dim);
        const int64_t from = p.copies == 1 ? to : at.chain / static_cast<uint32_t>(p.copies) * p.dim + e;
        V y[4], scale[4], z[4];
        load4<WHOLE>(static_cast<const T*>(p.x) + from, count, y);
        load_scale<WHOLE>(p.scale, e, count, scale);
        uint32_t w[4];
        float normal[4];
        words_of(key, at.chain, at.block, w);
        normals_of(w, normal);
        const V sigma = value_of<V>(p.sigma, at.chain);
        for (int k = 0; k < 4; ++k) z[k] = V(normal[k]), y[k] = perturbed(y[k], z[k], sigma * scale[k]);
        store4<WHOLE>(static_cast<T*>(p.out) + to, count, y);
        if (p.noise) store4<WHOLE>(static_cast<T*>(p.noise) + to, count, z);
    }
}

template <class T>
void launch(const PerturbParams& p, cudaStream_t stream) {
    using V = typename Storage<T>::Value;
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.out) && aligned<T>(p.noise) && aligned<T>(p.x) && aligned<V>(p.scale);
    const auto kernel = whole ? perturb_kernel<T, true> : perturb_kernel<T, false>;
    kernel<<<grid_for(p.chains, p.dim, "perturb_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "perturb_cuda");
}

}  // namespace

void perturb_cuda(const PerturbParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("perturb_cuda: int32 takes no noise");
    }
}

}  // namespace ebm_fast
