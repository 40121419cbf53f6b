// A multilayer perceptron on tensor cores, for all chains of a thread block. Activations and deltas are rounded once, by the thread that
// computes them, and lie in shared memory as the factors that the next product wants; a warp has 16 rows of all chains. Arithmetic of
// the activations: core/energies/mlp.h.
#pragma once
#include "../core/energies/mlp.h"
#include "chain.cuh"
#include "tensor.cuh"

namespace ebm_fast {
namespace {

constexpr int ROWS = 16;  // of a warp's tile
constexpr int WORDS = 8;  // rows of words in a factor of DEPTH columns

// Floats between two rows of a block's matrices: a warp's accesses to rows 0 ... 3 then fall into different banks.
HD constexpr int row_of_chains(int chains) { return chains == 8 ? 8 : chains + 8; }

template <class Kind>
struct TensorPacking {
    static constexpr int FILL = ROWS, CHAINS = 8;
    static HD int64_t tiles(int64_t rows) { return (rows + ROWS - 1) / ROWS; }
    static HD int64_t depths(int64_t columns) { return (columns + Kind::DEPTH - 1) / Kind::DEPTH; }
    static HD int64_t forward_size(int64_t rows, int64_t columns) { return tiles(rows) * depths(columns) * 128 * Kind::LEFT; }
    static HD int64_t backward_size(int64_t rows, int64_t columns) { return forward_size(columns, rows); }
    // The left factor by tiles of 16 rows and DEPTH columns, part by part, 32 lanes of four words each.
    static HD float packed_at(const float* from, int64_t rows, int64_t columns, bool backward, int64_t i) {
        const int64_t deep = depths(backward ? rows : columns), block = i / 128 / Kind::LEFT;
        const int part = static_cast<int>(i / 128 % Kind::LEFT), lane = static_cast<int>(i % 128 / 4),
                  r = static_cast<int>(i % 4);
        const int64_t row = block / deep * ROWS + lane / 4 + 8 * (r & 1);
        const int64_t k = block % deep * Kind::DEPTH + Kind::PER_WORD * (lane % 4 + 4 * (r >> 1));
        const auto at = [&](int64_t column) {
            const int64_t above = backward ? column : row, beside = backward ? row : column;
            return above < rows && beside < columns ? Kind::part_of(from[above * columns + beside], part) : 0.0f;
        };
        return bits_to_float(to_signed(Kind::pack(at(k), Kind::PER_WORD == 2 ? at(k + 1) : 0.0f)));
    }
};

// Packed: leak, output bias, two zeros; of each layer W_l, W_l' as left factors, then b_l; the output's weights.
template <class Kind>
struct Perceptrons {
    using Packing = TensorPacking<Kind>;
    static constexpr int TOGETHER = Packing::CHAINS, EIGHT = 64;
    static HD EnergyView view(const ChainParams& c) { return {c.parameters, static_cast<int>(c.dim), c.integers}; }
    static HD int64_t filled(int64_t n) { return (n + Packing::FILL - 1) / Packing::FILL * Packing::FILL; }
    static HD int64_t layer_size(int64_t rows, int64_t columns) {
        return Packing::forward_size(rows, columns) + Packing::backward_size(rows, columns) + filled(rows);
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
                const int64_t forward = Packing::forward_size(rows, columns), both = size - filled(rows);
                if (i < forward) return Packing::packed_at(from, rows, columns, false, i);
                if (i < both) return Packing::packed_at(from, rows, columns, true, i - forward);
                return i - both < rows ? from[rows * columns + i - both] : 0.0f;
            }
            i -= size, from += rows * columns + rows;
        }
        if (head >= 4) return from[i];
        return head == 0 ? q.p[0] : head == 1 ? from[Mlp::width(q, Mlp::layers(q))] : 0.0f;
    }
    static double work(const ChainParams& c) {
        const EnergyView q = view(c);
        double sum = 0.0;
        for (int l = 1; l <= Mlp::layers(q); ++l) sum += 3.0 * Mlp::width(q, l) * Mlp::width(q, l - 1) + 60.0 * Mlp::width(q, l);
        return sum;
    }

    static HD int words(int64_t columns) { return static_cast<int>(Packing::depths(filled(columns)) * WORDS); }
    static HD int64_t scratch(const ChainParams& c, int chains) {
        const EnergyView q = view(c);
        int64_t rows = filled(c.dim) + Kind::STATE * words(c.dim) + 2 * Kind::RIGHT * words(Mlp::widest(q));
        for (int l = 1; l <= Mlp::layers(q); ++l) rows += filled(Mlp::width(q, l));
        return rows * row_of_chains(chains);
    }

    // By the number of tiles, that addresses are known to the compiler; few chains where shared memory has no room for them.
    template <int MODE>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy) {
        if (!tile.shared) return Tiles<1, false>::template evaluate<MODE>(q, tile, share, x, grad, energy);
        if (tile.chains == 32) return Tiles<4, true>::template evaluate<MODE>(q, tile, share, x, grad, energy);
        if (tile.chains == 16) return Tiles<2, true>::template evaluate<MODE>(q, tile, share, x, grad, energy);
        Tiles<1, true>::template evaluate<MODE>(q, tile, share, x, grad, energy);
    }

    struct Activated {
        float4 h, slope;
    };
    // A function of its own: inlined, six kinds would take a warp's registers.
    static __device__ __noinline__ Activated activate_four(Activation kind, float leak, float4 z) {
        switch (kind) {
            case Activation::tanh: return four<Activation::tanh>(leak, z);
            case Activation::silu: return four<Activation::silu>(leak, z);
            case Activation::relu: return four<Activation::relu>(leak, z);
            case Activation::leaky_relu: return four<Activation::leaky_relu>(leak, z);
            case Activation::softplus: return four<Activation::softplus>(leak, z);
            case Activation::gelu: return four<Activation::gelu>(leak, z);
        }
        return {};
    }
    template <Activation A> static __device__ Activated four(float leak, float4 z) {
        Activated a;
        activate<A, true>(z.x, leak, a.h.x, a.slope.x), activate<A, true>(z.y, leak, a.h.y, a.slope.y);
        activate<A, true>(z.z, leak, a.h.z, a.slope.z), activate<A, true>(z.w, leak, a.h.w, a.slope.w);
        return a;
    }

    // N tiles of eight chains side by side
    template <int N, bool SHARED>
    struct Tiles {
        static constexpr int STRIDE = row_of_chains(8 * N), UNROLL = Kind::LEFT * N > 4 ? 1 : 2;  // as many as registers allow

        // A block's memory: the state, later its gradient; its parts as a factor; two factors in turn; the slopes of all layers but the
        // last, whose activations take that place.
        struct Memory {
            float* base;  // the state; the rest by its distance, that the compiler knows which memory it is in
            int pieces, factors, slopes;
            int piece, part;  // words between the parts of the state and of a factor
            __device__ uint32_t* words_at(int offset) const { return reinterpret_cast<uint32_t*>(base) + offset; }
            __device__ uint32_t* factor(int turn) const { return words_at(factors + turn * Kind::RIGHT * part); }
        };
        static __device__ Memory memory_of(const EnergyView& q, const Tile& tile) {
            Memory m;
            m.base = SHARED ? shared_scratch(tile) : tile.scratch;
            m.piece = words(q.dim) * STRIDE, m.part = words(Mlp::widest(q)) * STRIDE;
            m.pieces = static_cast<int>(filled(q.dim)) * STRIDE;
            m.factors = m.pieces + Kind::STATE * m.piece;
            m.slopes = m.factors + 2 * Kind::RIGHT * m.part;
            return m;
        }

        template <int MODE>
        static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad,
                                        float& energy) {
            const int hidden = Mlp::layers(q);
            const Memory m = memory_of(q, tile);
            const float* p = q.p + 4;
            split_state(q, tile, share, x, m);
            __syncthreads();
            int slopes = m.slopes;
            for (int l = 1; l <= hidden; ++l) {
                const int rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1);
                forwards<MODE>(q, tile, m, p, l, slopes);
                __syncthreads();
                p += layer_size(rows, columns);
                if (l < hidden) slopes += static_cast<int>(filled(rows)) * STRIDE;
            }
            if constexpr ((MODE & VALUE) != 0) {
                double sum = 0.0;
                for (int r = share.index(); r < Mlp::width(q, hidden); r += share.size())
                    sum += static_cast<double>(p[r]) * m.base[slopes + r * STRIDE + tile.chain];
                energy = static_cast<float>(share.sum(sum)) + q.p[1];
            }
            if constexpr ((MODE & GRAD) != 0) {
                for (int l = hidden; l >= 1; --l) {
                    p -= layer_size(Mlp::width(q, l), Mlp::width(q, l - 1));
                    if (l > 1) slopes -= static_cast<int>(filled(Mlp::width(q, l - 1))) * STRIDE;
                    backwards(q, tile, m, p, l, slopes);
                    __syncthreads();
                }
                EBM_FAST_EACH(i, share) grad[i] = m.base[i * STRIDE + tile.chain];
            }
        }

        static __device__ void split_state(const EnergyView& q, const Tile& tile, const Team& share, Row x, const Memory& m) {
            if (tile.helps) return;
            share.sync();  // the team reads what each of its threads wrote
            const int rows = words(q.dim);
            for (int r = share.index(); r < rows; r += share.size()) {
                const int k = r * Kind::PER_WORD;
                const float low = k < q.dim ? x[k] : 0.0f, high = Kind::PER_WORD == 2 && k + 1 < q.dim ? x[k + 1] : 0.0f;
                EBM_FAST_UNROLL
                for (int part = 0; part < Kind::STATE; ++part)
                    m.words_at(m.pieces)[part * m.piece + r * STRIDE + tile.chain] =
                        Kind::pack(Kind::part_of(low, part), Kind::part_of(high, part));
            }
        }

        // One layer: activations as a factor and slopes beside them; of the last layer the activations themselves and, as a factor,
        // the deltas.
        template <int MODE>
        static __device__ void forwards(const EnergyView& q, const Tile& tile, const Memory& m, const float* p, int l,
                                        int slopes) {
            const int rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1);
            const float *end = p + layer_size(rows, columns), *bias = end - filled(rows);
            const float* weights = l == Mlp::layers(q) ? end : nullptr;
            const Activation kind = static_cast<Activation>(q.integers[0]);
            const float leak = q.p[0];
            const auto sink = [&](int r, int c, const float4& z) {
                const Activated a = activate_four(kind, leak, z);
                float4 out = a.h;
                if (weights) {
                    if (MODE & VALUE) put(m.base + slopes, r, c, a.h);
                    const float upper = r < rows ? weights[r] : 0.0f, lower = r + 8 < rows ? weights[r + 8] : 0.0f;
                    out = {upper * a.slope.x, upper * a.slope.y, lower * a.slope.z, lower * a.slope.w};
                } else if (MODE & GRAD) {
                    put(m.base + slopes, r, c, a.slope);
                }
                if (!weights || (MODE & GRAD)) store(m, m.factor((l + 1) & 1), r, c, out);
            };
            if (l == 1) product<Kind::STATE>(tile, p, rows, columns, m.words_at(m.pieces), m.piece, bias, sink);
            else product<Kind::RIGHT>(tile, p, rows, columns, m.factor(l & 1), m.part, bias, sink);
        }

        // The deltas below layer l, or the gradient
        static __device__ void backwards(const EnergyView& q, const Tile& tile, const Memory& m, const float* p, int l,
                                         int slopes) {
            const int rows = Mlp::width(q, l), columns = Mlp::width(q, l - 1), hidden = Mlp::layers(q);
            const int in = (hidden + 1 + hidden - l) & 1;  // they take turns from what the last layer wrote
            product<Kind::RIGHT>(
                tile, p + Packing::forward_size(rows, columns), columns, rows, m.factor(in), m.part, nullptr,
                [&](int r, int c, const float4& v) {
                    if (l == 1) return put(m.base, r, c, v);
                    const float2 upper = pair_at(m.base + slopes, r, c), lower = pair_at(m.base + slopes, r + 8, c);
                    store(m, m.factor(in ^ 1), r, c, float4{v.x * upper.x, v.y * upper.y, v.z * lower.x, v.w * lower.y});
                });
        }

        // Rows r and r + 8, chains c and c + 1 of a matrix
        static __device__ float2 pair_at(const float* rows, int r, int c) {
            return *reinterpret_cast<const float2*>(rows + r * STRIDE + c);
        }
        static __device__ void put(float* rows, int r, int c, const float4& a) {
            *reinterpret_cast<float2*>(rows + r * STRIDE + c) = float2{a.x, a.y};
            *reinterpret_cast<float2*>(rows + (r + 8) * STRIDE + c) = float2{a.z, a.w};
        }
        // The same, rounded, as a factor
        static __device__ void store(const Memory& m, uint32_t* out, int r, int c, const float4& a) {
            EBM_FAST_UNROLL
            for (int part = 0; part < Kind::RIGHT; ++part, out += m.part) {
                store_pair(out, r, c, Kind::part_of(a.x, part), Kind::part_of(a.y, part));
                store_pair(out, r + 8, c, Kind::part_of(a.z, part), Kind::part_of(a.w, part));
            }
        }
        static __device__ void store_pair(uint32_t* out, int r, int c, float left, float right) {
            if constexpr (Kind::PER_WORD == 1) {
                *reinterpret_cast<uint2*>(out + r * STRIDE + c) = uint2{Kind::pack(left, 0.0f), Kind::pack(right, 0.0f)};
            } else {  // two neighbouring rows, which are in lanes four apart, make a word
                const bool odd = r & 1;
                const float other = __shfl_xor_sync(ALL_LANES, odd ? left : right, 4);
                out[(r >> 1) * STRIDE + c + odd] = odd ? Kind::pack(other, right) : Kind::pack(left, other);
            }
        }

        // sink(r, c, four): rows r and r + 8 of start + w in, chains c and c + 1, also of the rows that fill up
        template <int PARTS, class Sink>
        static __device__ void product(const Tile& tile, const float* w, int rows, int columns, const uint32_t* in, int part,
                                       const float* start, const Sink& sink) {
            const int lane = tile.thread % 32, group = lane / 4, deep = static_cast<int>(Packing::depths(columns));
            const int tiles = static_cast<int>(Packing::tiles(rows));
            for (int at = tile.thread / 32; at < tiles; at += tile.threads / 32) {
                const float4* left =
                    reinterpret_cast<const float4*>(w) + static_cast<int64_t>(at) * deep * 32 * Kind::LEFT + lane;
                const uint32_t* right = in + lane % 4 * STRIDE + group;
                const float upper = start ? start[at * ROWS + group] : 0.0f, lower = start ? start[at * ROWS + 8 + group] : 0.0f;
                float acc[N][4];
                EBM_FAST_UNROLL
                for (int n = 0; n < N; ++n) acc[n][0] = acc[n][1] = upper, acc[n][2] = acc[n][3] = lower;
#pragma unroll UNROLL
                for (int k = 0; k < deep; ++k, left += 32 * Kind::LEFT, right += WORDS * STRIDE)
                    multiply<PARTS>(acc, left, right, part);
                EBM_FAST_UNROLL
                for (int n = 0; n < N; ++n)
                    sink(at * ROWS + group, 8 * n + 2 * (lane % 4), float4{acc[n][0], acc[n][1], acc[n][2], acc[n][3]});
            }
        }

        template <int PARTS>
        static __device__ void multiply(float (&acc)[N][4], const float4* left, const uint32_t* right, int part) {
            uint32_t a[Kind::LEFT][4];
            EBM_FAST_UNROLL
            for (int j = 0; j < Kind::LEFT; ++j) {
                const float4 words = from_global(left + j * 32);
                a[j][0] = word_of(words.x), a[j][1] = word_of(words.y), a[j][2] = word_of(words.z), a[j][3] = word_of(words.w);
            }
            EBM_FAST_UNROLL
            for (int i = 0; i < PARTS; ++i, right += part) {
                EBM_FAST_UNROLL
                for (int n = 0; n < N; ++n) {
                    const uint32_t b0 = right[8 * n], b1 = right[4 * STRIDE + 8 * n];
                    EBM_FAST_UNROLL
                    for (int j = 0; j < Kind::LEFT; ++j)
                        if (i + j < Kind::STATE || j == 0) Kind::multiply(acc[n], a[j], b0, b1);  // the least parts vanish
                }
            }
        }
    };
};

}  // namespace
}  // namespace ebm_fast
