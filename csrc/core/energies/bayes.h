// Posteriors: logistic regression and eight schools. (Linear regression is a dense Gaussian.)
#pragma once
#include "energy.h"

EBM_FAST_CORE_BEGIN

// E = sum_n softplus(-S_n x) + 1/2 al |x|^2;  parameters al, S(N d) with rows t_n x_n (packed: panels of S); N = n0
struct LogisticRegression {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    static int64_t packed_size(const EnergyView& q) { return 1 + panels(q.n0()) * PANEL * q.dim; }
    static void pack(const EnergyView& q, float* out) {
        out[0] = q.p[0];
        pack_panels(q.p + 1, q.n0(), q.dim, out + 1);
    }
    template <class V, int G, int MODE>
    static HD void evaluate(const EnergyView& q, const V* x, V* grad, V* energy, V*) {
        Sums<V, G> sum, squares;
        const V prior = broadcast<V>(q.p[0]);
        for (int i = 0; i < q.dim; ++i) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            if constexpr (MODE & GRAD) grad[i * G + g] = prior * x[i * G + g];
            if constexpr (MODE & VALUE) squares.add(g, x[i * G + g], x[i * G + g]);
        }
        const float* panel = q.p + 1;
        for (int n = 0; n < q.n0(); n += PANEL, panel += PANEL * q.dim) {
            V z[PANEL][G] = {};
            panel_product<V, G>(panel, x, q.dim, q.n0() - n, z);
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                if constexpr (MODE & VALUE) {
                    V loss, slope;
                    softplus(-z[r][g], loss, slope);
                    if (n + r < q.n0()) sum.add(g, loss);
                    z[r][g] = -slope;
                } else {
                    z[r][g] = -sigmoid(-z[r][g]);
                }
            }
            if constexpr (MODE & GRAD) panel_transposed<V, G>(panel, z, q.dim, grad);
        }
        if constexpr (MODE & VALUE)
            for (int g = 0; g < G; ++g) energy[g] = narrow(sum.at[g] + (0.5 * static_cast<double>(q.p[0])) * squares.at[g]);
    }
};

// x = (mu, log tau, z_1..z_J): E = 1/2 |z|^2 + 1/2 sum ((y_j - mu - tau z_j) / sigma_j)^2 + mu^2 / (2 m^2) + log(1 + (tau/s)^2)
// - log tau;  parameters m, s, y(J), 1/sigma(J); J = n0
struct EightSchools {
    static HD int64_t scratch(const EnergyView&) { return 0; }
    template <class V, int G, int MODE, class Share, class Row, class Scratch>
    static HD void evaluate(const EnergyView& q, const Share& share, Row x, Row grad, V* energy, Scratch) {
        const int schools = share.dim - 2;  // n0, where the compiler may know it
        const double prior = 1.0 / (static_cast<double>(q.p[0]) * q.p[0]);
        const V inverse_scale = broadcast<V>(1.0f / q.p[1]), one = broadcast<V>(1.0f), zero = broadcast<V>(0.0f);
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) {
            Sums<V, 1> squares;
            const V mu = x[g], log_tau = x[G + g], tau = exp(log_tau);
            V to_mu = zero, to_tau = zero;
            EBM_FAST_UNROLL_EVENT
            for (int j = 0; j < schools; ++j) {
                const V precision = broadcast<V>(q.p[2 + schools + j]), z = x[(2 + j) * G + g];
                const V t = (broadcast<V>(q.p[2 + j]) - fma(tau, z, mu)) * precision, pull = t * precision;
                if constexpr (MODE & VALUE) squares.add(0, z, z), squares.add(0, t, t);
                if constexpr (MODE & GRAD) {
                    if (share.owns(2 + j)) grad[(2 + j) * G + g] = fma(-tau, pull, z);
                    to_mu = to_mu - pull, to_tau = fma(-pull, z, to_tau);
                }
            }
            const V ratio = tau * inverse_scale, square = ratio * ratio;
            if constexpr (MODE & GRAD) {
                const V rate = select(square < broadcast<V>(1e30f), square / (one + square), one);
                if (share.owns(0)) grad[g] = fma(broadcast<V>(prior), mu, to_mu);
                if (share.owns(1)) grad[G + g] = fma(to_tau, tau, fma(broadcast<V>(2.0f), rate, -one));
            }
            if constexpr (MODE & VALUE) {
                const V tail = log(one + square) - log_tau;
                energy[g] = narrow(0.5 * squares.at[0] + (0.5 * prior) * (widen(mu) * widen(mu)) + widen(tail));
            }
        }
    }
};

EBM_FAST_CORE_END
