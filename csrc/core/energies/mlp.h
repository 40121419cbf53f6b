// A multilayer perceptron: E = w . h_H + b, h_l = act(W_l h_{l-1} + b_l), h_0 = x, with 1 to 4 hidden layers.
// With precision bfloat16 the W_l, h_1 ... h_{H-1} as factors of W_l and the deltas of the way back are rounded, sums are not.
#pragma once
#include <cstring>
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

// The nearest bfloat16 number, ties to even
inline float nearest_bfloat16(float a) {
    uint32_t bits;
    std::memcpy(&bits, &a, 4);
    bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
    if (a == a) std::memcpy(&a, &bits, 4);
    return a;
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
            const int64_t columns = width(q, l - 1), rows = width(q, l), filled = PANEL * panels(rows);
            float* const begin = out;
            pack_panels(in, rows, columns, out);
            out += filled * columns;
            float* const bias = out;
            out += filled;
            pack_transposed(in, rows, columns, out);
            out += PANEL * panels(columns) * rows;
            if (coarse(q))
                for (float* a = begin; a < out; ++a) *a = nearest_bfloat16(*a);
            in += rows * columns;
            for (int64_t r = 0; r < filled; ++r) bias[r] = r < rows ? *in++ : 0.0f;
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
        const int hidden = layers(q), last = width(q, hidden);
        const float leak = q.p[0];
        const int64_t most = widest(q) * G;
        V* h[2] = {scratch, scratch + most};
        V* slopes[MOST_LAYERS + 1];
        const float* weights[MOST_LAYERS + 1];
        const float* p = q.p + 1;
        const V* in = x;
        V* free = scratch + 2 * most;
        for (int l = 1; l <= hidden; ++l) {
            weights[l] = p, slopes[l] = free;
            p += layer_size(width(q, l - 1), width(q, l));
            free += static_cast<int64_t>(width(q, l)) * G;
        }
        for (int l = 1; l < hidden; ++l) {
            V *out = h[l & 1], *slope = slopes[l];
            forward<V, G>(weights[l], in, width(q, l - 1), width(q, l), [&](int r, int g, V z) {
                V value, derivative = z;
                activate<A, (MODE & GRAD) != 0>(z, leak, value, derivative);
                out[r * G + g] = value;
                if constexpr (MODE & GRAD) slope[r * G + g] = derivative;
            });
            if (coarse(q)) round_rows(out, width(q, l) * G);
            in = out;
        }
        Sums<V, G> sum;
        V* delta = slopes[hidden];
        forward<V, G>(weights[hidden], in, width(q, hidden - 1), last, [&](int r, int g, V z) {
            V value, derivative = z;
            const V w = broadcast<V>(p[r]);
            activate<A, (MODE & GRAD) != 0>(z, leak, value, derivative);
            if constexpr (MODE & VALUE) sum.add(g, w, value);
            if constexpr (MODE & GRAD) delta[r * G + g] = w * derivative;
        });
        if constexpr (MODE & VALUE) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) energy[g] = narrow(sum.at[g]) + broadcast<V>(p[last]);
        if constexpr (MODE & GRAD) {
            for (int l = hidden; l >= 1; --l) {
                const int columns = width(q, l - 1), rows = width(q, l);
                const float* transposed = weights[l] + PANEL * panels(rows) * (columns + 1);
                if (coarse(q)) round_rows(slopes[l], rows * G);
                backward<V, G>(transposed, slopes[l], rows, columns, l > 1, l > 1 ? slopes[l - 1] : grad);
            }
        }
    }

    // sink(row, group, z) of each z = W in + b
    template <class V, int G, class Sink>
    static HD void forward(const float* weights, const V* in, int columns, int rows, const Sink& sink) {
        const float* bias = weights + PANEL * panels(rows) * columns;
        for (int r0 = 0; r0 < rows; r0 += PANEL, weights += PANEL * columns) {
            V z[PANEL][G];
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) z[r][g] = broadcast<V>(bias[r0 + r]);
            panel_product<V, G>(weights, in, columns, rows - r0, z);
            EBM_FAST_UNROLL
            for (int r = 0; r < PANEL; ++r) {
                if (r0 + r >= rows) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) sink(r0 + r, g, z[r][g]);
            }
        }
    }

    // out = W' delta, times what stands there (the slopes of the layer below) or not
    template <class V, int G>
    static HD void backward(const float* transposed, const V* delta, int rows, int columns, bool times, V* out) {
        for (int k0 = 0; k0 < columns; k0 += PANEL, transposed += PANEL * rows) {
            V sum[PANEL][G] = {};
            panel_product<V, G>(transposed, delta, rows, columns - k0, sum);
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

    static HD bool coarse(const EnergyView& q) { return q.precision == static_cast<int>(Precision::bfloat16); }
    template <class V>
    static HD void round_rows(V* a, int count) {
        for (int i = 0; i < count; ++i) a[i] = round_bfloat16(a[i]);
    }
};

EBM_FAST_CORE_END
