// A multilayer perceptron: E = w . h_H + b, h_l = act(W_l h_{l-1} + b_l), h_0 = x, with 1 to 4 hidden layers.
#pragma once
#include "energy.h"

EBM_FAST_CORE_BEGIN

enum class Activation : int { tanh, silu, relu, leaky_relu, softplus, gelu };

// Phi(z) of the standard normal to 2e-7: erfc(u) = t exp(-u^2 + P(t)), t = 1 / (1 + u / 2) (Press et al., Numerical Recipes).
template <class V>
HD inline V normal_cdf(V z) {
    constexpr float coefficient[] = {-1.26551223f, 1.00002368f,  0.37409196f, 0.09678418f,  -0.18628806f,
                                     0.27886807f,  -1.13520398f, 1.48851587f, -0.82215223f, 0.17087277f};
    const V u = absolute(z) * broadcast<V>(0.707106781f), one = broadcast<V>(1.0f);
    const V t = one / fma(broadcast<V>(0.5f), u, one);
    const V tail = broadcast<V>(0.5f) * t * exp(fma(-u, u, horner(coefficient, t)));
    return select(z > broadcast<V>(0.0f), one - tail, tail);
}

// h = act(z) and, where wanted, slope = act'(z)
template <Activation A, bool SLOPE, class V>
HD inline void activate(V z, float leak, V& h, V& slope) {
    const V one = broadcast<V>(1.0f), zero = broadcast<V>(0.0f);
    if constexpr (A == Activation::tanh) {
        h = tanh(z);
        if constexpr (SLOPE) slope = fma(-h, h, one);
    } else if constexpr (A == Activation::silu) {
        const V s = sigmoid(z);
        h = z * s;
        if constexpr (SLOPE) slope = s * fma(z, one - s, one);
    } else if constexpr (A == Activation::relu) {
        h = select(z > zero, z, zero);
        if constexpr (SLOPE) slope = select(z > zero, one, zero);
    } else if constexpr (A == Activation::leaky_relu) {
        const V l = broadcast<V>(leak);
        h = select(z > zero, z, l * z);
        if constexpr (SLOPE) slope = select(z > zero, one, l);
    } else if constexpr (A == Activation::softplus) {
        softplus(z, h, slope);
    } else {
        const V c = normal_cdf(z);
        h = z * c;
        if constexpr (SLOPE) slope = fma(z * broadcast<V>(0.398942280f), exp(broadcast<V>(-0.5f) * z * z), c);
    }
}

// integers: activation, hidden layers H, widths of the hidden layers.
// parameters: leak, then W_l (w_l, w_{l-1}) and b_l of each hidden layer, then w (w_H) and b.
// packed: leak; for each layer panels of W_l, b_l filled up to whole panels, panels of W_l'; then w and b.
struct Mlp {
    static constexpr int MOST_LAYERS = 4;

    static HD int width(const EnergyView& q, int layer) { return layer == 0 ? q.dim : static_cast<int>(q.integers[1 + layer]); }
    static HD int layers(const EnergyView& q) { return static_cast<int>(q.integers[1]); }
    static HD int64_t widest(const EnergyView& q) {
        int64_t most = 0;
        for (int l = 1; l <= layers(q); ++l) most = width(q, l) > most ? width(q, l) : most;
        return most;
    }
    // two rows of h in turn, the slopes of every layer
    static HD int64_t scratch(const EnergyView& q) {
        int64_t sum = 2 * widest(q);
        for (int l = 1; l <= layers(q); ++l) sum += width(q, l);
        return sum;
    }
    static HD int64_t layer_size(int64_t in, int64_t out) { return PANEL * (panels(out) * (in + 1) + panels(in) * out); }
    static int64_t packed_size(const EnergyView& q) {
        int64_t size = 2 + width(q, layers(q));
        for (int l = 1; l <= layers(q); ++l) size += layer_size(width(q, l - 1), width(q, l));
        return size;
    }
    static void pack(const EnergyView& q, float* out) {
        const float* in = q.p;
        *out++ = *in++;
        for (int l = 1; l <= layers(q); ++l) {
            const int64_t columns = width(q, l - 1), rows = width(q, l);
            pack_panels(in, rows, columns, out);
            out += PANEL * panels(rows) * columns;
            for (int64_t r = 0; r < PANEL * panels(rows); ++r) *out++ = r < rows ? in[rows * columns + r] : 0.0f;
            for (int64_t k0 = 0; k0 < columns; k0 += PANEL)
                for (int64_t r = 0; r < rows; ++r)
                    for (int64_t k = k0; k < k0 + PANEL; ++k) *out++ = k < columns ? in[r * columns + k] : 0.0f;
            in += rows * columns + rows;
        }
        for (int i = 0; i <= width(q, layers(q)); ++i) *out++ = *in++;
    }

    template <class V, int G, int MODE>
    static HD void evaluate(const EnergyView& q, const V* x, V* grad, V* energy, V* scratch) {
        switch (static_cast<Activation>(q.integers[0])) {
            case Activation::tanh: return run<V, G, MODE, Activation::tanh>(q, x, grad, energy, scratch);
            case Activation::silu: return run<V, G, MODE, Activation::silu>(q, x, grad, energy, scratch);
            case Activation::relu: return run<V, G, MODE, Activation::relu>(q, x, grad, energy, scratch);
            case Activation::leaky_relu: return run<V, G, MODE, Activation::leaky_relu>(q, x, grad, energy, scratch);
            case Activation::softplus: return run<V, G, MODE, Activation::softplus>(q, x, grad, energy, scratch);
            case Activation::gelu: return run<V, G, MODE, Activation::gelu>(q, x, grad, energy, scratch);
        }
    }

    template <class V, int G, int MODE, Activation A>
    static HD void run(const EnergyView& q, const V* x, V* grad, V* energy, V* scratch) {
        const int hidden = layers(q);
        const int64_t most = widest(q) * G;
        V* h[2] = {scratch, scratch + most};
        V* slopes[MOST_LAYERS + 1];
        const float* weights[MOST_LAYERS + 1];
        const float* p = q.p + 1;
        const V* in = x;
        V* free = scratch + 2 * most;
        for (int l = 1; l <= hidden; ++l) {
            weights[l] = p, slopes[l] = free;
            forward<V, G, MODE, A>(p, q.p[0], in, width(q, l - 1), width(q, l), h[l & 1], free);
            in = h[l & 1];
            p += layer_size(width(q, l - 1), width(q, l));
            free += static_cast<int64_t>(width(q, l)) * G;
        }
        const int last = width(q, hidden);
        if constexpr (MODE & VALUE) {
            Sums<V, G> sum;
            for (int i = 0; i < last; ++i) {
                const V w = broadcast<V>(p[i]);
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) sum.add(g, w, in[i * G + g]);
            }
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) energy[g] = narrow(sum.at[g]) + broadcast<V>(p[last]);
        }
        if constexpr (MODE & GRAD) {
            for (int i = 0; i < last; ++i) {
                const V w = broadcast<V>(p[i]);
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) slopes[hidden][i * G + g] = w * slopes[hidden][i * G + g];
            }
            for (int l = hidden; l >= 1; --l) {
                const int64_t columns = width(q, l - 1), rows = width(q, l);
                const float* transposed = weights[l] + PANEL * panels(rows) * (columns + 1);
                backward<V, G>(transposed, slopes[l], static_cast<int>(rows), static_cast<int>(columns), l > 1,
                               l > 1 ? slopes[l - 1] : grad);
            }
        }
    }

    template <class V, int G, int MODE, Activation A>
    static HD void forward(const float* weights, float leak, const V* in, int columns, int rows, V* h, V* slope) {
        const float* bias = weights + PANEL * panels(rows) * columns;
        for (int r0 = 0; r0 < rows; r0 += PANEL, weights += PANEL * columns) {
            V z[PANEL][G];
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) z[r][g] = broadcast<V>(bias[r0 + r]);
            panel_product<V, G>(weights, in, columns, z);
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) {
                if (r0 + r >= rows) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) {
                    V value, derivative = z[r][g];
                    activate<A, (MODE & GRAD) != 0>(z[r][g], leak, value, derivative);
                    h[(r0 + r) * G + g] = value;
                    if constexpr (MODE & GRAD) slope[(r0 + r) * G + g] = derivative;
                }
            }
        }
    }

    // out = W' delta, times what stands there (the slopes of the layer below) or not
    template <class V, int G>
    static HD void backward(const float* transposed, const V* delta, int rows, int columns, bool times, V* out) {
        for (int k0 = 0; k0 < columns; k0 += PANEL, transposed += PANEL * rows) {
            V sum[PANEL][G] = {};
            panel_product<V, G>(transposed, delta, rows, sum);
            EBM_FAST_UNROLL
            for (int k = 0; k < PANEL; ++k) {
                if (k0 + k >= columns) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) {
                    V& to = out[(k0 + k) * G + g];
                    to = times ? sum[k][g] * to : sum[k][g];
                }
            }
        }
    }
};

EBM_FAST_CORE_END
