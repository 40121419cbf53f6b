// What a warm-up learns from one proposal: passes over chains or over elements, each of which sums in an order of its own.
#pragma once
#include "../core/adapt.h"
#include "storage.h"

EBM_FAST_CORE_BEGIN

// sum over i < n of term(i), in eight sums side by side
template <class Term>
inline double sum_of(int64_t n, const Term& term) {
    double sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; ++k) sums[k] += term(i + k);
    for (; i < n; ++i) sums[i % 8] += term(i);
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Weights of the chains whose trajectory came to something finite, else 0
template <class T>
inline void weigh(const AdaptParams& p, double* weight, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const T *x = static_cast<const T*>(p.proposal) + i * p.dim, *v = static_cast<const T*>(p.momentum) + i * p.dim;
        const double w = p.counters[i * COUNTERS + PROBABILITY];
        const bool fine = w > 0.0 && sum_of(p.dim, [&](int64_t j) { return double((x[j] - x[j]) + (v[j] - v[j])); }) == 0.0;
        weight[i] = fine ? w : 0.0;
    }
}
inline void adapt_weights(const AdaptParams& p, double* weight, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) weigh<double>(p, weight, begin, end);
    else weigh<float>(p, weight, begin, end);
}

constexpr int64_t COLUMNS = 64;      // elements whose sums over the chains a loop keeps

// Rows of `centre` # (3, dim): weighted mean of the proposals and mean of the states before, both whitened, and 1 / sigma
template <class T>
inline void find_centres(const AdaptParams& p, const double* weight, double total, double* centre, int64_t begin, int64_t end) {
    const T *proposal = static_cast<const T*>(p.proposal), *before = static_cast<const T*>(p.before);
    for (int64_t from = begin; from < end; from += COLUMNS) {
        const int64_t width = end - from < COLUMNS ? end - from : COLUMNS;
        double ahead[COLUMNS] = {}, behind[COLUMNS] = {};
        for (int64_t i = 0; i < p.chains; ++i) {
            const T *x = proposal + i * p.dim + from, *y = before + i * p.dim + from;
            for (int64_t j = 0; j < width; ++j) behind[j] += y[j];
            if (weight[i] > 0.0)
                for (int64_t j = 0; j < width; ++j) ahead[j] += weight[i] * x[j];
        }
        for (int64_t j = 0; j < width; ++j) {
            const double narrow = p.scale ? 1.0 / static_cast<const T*>(p.scale)[from + j] : 1.0;
            centre[from + j] = ahead[j] / total * narrow;
            centre[p.dim + from + j] = behind[j] / static_cast<double>(p.chains) * narrow;
            centre[2 * p.dim + from + j] = narrow;
        }
    }
}
inline void adapt_centres(const AdaptParams& p, const double* weight, double total, double* centre, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) find_centres<double>(p, weight, total, centre, begin, end);
    else find_centres<float>(p, weight, total, centre, begin, end);
}

// weight <- weight (|x' - mean|^2 - |x - mean|^2) (x' - mean) v, whitened;  before <- x
template <class T>
inline void find_slopes(const AdaptParams& p, const double* centre, double* weight, int64_t begin, int64_t end) {
    const double *middle = centre, *middle_before = centre + p.dim, *narrow = centre + 2 * p.dim;
    for (int64_t i = begin; i < end; ++i) {
        const T *x = static_cast<const T*>(p.proposal) + i * p.dim, *v = static_cast<const T*>(p.momentum) + i * p.dim;
        T* before = static_cast<T*>(p.before) + i * p.dim;
        if (weight[i] > 0.0) {
            const double change = sum_of(p.dim, [&](int64_t j) {
                const double now = x[j] * narrow[j] - middle[j], then = before[j] * narrow[j] - middle_before[j];
                return now * now - then * then;
            });
            weight[i] *= change * sum_of(p.dim, [&](int64_t j) { return (x[j] * narrow[j] - middle[j]) * v[j]; });
        }
        std::memcpy(before, static_cast<const T*>(p.x) + i * p.dim, static_cast<size_t>(p.dim) * sizeof(T));
    }
}
inline void adapt_slopes(const AdaptParams& p, const double* centre, double* weight, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) find_slopes<double>(p, centre, weight, begin, end);
    else find_slopes<float>(p, centre, weight, begin, end);
}

// Mean and squares of the elements, by all chains
template <class T>
inline void gather_moments(const AdaptParams& p, int64_t begin, int64_t end) {
    const double states = static_cast<double>(p.chains);
    for (int64_t from = begin; from < end; from += COLUMNS) {
        const int64_t width = end - from < COLUMNS ? end - from : COLUMNS;
        double mean[COLUMNS] = {}, squares[COLUMNS] = {};
        const T* x = static_cast<const T*>(p.x) + from;
        for (int64_t i = 0; i < p.chains; ++i)
            for (int64_t j = 0; j < width; ++j) mean[j] += x[i * p.dim + j];
        for (int64_t j = 0; j < width; ++j) mean[j] /= states;
        for (int64_t i = 0; i < p.chains; ++i)
            for (int64_t j = 0; j < width; ++j) {
                const double off = x[i * p.dim + j] - mean[j];
                squares[j] += off * off;
            }
        for (int64_t j = 0; j < width; ++j)
            merge_moments(*p.count, states, mean[j], squares[j], p.mean[from + j], p.squares[from + j]);
    }
}
inline void adapt_moments(const AdaptParams& p, int64_t begin, int64_t end) {
    if (p.dtype == DType::float64) gather_moments<double>(p, begin, end);
    else gather_moments<float>(p, begin, end);
}

// Step size of each group from the acceptance of its chains
template <class T>
inline void set_step_sizes(const AdaptParams& p) {
    const double count = *p.average_count += 1.0;
    const int64_t members = p.chains / p.groups;
    T* step_size = static_cast<T*>(p.step_size);
    for (int64_t g = 0; g < p.groups; ++g) {
        const double sum = sum_of(
            members, [&](int64_t i) { return as_counted(p.counters[(i * p.groups + g) * COUNTERS + PROBABILITY], p.least); });
        const double acceptance = acceptance_of(sum / static_cast<double>(members), p.least);
        const T step = static_cast<T>(::exp(dual_average(p, g, count, acceptance)));
        if (p.groups == 1) *step_size = step;
        else
            for (int64_t i = g; i < p.chains; i += p.groups) step_size[i] = step;
    }
}
inline void adapt_step_sizes(const AdaptParams& p) {
    if (p.dtype == DType::float64) set_step_sizes<double>(p);
    else set_step_sizes<float>(p);
}

inline double adapt_sum(const double* values, int64_t n) {
    return sum_of(n, [&](int64_t i) { return values[i]; });
}

EBM_FAST_CORE_END
