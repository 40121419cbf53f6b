// One Langevin update of one element (or one lane vector of elements), in the order: gradient step, clamp, noise, clamp.
// V is float, double, or a lane vector of either.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V>
struct LangevinCoefficients {
    V step_size, noise_std, grad_scale, momentum, prior_precision, grad_clip, step_lo, step_hi, noise_lo, noise_hi;
};

// As torch.clamp: a NaN stays a NaN.
template <class V>
HD inline V clamp(V a, V lo, V hi) {
    a = a < lo ? lo : a;
    return a > hi ? hi : a;
}

template <class V>
HD inline V langevin_gradient(V x, V grad, const LangevinCoefficients<V>& c) {
    return fma(c.prior_precision, x, c.grad_scale * clamp(grad, -c.grad_clip, c.grad_clip));
}

template <class V>
HD inline V langevin_noise(V y, V z, const LangevinCoefficients<V>& c) {
    return clamp(fma(c.noise_std, z, clamp(y, c.step_lo, c.step_hi)), c.noise_lo, c.noise_hi);
}

template <class V>
HD inline V langevin_update(V x, V grad, V z, const LangevinCoefficients<V>& c) {
    return langevin_noise(fma(-c.step_size, langevin_gradient(x, grad, c), x), z, c);
}

template <class V>
HD inline V langevin_update_heavy_ball(V x, V grad, V z, V& velocity, const LangevinCoefficients<V>& c) {
    velocity = fma(-c.step_size, langevin_gradient(x, grad, c), c.momentum * velocity);
    return langevin_noise(x + velocity, z, c);
}

EBM_FAST_CORE_END
