// A multilayer perceptron for all chains of a thread block: `Product` computes layers (in float32, or on tensor cores), this file the
// rest. Arithmetic of the activations: core/energies/mlp.h.
//   Product::forward_size, backward_size(rows, columns): floats of a packed matrix;  packed_at(from, rows, columns, backward, i);
//   Product::run(tile, w, rows, columns, in, start, sink, unrounded): as tile_product; `in` as it is, whatever the product rounds;
//   FILL, CHAINS: rows and chains come in multiples of them.
#pragma once
#include "../core/energies/mlp.h"
#include "product.cuh"

namespace ebm_fast {
namespace {

// Packed: leak, output bias, two zeros; of each layer W_l, W_l' as `Product` wants them, then b_l; the output's weights.
template <class Product>
struct Perceptrons {
    static constexpr int TOGETHER = Product::CHAINS;
    static HD EnergyView view(const ChainParams& c) { return {c.parameters, static_cast<int>(c.dim), c.integers}; }
    static HD int64_t filled(int64_t n) { return (n + Product::FILL - 1) / Product::FILL * Product::FILL; }
    static HD int64_t layer_size(int64_t rows, int64_t columns) {
        return Product::forward_size(rows, columns) + Product::backward_size(rows, columns) + filled(rows);
    }
    static int64_t packed(const ChainParams& c) {
        const EnergyView q = view(c);
        int64_t size = 4 + Mlp::width(q, Mlp::layers(q));
        for (int l = 1; l <= Mlp::layers(q); ++l) size += layer_size(Mlp::width(q, l), Mlp::width(q, l - 1));
        return size;
    }
    static HD float packed_at(const ChainParams& c, int64_t i) {
        const EnergyView q = view(c);
        const float* from = q.p + 1;
        const int64_t head = i;
        i -= 4;
        for (int l = 1; l <= Mlp::layers(q); ++l) {
            const int64_t rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1), size = layer_size(rows, columns);
            if (i >= 0 && i < size) {
                const int64_t forward = Product::forward_size(rows, columns), both = size - filled(rows);
                if (i < forward) return Product::packed_at(from, rows, columns, false, i);
                if (i < both) return Product::packed_at(from, rows, columns, true, i - forward);
                return i - both < rows ? from[rows * columns + i - both] : 0.0f;
            }
            i -= size, from += rows * columns + rows;
        }
        if (head >= 4) return from[i];
        return head == 0 ? q.p[0] : head == 1 ? from[Mlp::width(q, Mlp::layers(q))] : 0.0f;
    }
    // x, later its gradient; two rows of h in turn; z of every layer, later its slope
    static HD int64_t scratch(const ChainParams& c, int chains) {
        const EnergyView q = view(c);
        int64_t sum = filled(c.dim) + 2 * filled(Mlp::widest(q));
        for (int l = 1; l <= Mlp::layers(q); ++l) sum += filled(Mlp::width(q, l));
        return sum * chains;
    }
    static double work(const ChainParams& c) {
        const EnergyView q = view(c);
        double sum = 0.0;
        for (int l = 1; l <= Mlp::layers(q); ++l) sum += 3.0 * Mlp::width(q, l) * Mlp::width(q, l - 1) + 60.0 * Mlp::width(q, l);
        return sum;
    }

    template <int MODE>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy) {
        const int hidden = Mlp::layers(q), chains = tile.chains;
        const auto of = [&](float* rows, int r) -> float& { return rows[r * chains + tile.chain]; };
        const float* p = q.p + 4;
        const int64_t most = filled(Mlp::widest(q)) * chains;
        float *state = tile.scratch, *even = state + filled(q.dim) * chains, *odd = even + most, *z = odd + most;
        EBM_FAST_EACH(i, share) of(state, i) = x[i];
        __syncthreads();
        const float* in = state;
        for (int l = 1; l <= hidden; ++l) {
            const int rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1);
            const float* bias = p + layer_size(rows, columns) - filled(rows);
            Product::run(
                tile, p, rows, columns, in, [&](int r) { return bias[r]; },
                [&](int r, int c, auto v) { put(z, chains, r, c, v); }, l == 1);
            __syncthreads();
            float* out = l & 1 ? odd : even;
            activate_rows<(MODE & GRAD) != 0>(q, tile, rows, z, out);
            __syncthreads();
            in = out;
            p += layer_size(rows, columns);
            if (l < hidden) z += filled(rows) * chains;
        }
        const int last = Mlp::width(q, hidden);
        double sum = 0.0;
        for (int r = share.index(); r < last; r += share.size()) {
            if (MODE & VALUE) sum += static_cast<double>(p[r]) * in[r * chains + tile.chain];
            if (MODE & GRAD) of(z, r) = p[r] * of(z, r);
        }
        if (MODE & VALUE) energy = static_cast<float>(share.sum(sum)) + q.p[1];
        __syncthreads();
        if constexpr ((MODE & GRAD) != 0) {
            for (int l = hidden; l >= 1; --l) {
                const int rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1);
                float* below = l > 1 ? z - filled(columns) * chains : state;
                p -= layer_size(rows, columns);
                Product::run(
                    tile, p + Product::forward_size(rows, columns), columns, rows, z, [](int) { return 0.0f; },
                    [&](int r, int c, auto v) {
                        if (l > 1) times(below, chains, r, c, v);
                        else put(below, chains, r, c, v);
                    },
                    false);
                __syncthreads();
                z = below;
            }
            EBM_FAST_EACH(i, share) grad[i] = of(state, i);
        }
    }

    // h = act(z), and z becomes the slope there
    template <bool SLOPE>
    static __device__ void activate_rows(const EnergyView& q, const Tile& tile, int rows, float* z, float* h) {
        switch (static_cast<Activation>(q.integers[0])) {
            case Activation::tanh: return activated<Activation::tanh, SLOPE>(q.p[0], tile, rows, z, h);
            case Activation::silu: return activated<Activation::silu, SLOPE>(q.p[0], tile, rows, z, h);
            case Activation::relu: return activated<Activation::relu, SLOPE>(q.p[0], tile, rows, z, h);
            case Activation::leaky_relu: return activated<Activation::leaky_relu, SLOPE>(q.p[0], tile, rows, z, h);
            case Activation::softplus: return activated<Activation::softplus, SLOPE>(q.p[0], tile, rows, z, h);
            case Activation::gelu: return activated<Activation::gelu, SLOPE>(q.p[0], tile, rows, z, h);
        }
    }
    template <Activation A, bool SLOPE>
    static __device__ void activated(float leak, const Tile& tile, int rows, float* z, float* h) {
        for (int i = tile.thread; i < rows * tile.chains; i += tile.threads) {
            float value, slope;
            activate<A, SLOPE>(z[i], leak, value, slope);
            h[i] = value;
            if (SLOPE) z[i] = slope;
        }
    }

    static __device__ void put(float* rows, int chains, int r, int c, float4 v) { four_at(rows, chains, r, c) = v; }
    static __device__ void put(float* rows, int chains, int r, int c, float2 v) {
        *reinterpret_cast<float2*>(rows + r * chains + c) = v;
    }
    static __device__ void times(float* rows, int chains, int r, int c, float4 v) {
        const float4 s = four_at(rows, chains, r, c);
        four_at(rows, chains, r, c) = float4{v.x * s.x, v.y * s.y, v.z * s.z, v.w * s.w};
    }
    static __device__ void times(float* rows, int chains, int r, int c, float2 v) {
        float2& s = *reinterpret_cast<float2*>(rows + r * chains + c);
        s = float2{v.x * s.x, v.y * s.y};
    }
};

}  // namespace
}  // namespace ebm_fast
