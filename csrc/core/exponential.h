// e^a in float64 for a <= 0.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

HD inline double exponential(double a) {
#if defined(__CUDACC__)
    return ::exp(a);
#else
    return __builtin_exp(a);
#endif
}

#if !defined(__CUDACC__)
// k = round(a / ln 2), then the Taylor series of e^r, |r| <= ln 2 / 2, to r^13 (its rest is below 2^-57), and k is added to the
// exponent. Below -708 it is 0.
EBM_FAST_INLINE H exponential(H a) {
    constexpr double coefficient[] = {
        1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
        1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const J2 vanishes = a < -708.0;
    a = vanishes ? H{} : a;
    const H shifted = a * 1.4426950408889634 + 0x1.8p52;      // its low bits hold k
    const H k = shifted - 0x1.8p52;
    const H r = (a - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;   // the first product is exact
    H p = broadcast<H>(coefficient[13]);
    EBM_FAST_UNROLL
    for (int j = 12; j >= 0; --j) p = p * r + broadcast<H>(coefficient[j]);
    return vanishes ? H{} : (H)((J2)p + ((J2)shifted << 52));
}
#endif

EBM_FAST_CORE_END
