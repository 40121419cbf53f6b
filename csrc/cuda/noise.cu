// Noise by counter: raw words, uniforms, normals and signs.
#include <type_traits>
#include "blocks.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

__device__ inline void values_of(NoiseKind kind, const uint32_t (&w)[4], float (&out)[4]) {
    if (kind == NoiseKind::normal) return normals_of(w, out);
    for (int k = 0; k < 4; ++k) {
        out[k] = kind == NoiseKind::uniform ? word_to_uniform<float, uint32_t>(w[k])
                                            : bits_to_float(to_signed((w[k] & 0x80000000u) | 0x3F800000u));
    }
}

template <class T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) noise_kernel(const NoiseParams p) {
    const Counter key = make_counter(p.stream);
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        T* out = static_cast<T*>(p.out) + at.element<WHOLE>(p.dim);
        const int count = WHOLE ? 4 : at.count(p.dim);
        uint32_t w[4];
        words_of(key, at.chain, at.block, w);
        if constexpr (std::is_same_v<T, int32_t>) {
            store4<WHOLE>(out, count, w);
        } else {
            float values[4];
            values_of(p.kind, w, values);
            store4<WHOLE>(out, count, values);
        }
    }
}

template <class T>
void launch(const NoiseParams& p, cudaStream_t stream) {
    const auto kernel = p.dim % 4 == 0 && aligned<T>(p.out) ? noise_kernel<T, true> : noise_kernel<T, false>;
    kernel<<<grid_for(p.chains, p.dim, "noise_cuda"), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "noise_cuda");
}

}  // namespace

void noise_cuda(const NoiseParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::int32: return launch<int32_t>(p, s);
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
    }
}

}  // namespace ebm_fast
