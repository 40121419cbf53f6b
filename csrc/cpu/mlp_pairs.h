// The multilayer perceptron of core/energies/mlp.h at precision bfloat16, on instructions that multiply pairs of bfloat16 numbers and
// add both products to a float32 lane. Lane = chain; rows 2 p and 2 p + 1 of an activation share a word. The first layer's factor x
// is not rounded, its product is float32's. Numbers below 2^-126 count as 0 here, and the two products of a pair are added in turn.
#pragma once
#include "../core/energies/mlp.h"
#include "chain_kernels.h"

EBM_FAST_CORE_BEGIN

static_assert(PANEL % 2 == 0 && W == 16);

inline F add_products(F sum, U pairs, uint32_t weights) {
    return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(static_cast<int>(weights)));
}

// Rounded to bfloat16, `low` in the lower halves of the words
inline U to_pairs(F low, F high) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (U)_mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)rounded);
}

// acc[r][g] += sum_k panel[k][r] y[k][g] of the first R rows; panel and y hold pairs of k
template <int R, int G>
EBM_FAST_INLINE void pair_rows(const uint32_t* panel, const U* y, int pairs, F (&acc)[PANEL][G]) {
    for (int k = 0; k < pairs; ++k, panel += PANEL, y += G) {
        U v[G];
        EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) v[g] = y[g];
        EBM_FAST_UNROLL
        for (int r = 0; r < R; ++r) EBM_FAST_UNROLL
        for (int g = 0; g < G; ++g) acc[r][g] = add_products(acc[r][g], v[g], panel[r]);
    }
}
template <int G>
EBM_FAST_INLINE void pair_product(const uint32_t* panel, const U* y, int pairs, int rows, F (&acc)[PANEL][G]) {
    if (rows > 4) pair_rows<PANEL>(panel, y, pairs, acc);
    else if (rows > 2) pair_rows<4>(panel, y, pairs, acc);
    else pair_rows<2>(panel, y, pairs, acc);
}

// packed, in words: leak; of the first layer panels of W_1, of the others panels of pairs of W_l; b_l filled up to whole panels;
// panels of pairs of W_l'; then w filled up likewise, and b.
struct MlpPairs {
    static int64_t filled(int64_t rows) { return PANEL * panels(rows); }
    static int64_t half(int64_t n) { return (n + 1) / 2; }
    static int64_t forward_size(int layer, int64_t in, int64_t out) { return filled(out) * (layer == 1 ? in : half(in)); }
    static int64_t layer_size(int layer, int64_t in, int64_t out) {
        return forward_size(layer, in, out) + filled(out) + filled(in) * half(out);
    }
    static int64_t packed_size(const EnergyView& q) {
        int64_t size = 2 + filled(Mlp::width(q, Mlp::layers(q)));
        for (int l = 1; l <= Mlp::layers(q); ++l) size += layer_size(l, Mlp::width(q, l - 1), Mlp::width(q, l));
        return size;
    }
    // two rows of activations and two of deltas in turn, as pairs; the slopes of all layers but the last
    static int64_t scratch(const EnergyView& q) {
        int64_t sum = 4 * half(Mlp::widest(q));
        for (int l = 1; l < Mlp::layers(q); ++l) sum += 2 * half(Mlp::width(q, l));
        return sum;
    }

    static uint32_t pair(float low, float high) {
        uint32_t bits[2];
        const float rounded[2] = {nearest_bfloat16(low), nearest_bfloat16(high)};
        std::memcpy(bits, rounded, sizeof bits);
        return bits[0] >> 16 | bits[1];
    }
    // panels of pairs of the matrix with elements at(row, k)
    template <class At>
    static float* pack_pairs(int64_t rows, int64_t columns, const At& at, float* out) {
        for (int64_t r0 = 0; r0 < rows; r0 += PANEL)
            for (int64_t k = 0; k < columns; k += 2)
                for (int64_t r = r0; r < r0 + PANEL; ++r, ++out) {
                    const uint32_t word = r < rows ? pair(at(r, k), k + 1 < columns ? at(r, k + 1) : 0.0f) : 0u;
                    std::memcpy(out, &word, 4);
                }
        return out;
    }
    static void pack(const EnergyView& q, float* out) {
        const float* in = q.p;
        *out++ = *in++;
        for (int l = 1; l <= Mlp::layers(q); ++l) {
            const int64_t columns = Mlp::width(q, l - 1), rows = Mlp::width(q, l);
            if (l == 1) {
                pack_panels(in, rows, columns, out);
                for (float* end = out + filled(rows) * columns; out < end; ++out) *out = nearest_bfloat16(*out);
            } else {
                out = pack_pairs(rows, columns, [&](int64_t r, int64_t k) { return in[r * columns + k]; }, out);
            }
            for (int64_t r = 0; r < filled(rows); ++r) *out++ = r < rows ? in[rows * columns + r] : 0.0f;
            out = pack_pairs(columns, rows, [&](int64_t r, int64_t k) { return in[k * columns + r]; }, out);
            in += rows * columns + rows;
        }
        const int64_t last = Mlp::width(q, Mlp::layers(q));
        for (int64_t r = 0; r < filled(last); ++r) *out++ = r < last ? in[r] : 0.0f;
        *out = in[last];
    }

    template <int G, int MODE, Activation A>
    static void run(const EnergyView& q, const F* x, F* grad, F* energy, F* scratch) {
        const int hidden = Mlp::layers(q);
        const float leak = q.p[0];
        const int64_t most = half(Mlp::widest(q)) * G;
        U* const pairs = reinterpret_cast<U*>(scratch);
        U *const h[2] = {pairs, pairs + most}, *const deltas[2] = {pairs + 2 * most, pairs + 3 * most};
        F *slopes[Mlp::MOST_LAYERS + 1], *free = scratch + 4 * most;
        const float *layer[Mlp::MOST_LAYERS + 2], *p = q.p + 1;
        for (int l = 1; l <= hidden; ++l) {
            layer[l] = p, slopes[l] = free;
            p += layer_size(l, Mlp::width(q, l - 1), Mlp::width(q, l));
            free += 2 * half(Mlp::width(q, l)) * G;
        }
        Sums<F, G> sum;
        for (int l = 1; l <= hidden; ++l) {
            const int columns = Mlp::width(q, l - 1), rows = Mlp::width(q, l);
            const auto* in = l == 1 ? nullptr : h[(l - 1) & 1];
            const float *weights = layer[l], *bias = weights + forward_size(l, columns, rows);
            const int64_t panel = static_cast<int64_t>(PANEL) * (l == 1 ? columns : half(columns));
            for (int r0 = 0; r0 < rows; r0 += PANEL, weights += panel) {
                F z[PANEL][G];
                EBM_FAST_UNROLL
                for (int r = 0; r < PANEL; ++r) EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) z[r][g] = broadcast<F>(bias[r0 + r]);
                if (l == 1) panel_product<F, G>(weights, x, columns, rows - r0, z);
                else pair_product<G>(reinterpret_cast<const uint32_t*>(weights), in, half(columns), rows - r0, z);
                if (l < hidden) {
                    hide<G, MODE, A>(z, r0, rows, leak, h[l & 1], slopes[l]);
                } else {
                    finish<G, MODE, A>(z, r0, rows, leak, p, deltas[l & 1], sum);
                }
            }
        }
        if constexpr (MODE & VALUE) {
            const F b = broadcast<F>(p[filled(Mlp::width(q, hidden))]);
            for (int g = 0; g < G; ++g) energy[g] = narrow(sum.at[g]) + b;
        }
        if constexpr (MODE & GRAD) {
            for (int l = hidden; l >= 1; --l) {
                const int columns = Mlp::width(q, l - 1), rows = Mlp::width(q, l);
                const float* transposed = layer[l] + forward_size(l, columns, rows) + filled(rows);
                if (l > 1) backward<G>(transposed, deltas[l & 1], half(rows), columns, slopes[l - 1], deltas[(l - 1) & 1]);
                else backward<G>(transposed, deltas[l & 1], half(rows), columns, grad);
            }
        }
    }

    // h and slope of a panel of a layer that another one follows. Rows beyond the last meet weights of 0.
    template <int G, int MODE, Activation A>
    static void hide(const F (&z)[PANEL][G], int r0, int rows, float leak, U* h, F* slope) {
        EBM_FAST_UNROLL
        for (int r = 0; r < PANEL; r += 2) {
            if (r0 + r >= rows) break;
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                F value[2], derivative[2] = {};
                EBM_FAST_UNROLL
                for (int j = 0; j < 2; ++j) {
                    activate<A, (MODE & GRAD) != 0>(z[r + j][g], leak, value[j], derivative[j]);
                    if constexpr (MODE & GRAD) slope[(r0 + r + j) * G + g] = derivative[j];
                }
                h[(r0 + r) / 2 * G + g] = to_pairs(value[0], value[1]);
            }
        }
    }

    // of the last hidden layer: w . h and delta = w act'(z)
    template <int G, int MODE, Activation A>
    static void finish(const F (&z)[PANEL][G], int r0, int rows, float leak, const float* w, U* delta, Sums<F, G>& sum) {
        EBM_FAST_UNROLL
        for (int r = 0; r < PANEL; r += 2) {
            if (r0 + r >= rows) break;
            EBM_FAST_UNROLL
            for (int g = 0; g < G; ++g) {
                F value[2], derivative[2] = {};
                EBM_FAST_UNROLL
                for (int j = 0; j < 2; ++j) {
                    activate<A, (MODE & GRAD) != 0>(z[r + j][g], leak, value[j], derivative[j]);
                    const F weight = broadcast<F>(w[r0 + r + j]);
                    if constexpr (MODE & VALUE) sum.add(g, weight, value[j]);
                    derivative[j] = weight * derivative[j];
                }
                if constexpr (MODE & GRAD) delta[(r0 + r) / 2 * G + g] = to_pairs(derivative[0], derivative[1]);
            }
        }
    }

    // out = slope W' delta, rounded
    template <int G>
    static void backward(const float* transposed, const U* delta, int pairs, int columns, const F* slope, U* out) {
        for (int k0 = 0; k0 < columns; k0 += PANEL, transposed += PANEL * pairs) {
            F sum[PANEL][G] = {};
            pair_product<G>(reinterpret_cast<const uint32_t*>(transposed), delta, pairs, columns - k0, sum);
            EBM_FAST_UNROLL
            for (int k = 0; k < PANEL; k += 2) {
                if (k0 + k >= columns) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) {
                    const int at = (k0 + k) * G + g;
                    out[(k0 + k) / 2 * G + g] = to_pairs(sum[k][g] * slope[at], sum[k + 1][g] * slope[at + G]);
                }
            }
        }
    }
    // grad = W' delta
    template <int G>
    static void backward(const float* transposed, const U* delta, int pairs, int columns, F* grad) {
        for (int k0 = 0; k0 < columns; k0 += PANEL, transposed += PANEL * pairs) {
            F sum[PANEL][G] = {};
            pair_product<G>(reinterpret_cast<const uint32_t*>(transposed), delta, pairs, columns - k0, sum);
            EBM_FAST_UNROLL
            for (int k = 0; k < PANEL; ++k) {
                if (k0 + k >= columns) break;
                EBM_FAST_UNROLL
                for (int g = 0; g < G; ++g) grad[(k0 + k) * G + g] = sum[k][g];
            }
        }
    }

    template <int G, int MODE>
    static void evaluate(const EnergyView& q, const F* x, F* grad, F* energy, F* scratch) {
        switch (static_cast<Activation>(q.integers[0])) {
            case Activation::tanh: return run<G, MODE, Activation::tanh>(q, x, grad, energy, scratch);
            case Activation::silu: return run<G, MODE, Activation::silu>(q, x, grad, energy, scratch);
            case Activation::relu: return run<G, MODE, Activation::relu>(q, x, grad, energy, scratch);
            case Activation::leaky_relu: return run<G, MODE, Activation::leaky_relu>(q, x, grad, energy, scratch);
            case Activation::softplus: return run<G, MODE, Activation::softplus>(q, x, grad, energy, scratch);
            case Activation::gelu: return run<G, MODE, Activation::gelu>(q, x, grad, energy, scratch);
        }
    }
};

EBM_FAST_CORE_END
