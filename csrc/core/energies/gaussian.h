// Gaussian and Gaussian mixture.
#pragma once
#include "energy.h"

EBM_FAST_CORE_BEGIN

// E = 1/2 sum_d a_d (x_d - mu_d)^2;  parameters mu(d), a(d)
struct GaussianDiagonal {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        Sums<V, G> sum;
        EBM_FAST_EACH(i, share) {
            const V mu = share.template load<V>(q.p, i), a = share.template load<V>(q.p + share.dim, i);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = x[i * G + g] - mu, slope = a * y;
                if constexpr (MODE & GRAD) grad[i * G + g] = slope;
                if constexpr (MODE & VALUE) sum.add(g, slope, y);
            }
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(0.5 * share.sum(sum.at[g]));
    }
};

// E = 1/2 (x - mu)' P (x - mu);  parameters mu(d), panels of P
struct GaussianDense {
    static HD int64_t scratch(const EnergyView& q) { return q.dim; }
    static int64_t packed_size(const EnergyView& q) { return q.dim + panels(q.dim) * PANEL * q.dim; }
    static void pack(const EnergyView& q, float* out) {
        for (int i = 0; i < q.dim; ++i) out[i] = q.p[i];
        pack_panels(q.p + q.dim, q.dim, q.dim, out + q.dim);
    }
    template <class V, int G, int MODE>
    static HD void evaluate(const EnergyView& q, const V* x, V* grad, V* energy, V* y) {
        Sums<V, G> sum;
        for (int i = 0; i < q.dim; ++i) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) y[i * G + g] = x[i * G + g] - broadcast<V>(q.p[i]);
        const float* panel = q.p + q.dim;
        for (int i = 0; i < q.dim; i += PANEL, panel += PANEL * q.dim) {
            V acc[PANEL][G] = {};
            panel_product<V, G>(panel, y, q.dim, q.dim - i, acc);
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) {
                if (i + r >= q.dim) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) {
                    if constexpr (MODE & GRAD) grad[(i + r) * G + g] = acc[r][g];
                    if constexpr (MODE & VALUE) sum.add(g, acc[r][g], y[(i + r) * G + g]);
                }
            }
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(0.5 * sum.at[g]);
    }
};

// E = -log sum_m exp(c_m - 1/2 sum_d a_md (x_d - mu_md)^2);  parameters c(M), mu(M d), a(M d); M = n0.
// Packed for powers of two: c log2 e, mu, -1/2 a log2 e. MOST > 0: M as the compiler knows it, whatever n0 says.
template <int MOST>
struct MixtureOf {
    static constexpr int BLOCK = MOST > 0 ? MOST : 4;        // components side by side
    static HD int count(const EnergyView& q) { return MOST > 0 ? MOST : q.n0(); }
    static HD int64_t packed_size(const EnergyView& q) { return static_cast<int64_t>(q.n0()) * (1 + 2 * q.dim); }
    static HD float packed_at(const EnergyView& q, int64_t i) {
        constexpr double LOG2_E = 1.4426950408889634;
        const int64_t components = q.n0(), precisions = components * (1 + q.dim);
        if (i < components) return static_cast<float>(q.p[i] * LOG2_E);
        return i < precisions ? q.p[i] : static_cast<float>(q.p[i] * (-0.5 * LOG2_E));
    }
    // Of MOST components, the missing ones with the weight 0: no bit of a chain depends on them.
    static HD float filled_at(const EnergyView& q, int i) {
        const int there = q.n0(), row = MOST * q.dim;
        if (i < MOST) return i < there ? packed_at(q, i) : -__builtin_inff();
        const int part = (i - MOST) / row, at = (i - MOST) % row;
        return at < there * q.dim ? packed_at(q, there + part * there * q.dim + at) : 0.0f;
    }
    static void pack(const EnergyView& q, float* out) {
        for (int64_t i = 0; i < packed_size(q); ++i) out[i] = packed_at(q, i);
    }
    static HD int64_t scratch(const EnergyView& q) { return q.n0(); }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch weight) {
        const int components = count(q), dim = share.dim, whole = components / BLOCK * BLOCK;
        const float *c = q.p, *mu = c + components, *a = mu + components * dim;
        V top[G], total[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) top[g] = broadcast<V>(-__builtin_inff()), total[g] = broadcast<V>(0.0f);
        for (int m = BLOCK * share.index(); m < whole; m += BLOCK * share.size())
            log_densities<V, G, BLOCK>(c, mu, a, share, x, m, weight, top);
        for (int m = whole + share.index(); m < components; m += share.size())
            log_densities<V, G, 1>(c, mu, a, share, x, m, weight, top);
        if constexpr (Share::SPLIT) {
            share.sync();
            for (int m = 0; m < components; ++m) EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) top[g] = larger(weight[m * G + g], top[g]);
            share.sync();
            for (int m = share.index(); m < components; m += share.size()) EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) weight[m * G + g] = exp2_weight(weight[m * G + g] - top[g]);
            share.sync();
        }
        EBM_FAST_UNROLL_EVENT
        for (int m = 0; m < components; ++m) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            if constexpr (!Share::SPLIT) weight[m * G + g] = exp2_weight(weight[m * G + g] - top[g]);
            total[g] = total[g] + weight[m * G + g];
        }
        if constexpr (MODE & VALUE) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) energy[g] = fma(broadcast<V>(-0.693147181f), top[g], -log(total[g]));
        if constexpr (MODE & GRAD) {
            V part[G];
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) part[g] = quotient(broadcast<V>(-1.38629436f), total[g]);      // -2 ln 2
            EBM_FAST_UNROLL_EVENT
            for (int i = share.first(); i < dim; i = share.next(i + 1)) {      // by twos: a share begins with an even element
                if (i + 2 <= dim) pull<V, G, 2>(mu, a, components, dim, x, i, weight, part, grad);
                else pull<V, G, 1>(mu, a, components, dim, x, i, weight, part, grad);
            }
        }
    }

    template <class V, int G, int N, class Share, class Row, class Scratch>
    static HD void log_densities(const float* c, const float* mu, const float* a, const Share& share, Row x, int m, Scratch out,
                                 V (&top)[G]) {
        const int dim = share.dim;
        V sum[N][G];
        EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) sum[j][g] = broadcast<V>(c[m + j]);
        EBM_FAST_UNROLL_EVENT
        for (int i = 0; i < dim; ++i) EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) {
            const V centre = broadcast<V>(mu[(m + j) * dim + i]), precision = broadcast<V>(a[(m + j) * dim + i]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = x[i * G + g] - centre;
                sum[j][g] = fma(precision * y, y, sum[j][g]);
            }
        }
        EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) out[(m + j) * G + g] = sum[j][g];
        EBM_FAST_UNROLL
        for (int by = 1; by < N; by *= 2) EBM_FAST_UNROLL
        for (int j = 0; j + by < N; j += 2 * by) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) sum[j][g] = larger(sum[j][g], sum[j + by][g]);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) top[g] = larger(sum[0][g], top[g]);
    }

    template <class V, int G, int N, class Row, class Scratch>
    static HD void pull(const float* mu, const float* a, int components, int dim, Row x, int i, Scratch weight,
                        const V (&part)[G], Row grad) {
        V sum[N][G] = {};
        EBM_FAST_UNROLL_EVENT
        for (int m = 0; m < components; ++m) EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) {
            const V centre = broadcast<V>(mu[m * dim + i + j]), precision = broadcast<V>(a[m * dim + i + j]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) sum[j][g] = fma(weight[m * G + g], precision * (x[(i + j) * G + g] - centre), sum[j][g]);
        }
        EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) grad[(i + j) * G + g] = sum[j][g] * part[g];
    }
};
using Mixture = MixtureOf<0>;

EBM_FAST_CORE_END
