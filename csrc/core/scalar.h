// The value types of a CUDA thread; the operations are those of lanes.h.
#pragma once
#include <cstring>
#include "macros.h"

EBM_FAST_CORE_BEGIN

template <class V, class S> HD inline V broadcast(S a) { return static_cast<V>(a); }
HD inline int32_t to_signed(uint32_t a) { return static_cast<int32_t>(a); }
HD inline float to_float(int32_t a) { return static_cast<float>(a); }
HD inline float to_float(uint32_t a) { return static_cast<float>(a); }
HD inline int32_t float_to_bits(float a) {
    int32_t b;
    memcpy(&b, &a, 4);
    return b;
}
HD inline float bits_to_float(int32_t a) {
    float b;
    memcpy(&b, &a, 4);
    return b;
}
HD inline float flip_sign(float a, int32_t sign_bit) { return bits_to_float(float_to_bits(a) ^ sign_bit); }
HD inline float select(bool mask, float a, float b) { return mask ? a : b; }
HD inline float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
HD inline double fma(double a, double b, double c) { return ::fma(a, b, c); }
// a / b for b in [1, 2^60] and |a| < 2^60, to half a unit in the last place or little more
HD inline float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));  // the general division has a branch for every range
    const float q = a * r;
    return ::fmaf(::fmaf(-q, b, a), r, q);
#else
    return a / b;
#endif
}
HD inline double quotient(double a, double b) { return a / b; }
HD inline float sqrt(float a) { return ::sqrtf(a); }
HD inline float larger(float a, float b) { return ::fmaxf(a, b); }

// sqrt(a), rounded as IEEE asks, where a is 0 or far from the ends of float32's range: what nvcc's own does there, without its
// branch, which would part the instructions around it.
HD inline float sqrt_moderate(float a) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
    const float s = a * y;
    return a == 0.0f ? a : ::fmaf(::fmaf(-s, s, a), 0.5f * y, s);
#else
    return ::sqrtf(a);
#endif
}

HD inline void mulhilo(uint32_t a, uint32_t m, uint32_t& hi, uint32_t& lo) {
#if defined(__CUDA_ARCH__)
    hi = __umulhi(a, m);       // the wide product would cost a dead add
    lo = a * m;
#else
    const uint64_t product = static_cast<uint64_t>(a) * m;
    hi = static_cast<uint32_t>(product >> 32);
    lo = static_cast<uint32_t>(product);
#endif
}
HD inline uint32_t xor3(uint32_t a, uint32_t b, uint32_t k) { return a ^ b ^ k; }

EBM_FAST_CORE_END
