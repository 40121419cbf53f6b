// The divergence guard's bound on a chain's next state, in float64 on the CPU and in a CUDA thread.
#pragma once
#include "macros.h"

EBM_FAST_CORE_BEGIN

// |x'| <= (1 + a |p|) |x| + a |g| + |m| |v| + 6.77 n stretch with a = s stretch^2 of Langevin; of BAOAB, with e = s stretch,
// |x| + e (|v| + e |g| + 6.77 n). x, slope, speed: sizes of state, gradient and momentum; what passes cannot overflow.
HD inline double reach(const GuardParams& p, double s, double noise_std, double stretch, double x, double slope, double speed) {
    constexpr double INFINITE = __builtin_inf(), LARGEST_NORMAL = 6.77;      // sqrt(66 ln 2), see normal.h
    const double noise = LARGEST_NORMAL * noise_std;
    if (p.grad_clip < INFINITE) {
        const double most = p.grad_clip * __builtin_sqrt(static_cast<double>(p.dim));
        slope = slope > most ? most : slope;
    } else if (p.grad_clip_norm < INFINITE && slope < INFINITE) {
        slope = slope > p.grad_clip_norm ? p.grad_clip_norm : slope;
    }
    if (p.kinetic) return x + s * stretch * (speed + s * stretch * slope + noise);
    const double area = s * stretch * stretch;
    return x * (1.0 + area * __builtin_fabs(p.prior_precision)) + area * slope + __builtin_fabs(p.heavy_ball) * speed +
           stretch * noise;
}

HD inline bool goes_on(double energy, double reached, double limit) { return energy - energy == 0.0 && reached <= limit; }

EBM_FAST_CORE_END
