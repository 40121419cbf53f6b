// Gaussian and Gaussian mixture.
#pragma once
#include "energy.h"

EBM_FAST_CORE_BEGIN

// E = 1/2 sum_d a_d (x_d - mu_d)^2;  parameters mu(d), a(d)
struct GaussianDiagonal {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE>
    static HD void evaluate(const EnergyView& q, const V* x, V* grad, V* energy, V*) {
        Sums<V, G> sum;
        for (int i = 0; i < q.dim; ++i) {
            const V mu = broadcast<V>(q.p[i]), a = broadcast<V>(q.p[q.dim + i]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                const V y = x[i * G + g] - mu, slope = a * y;
                if constexpr (MODE & GRAD) grad[i * G + g] = slope;
                if constexpr (MODE & VALUE) sum.add(g, slope, y);
            }
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(0.5 * sum.at[g]);
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
// Packed for powers of two: c log2 e, mu, -1/2 a log2 e.
struct Mixture {
    static constexpr int BLOCK = 4;        // components side by side
    static int64_t packed_size(const EnergyView& q) { return static_cast<int64_t>(q.n0()) * (1 + 2 * q.dim); }
    static void pack(const EnergyView& q, float* out) {
        constexpr double LOG2_E = 1.4426950408889634;
        const int64_t components = q.n0(), numbers = components * q.dim;
        for (int64_t i = 0; i < components; ++i) *out++ = static_cast<float>(q.p[i] * LOG2_E);
        for (int64_t i = 0; i < numbers; ++i) *out++ = q.p[components + i];
        for (int64_t i = 0; i < numbers; ++i) *out++ = static_cast<float>(q.p[components + numbers + i] * (-0.5 * LOG2_E));
    }
    static HD int64_t scratch(const EnergyView& q) { return q.n0(); }
    template <class V, int G, int MODE>
    static HD void evaluate(const EnergyView& q, const V* x, V* grad, V* energy, V* weight) {
        const int components = q.n0(), dim = q.dim;
        const float *c = q.p, *mu = c + components, *a = mu + components * dim;
        V top[G], total[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) top[g] = broadcast<V>(-__builtin_inff()), total[g] = broadcast<V>(0.0f);
        int m = 0;
        for (; m + BLOCK <= components; m += BLOCK) log_densities<V, G, BLOCK>(c, mu, a, dim, x, m, weight, top);
        for (; m < components; ++m) log_densities<V, G, 1>(c, mu, a, dim, x, m, weight, top);
        for (m = 0; m < components; ++m) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            const V w = exp2_weight(weight[m * G + g] - top[g]);
            weight[m * G + g] = w;
            total[g] = total[g] + w;
        }
        if constexpr (MODE & VALUE) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) energy[g] = fma(broadcast<V>(-0.693147181f), top[g], -log(total[g]));
        if constexpr (MODE & GRAD) {
            V share[G];
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) share[g] = broadcast<V>(-1.38629436f) / total[g];      // -2 ln 2
            int i = 0;
            for (; i + 2 <= dim; i += 2) pull<V, G, 2>(mu, a, components, dim, x, i, weight, share, grad);
            for (; i < dim; ++i) pull<V, G, 1>(mu, a, components, dim, x, i, weight, share, grad);
        }
    }

    template <class V, int G, int N>
    static HD void log_densities(const float* c, const float* mu, const float* a, int dim, const V* x, int m, V* out,
                                 V (&top)[G]) {
        V sum[N][G];
        EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) sum[j][g] = broadcast<V>(c[m + j]);
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
        for (int g = 0; g < G; ++g) {
            const V value = sum[j][g];
            out[(m + j) * G + g] = value;
            top[g] = value > top[g] ? value : top[g];
        }
    }

    template <class V, int G, int N>
    static HD void pull(const float* mu, const float* a, int components, int dim, const V* x, int i, const V* weight,
                        const V (&share)[G], V* grad) {
        V sum[N][G] = {};
        for (int m = 0; m < components; ++m) EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) {
            const V centre = broadcast<V>(mu[m * dim + i + j]), precision = broadcast<V>(a[m * dim + i + j]);
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) sum[j][g] = fma(weight[m * G + g], precision * (x[(i + j) * G + g] - centre), sum[j][g]);
        }
        EBM_FAST_UNROLL
        for (int j = 0; j < N; ++j) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) grad[(i + j) * G + g] = sum[j][g] * share[g];
    }
};

EBM_FAST_CORE_END
