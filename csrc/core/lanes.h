// The value types of the CPU: W lanes in GCC/Clang vector extensions, with the few operations that need an intrinsic.
// W = 16 (AVX-512), 8 (AVX2) or 4 (baseline); the including translation unit's flags decide.
#pragma once
#include <cstring>
#include "macros.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

EBM_FAST_CORE_BEGIN

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint64_t L __attribute__((vector_size(4 * W)));
typedef double D __attribute__((vector_size(8 * W)));     // W lanes too: two registers
typedef int64_t J __attribute__((vector_size(8 * W)));     // the bits of D
typedef double H __attribute__((vector_size(4 * W)));     // half as many lanes: one register, which compilers compare well
typedef int64_t J2 __attribute__((vector_size(4 * W)));

template <int... i> struct Index {};
template <int n, int... i> struct MakeIndex : MakeIndex<n - 1, n - 1, i...> {};
template <int... i> struct MakeIndex<0, i...> {
    using type = Index<i...>;
};

template <class V> struct Scalar {
    using type = V;
};
template <> struct Scalar<F> {
    using type = float;
};
template <> struct Scalar<H> {
    using type = double;
};
template <> struct Scalar<D> {
    using type = double;
};

// V{} + a would be an addition: it turns -0 into 0, and compilers must keep it.
template <class V, class S, int... i> inline V splat(S a, Index<i...>) { return V{(static_cast<void>(i), a)...}; }
template <class V, class S> inline V broadcast(S a) {
    using Lane = typename Scalar<V>::type;
    return splat<V>(static_cast<Lane>(a), typename MakeIndex<sizeof(V) / sizeof(Lane)>::type{});
}
inline I float_to_bits(F a) { return (I)a; }
inline F bits_to_float(I a) { return (F)a; }
inline I to_signed(U a) { return (I)a; }
inline F to_float(I a) { return __builtin_convertvector(a, F); }
inline F flip_sign(F a, I sign_bit) { return (F)((I)a ^ sign_bit); }
inline F select(I mask, F a, F b) { return mask ? a : b; }
inline F larger(F a, F b) { return a > b ? a : b; }
template <class V> inline V quotient(V a, V b) { return a / b; }

#if defined(__AVX512F__)
inline F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F sqrt(F a) { return (F)_mm512_sqrt_ps((__m512)a); }
inline L multiply_low_words(L a, L b) { return (L)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline F sqrt(F a) { return (F)_mm256_sqrt_ps((__m256)a); }
inline L multiply_low_words(L a, L b) { return (L)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
inline F sqrt(F a) { return (F)_mm_sqrt_ps((__m128)a); }
inline L multiply_low_words(L a, L b) { return (L)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
inline F sqrt(F a) {
    for (int i = 0; i < W; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
inline L multiply_low_words(L a, L b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
#endif
#if !defined(__AVX2__)
// In float64 the product is exact, so this is a fused multiply-add but for double rounding: slower, and equal on all machines.
inline F fma(F a, F b, F c) {
    return __builtin_convertvector(__builtin_convertvector(a, D) * __builtin_convertvector(b, D) + __builtin_convertvector(c, D),
                                   F);
}
#endif
inline D fma(D a, D b, D c) { return a * b + c; }

inline F to_float(U a) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtepu32_ps((__m512i)a);
#else
    return fma(to_float((I)(a >> 16)), broadcast<F>(65536.0f), to_float((I)(a & 0xFFFFu)));   // one rounding, as IEEE asks
#endif
}

inline F sqrt_moderate(F a) { return sqrt(a); }

// 32-bit words of GROUPS x W blocks, in vectors of 64-bit lanes: the even and the odd blocks of each group. The upper halves
// hold rubbish, which costs nothing: the multiplier reads the lower halves only. Where registers allow, two groups side by
// side hide the latency of each other's multiplications.
#if defined(__AVX512F__)
constexpr int GROUPS = 2;
#else
constexpr int GROUPS = 1;
#endif
struct Words {
    L part[2 * GROUPS];
};

inline void mulhilo(Words a, uint32_t m, Words& hi, Words& lo) {
    const L factor = L{} + m;
    for (int i = 0; i < 2 * GROUPS; ++i) {
        lo.part[i] = multiply_low_words(a.part[i], factor);
        hi.part[i] = lo.part[i] >> 32;
    }
}
inline Words xor3(Words a, Words b, uint64_t k) {
    const L key = L{} + k;
    for (int i = 0; i < 2 * GROUPS; ++i) a.part[i] = a.part[i] ^ b.part[i] ^ key;
    return a;
}
inline Words to_words(const U (&a)[GROUPS]) {
    Words words;
    for (int g = 0; g < GROUPS; ++g) words.part[2 * g] = (L)a[g], words.part[2 * g + 1] = (L)a[g] >> 32;
    return words;
}
inline Words to_words(uint32_t a) {
    Words words;
    for (int i = 0; i < 2 * GROUPS; ++i) words.part[i] = L{} + a;
    return words;
}
inline U group_of(const Words& a, int g) { return (U)((a.part[2 * g] & 0xFFFFFFFFu) | (a.part[2 * g + 1] << 32)); }

// (a0 b0 a1 b1 ...) of one half of a and b; S is a 32- or 64-bit lane vector
template <int HALF, class S, int... i>
inline S zip(S a, S b, Index<i...>) {
    constexpr int n = sizeof...(i);
    return __builtin_shuffle(a, b, (S){((i & 1) * n + i / 2 + HALF * n / 2)...});
}

// four lane vectors of words, into the order in which the elements lie in memory: a0 b0 c0 d0 a1 b1 c1 d1 ...
inline void interleave4(const I (&in)[4], I* out) {
    using Words32 = typename MakeIndex<W>::type;
    using Words64 = typename MakeIndex<W / 2>::type;
    const J2 ab0 = (J2)zip<0>(in[0], in[1], Words32{}), ab1 = (J2)zip<1>(in[0], in[1], Words32{});
    const J2 cd0 = (J2)zip<0>(in[2], in[3], Words32{}), cd1 = (J2)zip<1>(in[2], in[3], Words32{});
    out[0] = (I)zip<0>(ab0, cd0, Words64{});
    out[1] = (I)zip<1>(ab0, cd0, Words64{});
    out[2] = (I)zip<0>(ab1, cd1, Words64{});
    out[3] = (I)zip<1>(ab1, cd1, Words64{});
}

EBM_FAST_CORE_END
