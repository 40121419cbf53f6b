// The divergence guard over a range of chains: sizes, decision, mask and sum of gradient norms of each chain by one thread.
#pragma once
#include "../core/guard.h"
#include "norm.h"

EBM_FAST_CORE_BEGIN

template <class T> constexpr double LIMIT = 3.4028234663852886e38;
template <> constexpr double LIMIT<double> = 1.7976931348623157e308;
template <> constexpr double LIMIT<BFloat16> = 3.3895313892515355e38;
template <> constexpr double LIMIT<Half> = 65504.0;

// A bound on every element: the norm; of float16, whose range the norm of many elements leaves, the largest.
template <class T> inline double size_of(const T*, int64_t, double norm) { return norm; }
inline double size_of(const Half* x, int64_t dim, double norm) {
    if (!(norm - norm == 0.0)) return norm;
    F most{};
    for (int64_t i = 0; i < dim; i += W) {
        const F a = dim - i >= W ? load(x + i) : load_part(x + i, dim - i);
        const F size = (F)((I)a & 0x7FFFFFFF);
        most = size > most ? size : most;
    }
    float largest = 0.0f;
    for (int k = 0; k < W; ++k) largest = most[k] > largest ? most[k] : largest;
    return largest;
}

template <class T>
inline void guard_rows(const GuardParams& p, int64_t begin, int64_t end) {
    using Scalar = typename Storage<T>::Scalar;
    const auto row = [&p](const void* from, int64_t chain) { return static_cast<const T*>(from) + chain * p.dim; };
    const auto number = [](const Coefficient& c, int64_t chain) {
        return c.at ? static_cast<double>(static_cast<const Scalar*>(c.at)[chain * c.stride]) : c.value;
    };
    for (int64_t chain = begin; chain < end; ++chain) {
        bool frozen = p.divergence_step && p.divergence_step[chain] >= 0;
        if (!frozen) {
            const T* grad = row(p.grad, chain);
            const double norm = norm_of(grad, p.dim);
            if (p.divergence_step) {
                const T *x = row(p.x, chain), *momentum = p.momentum ? row(p.momentum, chain) : nullptr;
                const double speed = momentum ? size_of(momentum, p.dim, norm_of(momentum, p.dim)) : 0.0;
                const double reached = reach(p, number(p.step_size, chain), number(p.noise_std, chain), number(p.stretch, chain),
                                             size_of(x, p.dim, norm_of(x, p.dim)), size_of(grad, p.dim, norm), speed);
                frozen = !goes_on(static_cast<const Scalar*>(p.energy)[chain], reached, LIMIT<T>);
                if (frozen) p.divergence_step[chain] = p.step + (p.rng ? p.rng[1] : 0);
            }
            if (p.norm_sum && !frozen) p.norm_sum[chain] += static_cast<Scalar>(norm);
        }
        if (p.active) p.active[chain] = !frozen;
    }
}

inline void guard_range(const GuardParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return guard_rows<float>(p, begin, end);
        case DType::float64: return guard_rows<double>(p, begin, end);
        case DType::bfloat16: return guard_rows<BFloat16>(p, begin, end);
        case DType::float16: return guard_rows<Half>(p, begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
