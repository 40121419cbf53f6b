// Loads and stores of W elements of a storage type; arithmetic is float32, or float64 for float64.
#pragma once
#include "../core/lanes.h"

EBM_FAST_CORE_BEGIN

struct BFloat16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};
typedef uint16_t U16 __attribute__((vector_size(2 * W)));

template <class T> struct Storage {
    using Vector = F;
    using Scalar = float;
};
template <> struct Storage<double> {
    using Vector = D;
    using Scalar = double;
};

inline F load(const float* p) {
    F a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
inline D load(const double* p) {
    D a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
inline void store(float* p, F a) { std::memcpy(p, &a, sizeof a); }
inline void store(double* p, D a) { std::memcpy(p, &a, sizeof a); }
inline void store(int32_t* p, I a) { std::memcpy(p, &a, sizeof a); }

inline F load(const BFloat16* p) {
    U16 a;
    std::memcpy(&a, p, sizeof a);
    return (F)(__builtin_convertvector(a, U) << 16);
}
inline void store(BFloat16* p, F a) {
    const U bits = (U)a;
    const U rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;             // to nearest, ties to even
    const U nan = (bits >> 16) | 0x40u;
    const U16 out = __builtin_convertvector((U)((a != a) ? (I)nan : (I)rounded), U16);
    std::memcpy(p, &out, sizeof out);
}

#if defined(__AVX512F__)
inline F load(const Half* p) { return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(Half* p, F a) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
inline F load(const Half* p) { return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store(Half* p, F a) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
inline F load(const Half* p) {
    F a;
    for (int i = 0; i < W; ++i) {
        _Float16 h;
        std::memcpy(&h, p + i, 2);
        a[i] = static_cast<float>(h);
    }
    return a;
}
inline void store(Half* p, F a) {
    for (int i = 0; i < W; ++i) {
        const _Float16 h = static_cast<_Float16>(a[i]);
        std::memcpy(p + i, &h, 2);
    }
}
#endif

// The last, partial vector is a full one whose missing elements are zero and are not stored, so that every element sees the same
// instructions and its value does not depend on where a batch was cut.
template <class T>
inline auto load_part(const T* p, int64_t count) {
    T part[W] = {};
    std::memcpy(part, p, static_cast<size_t>(count) * sizeof(T));
    return load(part);
}
template <class T, class V>
inline void store_part(T* p, V a, int64_t count) {
    T part[W];
    store(part, a);
    std::memcpy(p, part, static_cast<size_t>(count) * sizeof(T));
}

#if defined(__AVX512F__)
inline F load_part(const float* p, int64_t count) {
    return (F)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_part(float* p, F a, int64_t count) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)a);
}
inline D load_part(const double* p, int64_t count) {
    const unsigned mask = (1u << count) - 1;
    const __m512d half[2] = {_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p),
                             _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask >> 8), p + 8)};
    D a;
    std::memcpy(&a, half, sizeof a);
    return a;
}
inline void store_part(double* p, D a, int64_t count) {
    const unsigned mask = (1u << count) - 1;
    __m512d half[2];
    std::memcpy(half, &a, sizeof a);
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), half[0]);
    _mm512_mask_storeu_pd(p + 8, static_cast<__mmask8>(mask >> 8), half[1]);
}
#elif defined(__AVX2__)
inline __m256i mask_of(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i wide_mask_of(int64_t count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
inline F load_part(const float* p, int64_t count) { return (F)_mm256_maskload_ps(p, mask_of(count)); }
inline void store_part(float* p, F a, int64_t count) { _mm256_maskstore_ps(p, mask_of(count), (__m256)a); }
inline D load_part(const double* p, int64_t count) {
    const __m256d half[2] = {_mm256_maskload_pd(p, wide_mask_of(count)), _mm256_maskload_pd(p + 4, wide_mask_of(count - 4))};
    D a;
    std::memcpy(&a, half, sizeof a);
    return a;
}
inline void store_part(double* p, D a, int64_t count) {
    __m256d half[2];
    std::memcpy(half, &a, sizeof a);
    _mm256_maskstore_pd(p, wide_mask_of(count), half[0]);
    _mm256_maskstore_pd(p + 4, wide_mask_of(count - 4), half[1]);
}
#endif

EBM_FAST_CORE_END
