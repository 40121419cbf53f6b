// The Langevin op: 12 bytes of traffic per float32 element (16 or 20 with a velocity), noise and update in registers.
#include <cmath>
#include "../core/value.h"

namespace ebm_fast {
namespace {

// Preferred by core/langevin.h to its own compare and select, which are twice the instructions; a NaN stays a NaN here too.
HD inline float clamp(float a, float lo, float hi) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("max.NaN.f32 %0, %0, %1; min.NaN.f32 %0, %0, %2;" : "+f"(a) : "f"(lo), "f"(hi));
    return a;
#else
    return a < lo ? lo : a > hi ? hi : a;
#endif
}

}  // namespace
}  // namespace ebm_fast

#include "../core/langevin.h"
#include "blocks.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

// The commonest forms have kernels of their own, since the noise alone takes a GPU nearly as long as its memory: PLAIN, of x, gradient
// and noise, and CLIPPED, with bounds on the gradient and on what comes out. The other options are uniform branches of the general one.
enum Form { GENERAL, PLAIN, CLIPPED };

template <class T, bool WHOLE, Form FORM>
__global__ void __launch_bounds__(THREADS)
    langevin_kernel(const LangevinParams p, LangevinCoefficients<typename Storage<T>::Value> c) {
    using V = typename Storage<T>::Value;
    constexpr bool SIMPLE = FORM != GENERAL;
    const Counter key = make_counter(p.stream);
    const bool noisy = SIMPLE || c.noise_std != V(0) || p.noise_std_at;
    for (Blocks at(p.chains, p.dim); at.inside(); at.next()) {
        if (!SIMPLE && p.active && !p.active[at.chain]) continue;
        const int64_t from = at.element<WHOLE>(p.dim);
        const int count = WHOLE ? 4 : at.count(p.dim);
        V x[4], grad[4], velocity[4];
        float z[4] = {};
        load4<WHOLE>(static_cast<const T*>(p.x) + from, count, x);
        if (SIMPLE || p.grad) load4<WHOLE>(static_cast<const T*>(p.grad) + from, count, grad);
        if (!SIMPLE && p.velocity) load4<WHOLE>(static_cast<const T*>(p.velocity) + from, count, velocity);
        if (noisy) {
            uint32_t w[4];
            words_of(key, at.chain, at.block, w);
            normals_of(w, z);
        }
        if constexpr (SIMPLE) {
            for (int k = 0; k < 4; ++k) {
                // As the general form: an infinite state times the prior's precision of 0 is no number, and is not repaired.
                const V slope = fma(V(0), x[k], FORM == CLIPPED ? clamp(grad[k], -c.grad_clip, c.grad_clip) : grad[k]);
                x[k] = fma(c.noise_std, V(z[k]), fma(-c.step_size, slope, x[k]));
                if (FORM == CLIPPED) x[k] = clamp(x[k], c.noise_lo, c.noise_hi);
            }
        } else {
            if (p.step_size_at) c.step_size = static_cast<const V*>(p.step_size_at)[at.chain * p.step_size_stride];
            if (p.noise_std_at) c.noise_std = static_cast<const V*>(p.noise_std_at)[at.chain * p.noise_std_stride];
            if (p.grad_scale) c.grad_scale = static_cast<const V*>(p.grad_scale)[at.chain];
            V sigma[4] = {V(1), V(1), V(1), V(1)};
            if (p.scale) load4<WHOLE>(static_cast<const V*>(p.scale) + at.block * int64_t(4), count, sigma);
            for (int k = 0; k < 4; ++k) {
                LangevinCoefficients<V> here = c;
                here.step_size = c.step_size * sigma[k] * sigma[k], here.noise_std = c.noise_std * sigma[k];
                x[k] = !p.grad      ? langevin_noise(x[k], V(z[k]), here)
                       : p.velocity ? langevin_update_heavy_ball(x[k], grad[k], V(z[k]), velocity[k], here)
                                    : langevin_update(x[k], grad[k], V(z[k]), here);
            }
            if (p.grad && p.velocity) store4<WHOLE>(static_cast<T*>(p.velocity) + from, count, velocity);
        }
        store4<WHOLE>(static_cast<T*>(p.x) + from, count, x);
    }
}

template <class T>
void launch(const LangevinParams& p, cudaStream_t stream) {
    using V = typename Storage<T>::Value;
    constexpr double inf = HUGE_VAL;
    const LangevinCoefficients<V> c = {V(p.step_size), V(p.noise_std), V(1),         V(p.momentum), V(p.prior_precision),
                                       V(p.grad_clip), V(p.step_lo),   V(p.step_hi), V(p.noise_lo), V(p.noise_hi)};
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.grad) && aligned<T>(p.velocity) && aligned<V>(p.scale);
    const bool simple = p.grad && !p.velocity && !p.step_size_at && !p.noise_std_at && !p.grad_scale && !p.active && !p.scale &&
                        p.noise_std != 0.0 && p.prior_precision == 0.0 && p.step_lo == -inf && p.step_hi == inf;
    const bool bounded = p.grad_clip < inf || p.noise_lo > -inf || p.noise_hi < inf;
    const auto kernel = !whole              ? langevin_kernel<T, false, GENERAL>
                        : simple && bounded ? langevin_kernel<T, true, CLIPPED>
                        : simple            ? langevin_kernel<T, true, PLAIN>
                                            : langevin_kernel<T, true, GENERAL>;
    kernel<<<grid_for(p.chains, p.dim, "langevin_cuda"), THREADS, 0, stream>>>(p, c);
    check(cudaGetLastError(), "langevin_cuda");
}

}  // namespace

void langevin_cuda(const LangevinParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("langevin_cuda: int32 is no state");
    }
}

}  // namespace ebm_fast
