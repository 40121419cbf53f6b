// Euclidean norm of each chain's event. One chain is summed by one thread in one order: the result depends on nothing else.
#pragma once
#include "storage.h"

EBM_FAST_CORE_BEGIN

inline double widen(float a) { return a; }
inline double widen(double a) { return a; }
inline double widen(BFloat16 a) {
    const uint32_t bits = static_cast<uint32_t>(a.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline double widen(Half a) { return load_part(&a, 1)[0]; }

// Half a vector in float64: one register, where D's two are kept in memory by the compiler.
typedef float FewFloats __attribute__((vector_size(2 * W)));
inline H load_wide(const float* p) {
    FewFloats a;
    std::memcpy(&a, p, sizeof a);
    return __builtin_convertvector(a, H);
}
inline H load_wide(const double* p) {
    H a;
    std::memcpy(&a, p, sizeof a);
    return a;
}

// The sum over whole groups of 2 W elements from `at` on, which it advances; four sums side by side hide the additions' latency.
template <class T>
inline double sum_of_squares(const T* x, int64_t dim, int64_t& at) {
    constexpr int FEW = W / 2;
    H sum[4] = {};
    for (; at + 4 * FEW <= dim; at += 4 * FEW) {
        EBM_FAST_UNROLL
        for (int k = 0; k < 4; ++k) {
            const H a = load_wide(x + at + k * FEW);
            sum[k] += a * a;
        }
    }
    const H all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    double total = 0.0;
    for (int k = 0; k < FEW; ++k) total += all[k];
    return total;
}
inline double sum_of_squares(const BFloat16*, int64_t, int64_t&) { return 0.0; }
inline double sum_of_squares(const Half*, int64_t, int64_t&) { return 0.0; }

template <class T>
inline double norm_of(const T* x, int64_t dim) {
    double total = 0.0;
    if (dim < W) {
        for (int64_t i = 0; i < dim; ++i) total += widen(x[i]) * widen(x[i]);
    } else {
        int64_t i = 0;
        total = sum_of_squares(x, dim, i);
        D sum{};
        for (; i < dim; i += W) {
            const int64_t left = dim - i;
            const D a = __builtin_convertvector(left >= W ? load(x + i) : load_part(x + i, left), D);
            sum += a * a;
        }
        for (int k = 0; k < W; ++k) total += sum[k];
    }
    return __builtin_sqrt(total);
}

template <class T>
inline void norm_rows(const NormParams& p, int64_t begin, int64_t end) {
    for (int64_t chain = begin; chain < end; ++chain) {
        const double norm = norm_of(static_cast<const T*>(p.x) + chain * p.dim, p.dim);
        if (p.dtype == DType::float64) static_cast<double*>(p.out)[chain] = norm;
        else static_cast<float*>(p.out)[chain] = static_cast<float>(norm);
    }
}

inline void norm_range(const NormParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case DType::float32: return norm_rows<float>(p, begin, end);
        case DType::float64: return norm_rows<double>(p, begin, end);
        case DType::bfloat16: return norm_rows<BFloat16>(p, begin, end);
        case DType::float16: return norm_rows<Half>(p, begin, end);
        case DType::int32: return;
    }
}

EBM_FAST_CORE_END
