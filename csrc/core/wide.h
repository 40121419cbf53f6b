// What the energies and transitions need beyond lanes.h: the integer type behind a value type, and `Wide`, a value in float64 for
// sums over an event and for decisions. V is a lane vector on the CPU and float in a CUDA thread.
#pragma once
#include "value.h"

EBM_FAST_CORE_BEGIN

template <class V> struct Bits;
template <class V> struct WideOf;

#if defined(__CUDACC__)
template <> struct Bits<float> {
    using type = int32_t;
    using Mask = bool;
};
template <> struct WideOf<float> {
    using type = double;
};
HD inline double widen(float a) { return a; }
HD inline float narrow(double a) { return static_cast<float>(a); }
HD inline double select(bool mask, double a, double b) { return mask ? a : b; }
HD inline bool any(bool mask) { return mask; }
template <class V> HD inline double make_wide(double a) { return a; }
HD inline bool finite(double a) { return a - a == 0.0; }
HD inline bool lesser_or_equal(double a, double b) { return a <= b; }
HD inline float root(double a) { return static_cast<float>(::sqrt(a)); }
#else
typedef float FHalf __attribute__((vector_size(2 * W)));
typedef int32_t IHalf __attribute__((vector_size(2 * W)));
typedef double DHalf __attribute__((vector_size(4 * W)));
typedef int64_t JHalf __attribute__((vector_size(4 * W)));

template <> struct Bits<F> {
    using type = I;
    using Mask = I;
};

// Two halves apart: one vector of twice a register's width is kept in memory by the compiler.
struct Wide {
    DHalf lo, hi;
};
template <> struct WideOf<F> {
    using type = Wide;
};

template <int... i> inline FHalf lower_half(F a, Index<i...>) { return __builtin_shufflevector(a, a, i...); }
template <int... i> inline FHalf upper_half(F a, Index<i...>) { return __builtin_shufflevector(a, a, (i + W / 2)...); }
template <int... i> inline F join_halves(FHalf a, FHalf b, Index<i...>) { return __builtin_shufflevector(a, b, i...); }

inline Wide widen(F a) {
    using Half = typename MakeIndex<W / 2>::type;
    return {__builtin_convertvector(lower_half(a, Half{}), DHalf), __builtin_convertvector(upper_half(a, Half{}), DHalf)};
}
inline F narrow(Wide a) {
    return join_halves(__builtin_convertvector(a.lo, FHalf), __builtin_convertvector(a.hi, FHalf), typename MakeIndex<W>::type{});
}
template <class V> inline Wide make_wide(double a) { return {DHalf{} + a, DHalf{} + a}; }
inline Wide operator+(Wide a, Wide b) { return {a.lo + b.lo, a.hi + b.hi}; }
inline Wide operator-(Wide a, Wide b) { return {a.lo - b.lo, a.hi - b.hi}; }
inline Wide operator*(Wide a, Wide b) { return {a.lo * b.lo, a.hi * b.hi}; }
inline Wide operator*(double a, Wide b) { return {a * b.lo, a * b.hi}; }
inline Wide& operator+=(Wide& a, Wide b) { return a = a + b; }
inline I to_mask(JHalf lo, JHalf hi) {
    const IHalf a = __builtin_convertvector(lo, IHalf), b = __builtin_convertvector(hi, IHalf);
    I mask;
    std::memcpy(&mask, &a, sizeof a);
    std::memcpy(reinterpret_cast<char*>(&mask) + sizeof a, &b, sizeof b);
    return mask;
}
inline I finite(Wide a) { return to_mask(a.lo - a.lo == DHalf{}, a.hi - a.hi == DHalf{}); }
inline I lesser_or_equal(Wide a, Wide b) { return to_mask(a.lo <= b.lo, a.hi <= b.hi); }
inline Wide select(I mask, Wide a, Wide b) {
    IHalf part[2];
    std::memcpy(part, &mask, sizeof mask);
    return {__builtin_convertvector(part[0], JHalf) ? a.lo : b.lo, __builtin_convertvector(part[1], JHalf) ? a.hi : b.hi};
}
inline bool any(I mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}
// sqrt in float64, then rounded
inline F root(Wide a) {
#if defined(__AVX512F__)
    return narrow(Wide{(DHalf)_mm512_sqrt_pd((__m512d)a.lo), (DHalf)_mm512_sqrt_pd((__m512d)a.hi)});
#elif defined(__AVX2__)
    return narrow(Wide{(DHalf)_mm256_sqrt_pd((__m256d)a.lo), (DHalf)_mm256_sqrt_pd((__m256d)a.hi)});
#else
    for (int i = 0; i < W / 2; ++i) a.lo[i] = __builtin_sqrt(a.lo[i]), a.hi[i] = __builtin_sqrt(a.hi[i]);
    return narrow(a);
#endif
}
#endif

template <class V> HD inline auto finite_value(V a) { return a - a == broadcast<V>(0.0f); }

EBM_FAST_CORE_END
