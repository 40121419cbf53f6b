// exp, log, sincos, tanh, softplus and the logistic function over a value type: float32 with at most 2 units in the last place of
// error over the whole range (the logistic function: 2.5; 1 in the last denormal place of exp), infinities and NaN as in libm. A GPU's tanh
// has 3, and its quotients are a little less exact than IEEE's.
#pragma once
#include "normal.h"
#include "wide.h"

EBM_FAST_CORE_BEGIN

template <class V> HD inline V absolute(V a) { return bits_to_float(float_to_bits(a) & 0x7FFFFFFF); }
template <class V> HD inline V with_sign(V a, V sign) {
    return bits_to_float((float_to_bits(a) & 0x7FFFFFFF) | (float_to_bits(sign) & static_cast<int32_t>(0x80000000)));
}

// k = round(x / ln 2) and r = x - k ln 2, for |x| < 2^20
template <class V>
HD inline void split_exponent(V x, typename Bits<V>::type& k, V& r) {
    const V magic = broadcast<V>(0x1.8p23f);  // adding it rounds to an integer, in the low bits
    const V t = fma(x, broadcast<V>(1.44269502f), magic);
    k = float_to_bits(t) - 0x4B400000;
    const V turns = t - magic;
    r = fma(turns, broadcast<V>(-0.693145752f), x);  // ln 2 in 15 bits: exact
    r = fma(turns, broadcast<V>(-1.42860677e-6f), r);
}

// (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2] (Moshier's Cephes)
template <class V>
HD inline V exp_tail(V r) {
    constexpr float coefficient[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                                     8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
    return horner(coefficient, r);
}

template <class V>
HD inline V exp(V x) {
    typename Bits<V>::type k;
    V r;
    x = x < broadcast<V>(-104.0f) ? broadcast<V>(-104.0f) : x;  // comparisons that let NaN through
    x = x > broadcast<V>(89.0f) ? broadcast<V>(89.0f) : x;
    split_exponent(x, k, r);
    const V p = fma(r * r, exp_tail(r), r) + broadcast<V>(1.0f);
    const auto half = k >> 1;  // 2^k alone may not be a float
    return p * bits_to_float((half + 127) << 23) * bits_to_float((k - half + 127) << 23);
}

// 2^x for x <= 0, to 2 units in the last place, or something below 2^-124: weights, which are added to something of order one.
// A GPU has an instruction for it that is as accurate.
template <class V>
HD inline V exp2_weight(V x) {
#if defined(__CUDA_ARCH__)
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
#else
    constexpr float coefficient[] = {1.0f, 0.693146978f, 0.240222421f, 0.0555073374f, 0.00967151264f, 0.00132647272f};
    const V magic = broadcast<V>(0x1.8p23f);
    x = x < broadcast<V>(-125.0f) ? broadcast<V>(-125.0f) : x;
    const V t = x + magic;
    const V p = horner(coefficient, x - (t - magic));
    return bits_to_float(float_to_bits(p) + (float_to_bits(t) << 23));
#endif
}

// ln(1 + f) + e ln 2, f in [sqrt(1/2) - 1, sqrt(2) - 1]
template <class V>
HD inline V log_parts(V f, V e) {
    constexpr float coefficient[] = EBM_FAST_LOG_COEFFICIENTS;
    const V hi = e * broadcast<V>(0.693359375f);  // exact
    const V sum = hi + f;
    const V lost = select(e != broadcast<V>(0.0f), f - (sum - hi), broadcast<V>(0.0f));
    return sum + fma(f * f, horner(coefficient, f), fma(e, broadcast<V>(-2.12194440e-4f), lost));
}

template <class V>
HD inline V log(V x) {
    const auto small = x < broadcast<V>(0x1p-126f);
    const V y = select(small, x * broadcast<V>(0x1p24f), x);
    const auto bits = float_to_bits(y);
    const auto e = (bits - 0x3F3504F3) >> 23;
    const V f = bits_to_float(bits - (e << 23)) - broadcast<V>(1.0f);
    V result = log_parts(f, to_float(e) - select(small, broadcast<V>(24.0f), broadcast<V>(0.0f)));
    const V infinity = broadcast<V>(__builtin_inff());
    result = select(x == infinity, infinity, result);
    result = select(x == broadcast<V>(0.0f), -infinity, result);
    return select(x >= broadcast<V>(0.0f), result, x - x + broadcast<V>(__builtin_nanf("")));
}

// ln(1 + u) for u in [0, 1]
template <class V>
HD inline V log1p_unit(V u) {
    const auto upper = u > broadcast<V>(0.41421356f);
    const V f = select(upper, (u - broadcast<V>(1.0f)) * broadcast<V>(0.5f), u);  // exact either way
    return log_parts(f, select(upper, broadcast<V>(1.0f), broadcast<V>(0.0f)));
}

// ln(1 + e^x) and its derivative 1 / (1 + e^-x)
template <class V>
HD inline void softplus(V x, V& value, V& slope) {
    const V u = exp(-absolute(x)), zero = broadcast<V>(0.0f), one = broadcast<V>(1.0f);
    slope = quotient(select(x >= zero, one, u), one + u);
    value = log1p_unit(u) + (x < zero ? zero : x);
}

template <class V>
HD inline V sigmoid(V x) {
    const V u = exp(-absolute(x)), one = broadcast<V>(1.0f);
    return quotient(select(x >= broadcast<V>(0.0f), one, u), one + u);
}

#if defined(__CUDA_ARCH__)
// (1 - t) / (1 + t), t = e^{-2 |x|}, or x + x^3 P(x^2) for small x (Cephes): 3 units in the last place, in a third of the instructions
// that the form for all machines takes
HD inline float short_tanh(float x) {
    constexpr float coefficient[] = {-3.33332819422e-1f, 1.33314422036e-1f, -5.37397155531e-2f, 2.06390887954e-2f,
                                     -5.70498872745e-3f};
    const float a = absolute(x), z = x * x;
    float t;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(a * -2.88539008f));
    const float near = fma(horner(coefficient, z) * z, x, x), far = with_sign(quotient(1.0f - t, 1.0f + t), x);
    const int32_t small = a < 0.55f ? -1 : 0;  // by bits: nvcc would branch, and then compute one value after the other
    return bits_to_float((float_to_bits(near) & small) | (float_to_bits(far) & ~small));
}
#endif

// -e / (e + 2) with e = e^{-2 |x|} - 1 = 2^k (e^r - 1) + 2^k - 1: small arguments keep k = 0 and all their digits. What the two sums
// lose is put back to first order, where 1 / (e + 2) = (1 + q) / 2 of the quotient q.
template <class V>
HD inline V tanh(V x) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(V) == sizeof(float)) return short_tanh(x);
#endif
    constexpr float coefficient[] = {0.499999982f, 0.166665434f, 0.0416672007f, 0.00836654713f, 0.00138825164f};
    typename Bits<V>::type k;
    V r, a = absolute(x);
    a = -(a + a);
    a = a < broadcast<V>(-20.0f) ? broadcast<V>(-20.0f) : a;
    split_exponent(a, k, r);
    const V scale = bits_to_float((k + 127) << 23), p = fma(r * r, horner(coefficient, r), r);
    const V m = scale - broadcast<V>(1.0f), two = broadcast<V>(2.0f), half = broadcast<V>(0.5f);
    const V e = fma(scale, p, m), d = e + two;
    const V rest = fma(scale, p, m - e), lost = (e - (d - two)) + rest;
    const V q = quotient(-e, d);
    return with_sign(fma(-fma(q, lost, rest), fma(q, half, half), q), x);
}

// The nearest bfloat16 number, ties to even, in the upper half of the bits
template <class V>
HD inline V round_bfloat16(V a) {
    const auto bits = float_to_bits(a), upper = (bits >> 16) & 1;
    const V rounded = bits_to_float((bits + (upper + 0x7FFF)) & static_cast<int32_t>(0xFFFF0000));
    return select(a == a, rounded, a);
}

// sin and cos of t quarter turns + q quarter turns, t in [-1/2, 1/2]
template <class V>
HD inline void sincos_quarter(V t, typename Bits<V>::type q, V& s, V& c) {
    const V t2 = t * t;
    constexpr float sin_coefficient[] = {-0.645964086f, 0.0796926096f, -0.00468147499f, 0.000158651514f};
    constexpr float cos_coefficient[] = EBM_FAST_COS_COEFFICIENTS;
    const V sine = fma(t, broadcast<V>(1.57079637e+0f), t * fma(horner(sin_coefficient, t2), t2, broadcast<V>(-4.37113883e-8f)));
    const V cosine = fma(horner(cos_coefficient, t2), t2, broadcast<V>(1.0f));
    const auto odd = (q & 1) != 0;
    c = flip_sign(select(odd, sine, cosine), ((q + 1) & 2) << 30);
    s = flip_sign(select(odd, cosine, sine), (q & 2) << 30);
}

// The reduction is exact in float64 up to 2^20; beyond, libm does it a number at a time.
template <class V>
HD inline void sincos(V x, V& s, V& c) {
    const V magic = broadcast<V>(0x1.8p23f);
    const V near = select(absolute(x) < broadcast<V>(0x1p20f), x, broadcast<V>(0.0f));
    const V t = fma(near, broadcast<V>(0.636619747f), magic);
    const auto q = float_to_bits(t) - 0x4B400000;
    const auto turns = widen(t - magic);
    const auto rest = (widen(near) - turns * make_wide<V>(0x1.921fb544p+0)) - turns * make_wide<V>(0x1.0b4611a626331p-34);
    sincos_quarter(narrow(rest * make_wide<V>(0.63661977236758134308)), q, s, c);
    if (any(absolute(x) >= broadcast<V>(0x1p20f)) || any(x != x)) {
#if defined(__CUDACC__)
        s = ::sinf(x), c = ::cosf(x);
#else
        for (int i = 0; i < W; ++i)
            if (!(__builtin_fabsf(x[i]) < 0x1p20f)) s[i] = __builtin_sinf(x[i]), c[i] = __builtin_cosf(x[i]);
#endif
    }
}

EBM_FAST_CORE_END
