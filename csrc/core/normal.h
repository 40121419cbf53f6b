// From 32-bit words to uniforms and normals. Written once over the value types:
//   U words as lanes, I signed words, F float lanes  (scalar: uint32_t, int32_t, float).
// Needed of them: to_float(I|U), bits_to_float(I), float_to_bits(F), fma(F, F, F), sqrt_moderate(F), select(I mask, F, F).
//
// uniform(w)   = float(w) 2^-32 + 2^-33, in (0, 1]; every rounding is IEEE, so all backends agree bitwise
// normals(w,v) = sqrt(-2 ln uniform(w)) (cos, sin)(2 pi a / 2^24),  a = signed top 24 bits of v
//
// The logarithm and the sine are polynomials with at most 0.6 ulp of error, since library versions differ from one backend to
// the next (GPU `lg2.approx` is off by 1e-3 where the uniform is near 1). |z| reaches sqrt(66 ln 2) = 6.76.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class F, class U>
HD inline F word_to_uniform(U w) {
    return fma(to_float(w), broadcast<F>(0x1p-32f), broadcast<F>(0x1p-33f));
}

template <int N, class F>
HD inline F horner(const float (&coefficient)[N], F x) {
    F p = broadcast<F>(coefficient[N - 1]);
    EBM_FAST_UNROLL
    for (int j = N - 2; j >= 0; --j) p = fma(p, x, broadcast<F>(coefficient[j]));
    return p;
}

// (ln(1+f) - f)/f^2 on [sqrt(1/2)-1, sqrt(2)-1]; (sin(ht) - ht)/t^3 and (cos(ht) - 1)/t^2 in t^2 on [0, 1/4], h = pi/2:
// Chebyshev interpolants, absolute errors 3e-8, 8e-8 (times t^3) and 8e-10.
#define EBM_FAST_LOG_COEFFICIENTS \
    {-0.4999999765f, 0.3333333003f,  -0.2500078124f, 0.2000123446f,  -0.1662664563f, \
     0.1420485595f,  -0.1312755565f, 0.1272267279f,  -0.07673641502f}
#define EBM_FAST_SIN_COEFFICIENTS {-0.6459640198f, 0.07968703122f, -0.004621966732f}
#define EBM_FAST_COS_COEFFICIENTS {-1.233700549f, 0.2536694104f, -0.02086152834f, 0.0009067398984f}

// ln(u) for u in [2^-33, 1]
template <class F, class I>
HD inline F log_unit(F u) {
    const I i = float_to_bits(u);
    const I e = (i - 0x3F3504F3) >> 23;                    // mantissa in [sqrt(1/2), sqrt(2))
    const F f = bits_to_float(i - (e << 23)) - broadcast<F>(1.0f);
    const F k = to_float(e);
    constexpr float coefficient[] = EBM_FAST_LOG_COEFFICIENTS;
    const F q = horner(coefficient, f);
    const F hi = k * broadcast<F>(0.693359375f);           // ln 2 in 9 bits, so the product is exact
    const F sum = hi + f;
    const F lost = select(e != 0, f - (sum - hi), broadcast<F>(0.0f));
    const F low = fma(k, broadcast<F>(-2.12194440e-4f), lost);
    return sum + fma(f * f, q, low);
}

// cos and sin of 2 pi v / 2^32 from the top 24 bits of v
template <class F, class I>
HD inline void cos_sin_turn(I v, F& c, F& s) {
    const I a = v >> 8;
    const I q = (a + (1 << 21)) >> 22;                     // nearest quarter turn
    const F t = to_float(a - (q << 22)) * broadcast<F>(0x1p-22f);   // exact, in [-1/2, 1/2)
    const F t2 = t * t;
    constexpr float sin_coefficient[] = EBM_FAST_SIN_COEFFICIENTS, cos_coefficient[] = EBM_FAST_COS_COEFFICIENTS;
    // pi/2 in two parts: rounding it to float32 would already cost half an ulp
    const F sine = fma(t, broadcast<F>(1.57079637e+0f), t * fma(horner(sin_coefficient, t2), t2, broadcast<F>(-4.37113883e-8f)));
    const F cosine = fma(horner(cos_coefficient, t2), t2, broadcast<F>(1.0f));
    const auto odd = (q & 1) != 0;
    c = flip_sign(select(odd, sine, cosine), ((q + 1) & 2) << 30);
    s = flip_sign(select(odd, cosine, sine), (q & 2) << 30);
}

template <class F, class I, class U>
HD inline void box_muller(U w, U v, F& z0, F& z1) {
    const F r = sqrt_moderate(log_unit<F, I>(word_to_uniform<F, U>(w)) * broadcast<F>(-2.0f));
    F c, s;
    cos_sin_turn<F, I>(to_signed(v), c, s);
    z0 = r * c;
    z1 = r * s;
}

EBM_FAST_CORE_END
