// Products of a tile of chains with an upper triangular matrix: out[c][i] = sum over j <= i of in[c][j] f[j][i], j ascending
// whatever the tile, so that a chain's sums do not depend on its neighbours. Rows of chains stay in registers, lanes are columns.
#pragma once
#include "norm.h"

EBM_FAST_CORE_BEGIN

// One register of lanes: compilers keep D, which is two, in memory where many are alive.
template <class T> struct Columns {
    using Vector = F;
    using Index = I;
};
template <> struct Columns<double> {
    using Vector = H;
    using Index = J2;
};

#if defined(__AVX512F__)
inline H fma(H a, H b, H c) { return (H)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__AVX2__)
inline H fma(H a, H b, H c) { return (H)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#endif
#if defined(__AVX2__)
template <class V> EBM_FAST_INLINE V plus_product(V sum, V a, V b) { return fma(a, b, sum); }
#else
template <class V> EBM_FAST_INLINE V plus_product(V sum, V a, V b) { return sum + a * b; }   // fma is a detour there: lanes.h
#endif

#if defined(__AVX512F__)
constexpr int PRODUCT_CHAINS = 8, PRODUCT_VECTORS = 3;  // 24 sums, of 32 registers
#else
constexpr int PRODUCT_CHAINS = 4, PRODUCT_VECTORS = 2;      // 8 of 16, where each of four independent chains hides latency
#endif

template <class R, class T> EBM_FAST_INLINE R load_columns(const T* p) {
    R a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
template <class R, class T> EBM_FAST_INLINE R load_columns(const T* p, int64_t count) {
    if constexpr (sizeof(T) == 4) return load_part(p, count);
    T part[sizeof(R) / sizeof(T)] = {};
    std::memcpy(part, p, static_cast<size_t>(count) * sizeof(T));
    return load_columns<R>(part);
}
template <class R, class T> EBM_FAST_INLINE void store_columns(T* p, R a, int64_t count) {
    if constexpr (sizeof(T) == 4) return store_part(p, a, count);
    std::memcpy(p, &a, static_cast<size_t>(count) * sizeof(T));
}

// CHAINS rows by VECTORS registers of columns from `from` on; PART: the last register, of which `count` columns exist.
template <int CHAINS, int VECTORS, bool PART, class T>
inline void upper_block(const T* in, const T* factor, int64_t dim, int64_t from, int64_t count, T* out) {
    using R = typename Columns<T>::Vector;
    using N = typename Columns<T>::Index;
    constexpr int LANES = sizeof(R) / sizeof(T);
    R sum[CHAINS][VECTORS] = {};
    const T* row = factor + from;
    const auto add = [&](int64_t j, const R(&f)[VECTORS]) {
        EBM_FAST_UNROLL
        for (int c = 0; c < CHAINS; ++c) {
            const R a = broadcast<R>(in[c * dim + j]);
            EBM_FAST_UNROLL
            for (int k = 0; k < VECTORS; ++k) sum[c][k] = plus_product(sum[c][k], a, f[k]);
        }
    };
    for (int64_t j = 0; j < from; ++j, row += dim) {
        R f[VECTORS];
        EBM_FAST_UNROLL
        for (int k = 0; k < VECTORS; ++k) f[k] = PART ? load_columns<R>(row, count) : load_columns<R>(row + k * LANES);
        add(j, f);
    }
    N lane;
    for (int k = 0; k < LANES; ++k) lane[k] = k;
    const int64_t last = from + (PART ? count : VECTORS * LANES);
    for (int64_t j = from; j < last; ++j, row += dim) {  // across the diagonal, below which nothing counts
        R f[VECTORS];
        EBM_FAST_UNROLL
        for (int k = 0; k < VECTORS; ++k) {
            const R all = PART ? load_columns<R>(row, count) : load_columns<R>(row + k * LANES);
            using Lane = typename Scalar<R>::type;
            const N above = lane + k * LANES >= N{} + static_cast<decltype(lane[0] + 0)>(j - from);
            f[k] = above ? all : broadcast<R>(Lane(0));
        }
        add(j, f);
    }
    EBM_FAST_UNROLL
    for (int c = 0; c < CHAINS; ++c)
        for (int k = 0; k < VECTORS; ++k) {
            if constexpr (PART) store_columns(out + c * dim + from, sum[c][k], count);
            else std::memcpy(out + c * dim + from + k * LANES, &sum[c][k], sizeof(R));
        }
}

template <int CHAINS, class T>
inline void upper_rows(const T* in, const T* factor, int64_t chains, int64_t dim, int64_t from, int vectors, T* out) {
    constexpr int64_t LANES = sizeof(typename Columns<T>::Vector) / sizeof(T);
    for (; chains >= CHAINS; chains -= CHAINS, in += CHAINS * dim, out += CHAINS * dim) {
        if (vectors == PRODUCT_VECTORS) upper_block<CHAINS, PRODUCT_VECTORS, false>(in, factor, dim, from, 0, out);
        else if (dim - from >= LANES) upper_block<CHAINS, 1, false>(in, factor, dim, from, 0, out);
        else upper_block<CHAINS, 1, true>(in, factor, dim, from, dim - from, out);
    }
    if constexpr (CHAINS > 1) {
        if (chains) upper_rows<CHAINS / 2>(in, factor, chains, dim, from, vectors, out);
    }
}

// in, out # (chains, dim), apart; factor # (dim, dim)
template <class T>
inline void upper_product(const T* in, const T* factor, int64_t chains, int64_t dim, T* out) {
    constexpr int64_t LANES = sizeof(typename Columns<T>::Vector) / sizeof(T);
    for (int64_t from = 0; from < dim;) {
        const int vectors = dim - from >= PRODUCT_VECTORS * LANES ? PRODUCT_VECTORS : 1;
        upper_rows<PRODUCT_CHAINS>(in, factor, chains, dim, from, vectors, out);
        from += vectors * LANES;
    }
}

EBM_FAST_CORE_END
