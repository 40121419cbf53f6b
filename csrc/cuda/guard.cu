// The divergence guard: one warp a chain, or one thread block where events are long. Sizes are summed over the fixed tree of
// groups.cuh, the first thread decides. A frozen chain is not read.
#include "../core/guard.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T> constexpr double LIMIT = 3.4028234663852886e38;
template <> constexpr double LIMIT<double> = 1.7976931348623157e308;
template <> constexpr double LIMIT<__nv_bfloat16> = 3.3895313892515355e38;
template <> constexpr double LIMIT<__half> = 65504.0;
template <class T> constexpr bool NARROW = false;  // whether the norm of many elements leaves the range: see csrc/cpu/guard.h
template <> constexpr bool NARROW<__half> = true;

struct Size {
    double squares = 0.0, largest = 0.0;
};

template <class T, bool WHOLE>
__device__ inline void add(Size& size, const void* from, int64_t at, int count) {
    typename Storage<T>::Value a[4];
    load4<WHOLE>(static_cast<const T*>(from) + at, count, a);
    for (int k = 0; k < 4; ++k) {
        size.squares = ::fma(double(a[k]), double(a[k]), size.squares);
        if constexpr (NARROW<T>) size.largest = ::fmax(size.largest, ::fabs(double(a[k])));
    }
}

template <class T, int SIZE>
__device__ inline double bound_of(const Group<SIZE>& group, const Size& size, double norm) {
    if constexpr (!NARROW<T>) return norm;
    const double largest = group.largest(size.largest);
    return norm - norm == 0.0 ? largest : norm;
}

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) guard_kernel(const GuardParams p) {
    using Value = typename Storage<T>::Value;
    const Group<SIZE> group(p.chains);
    const int64_t chain = group.index;
    bool frozen = group.exists && p.divergence_step && p.divergence_step[chain] >= 0;
    Size x, grad, momentum;
    for (int64_t i = group.lane * int64_t(4); group.exists && !frozen && i < p.dim; i += SIZE * 4) {
        const int64_t at = chain * p.dim + i;
        const int count = WHOLE ? 4 : static_cast<int>(p.dim - i < 4 ? p.dim - i : 4);
        add<T, WHOLE>(grad, p.grad, at, count);
        if (p.divergence_step) add<T, WHOLE>(x, p.x, at, count);
        if (p.divergence_step && p.momentum) add<T, WHOLE>(momentum, p.momentum, at, count);
    }
    const double norm = ::sqrt(group.sum(grad.squares)), slope = bound_of<T>(group, grad, norm);
    const double far = bound_of<T>(group, x, ::sqrt(group.sum(x.squares)));
    const double speed = bound_of<T>(group, momentum, ::sqrt(group.sum(momentum.squares)));
    if (!group.leads()) return;
    if (p.divergence_step && !frozen) {
        const double reached = reach(p, value_of<Value>(p.step_size, chain), value_of<Value>(p.noise_std, chain),
                                     value_of<Value>(p.stretch, chain), far, slope, speed);
        frozen = !goes_on(static_cast<const Value*>(p.energy)[chain], reached, LIMIT<T>);
        if (frozen) p.divergence_step[chain] = p.step + (p.rng ? p.rng[1] : 0);
    }
    if (p.norm_sum && !frozen) p.norm_sum[chain] += static_cast<Value>(norm);
    if (p.active) p.active[chain] = !frozen;
}

template <class T>
void launch(const GuardParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.grad) && aligned<T>(p.momentum);
    const bool is_long = p.dim > ONE_WARP;
    const auto kernel = is_long ? (whole ? guard_kernel<T, true, THREADS> : guard_kernel<T, false, THREADS>)
                                : (whole ? guard_kernel<T, true, 32> : guard_kernel<T, false, 32>);
    const unsigned grid = is_long ? grid_of<THREADS>(p.chains, "guard_cuda") : grid_of<32>(p.chains, "guard_cuda");
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "guard_cuda");
}

}  // namespace

void guard_cuda(const GuardParams& p, uintptr_t stream) {
    if (p.chains == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("guard_cuda: int32 has no norm");
    }
}

}  // namespace ebm_fast
