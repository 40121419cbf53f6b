// A multilayer perceptron on tensor cores, for all chains of a thread block. Activations and deltas are rounded once, by the
// thread that computes them, and lie in shared memory as the factors that the next product wants; a warp has 16 rows of all
// chains. Arithmetic of the activations: core/energies/mlp.h.
#pragma once
#include <stdexcept>
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

// Packed: leak, output bias, two zeros; of each layer W_l, W_l' as left factors, then b_l; the output's weights, filled up.
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
        int64_t size = 4 + filled(Mlp::width(q, Mlp::layers(q)));
        for (int l = 1; l <= Mlp::layers(q); ++l) size += layer_size(Mlp::width(q, l), Mlp::width(q, l - 1));
        if (size > 0x7FFFFFFF) throw std::runtime_error("chain_cuda: an MLP may have at most 2^31 - 1 numbers, packed");
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
        if (head >= 4) return i < Mlp::width(q, Mlp::layers(q)) ? from[i] : 0.0f;
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

    // What a launch needs to know of the network, found once: rows and columns of W_l; where its two factors, its bias and the
    // next layer begin among the parameters; how many products deep both are; rows of slopes before its own.
    struct alignas(16) Layer {
        int rows, columns, forward, backward, bias, deep, back_deep, slopes;
    };
    struct alignas(16) Network {
        int hidden, kind, weights;  // of the output, among the parameters
        int state, piece, part;  // rows of the state, of words in one of its parts and in one of a factor's
        Layer layer[Mlp::MOST_LAYERS];
    };
    static __device__ Network& network() {
        __shared__ Network known;
        return known;
    }
    static __device__ void prepare(const ChainLaunch& l, int thread) {
        if (thread) return;
        const EnergyView q = view(l.c);
        Network& y = network();
        y.hidden = Mlp::layers(q), y.kind = static_cast<int>(q.integers[0]);
        y.state = static_cast<int>(filled(q.dim)), y.piece = words(q.dim), y.part = words(Mlp::widest(q));
        int at = 4, slopes = 0;
        for (int k = 1; k <= y.hidden; ++k) {
            const int rows = Mlp::width(q, k), columns = Mlp::width(q, k - 1);
            const int backward = at + static_cast<int>(Packing::forward_size(rows, columns));
            const int end = at + static_cast<int>(layer_size(rows, columns)), high = static_cast<int>(filled(rows));
            y.layer[k - 1] = {rows,
                              columns,
                              at,
                              backward,
                              end - high,
                              static_cast<int>(Packing::depths(columns)),
                              static_cast<int>(Packing::depths(rows)),
                              slopes};
            at = end, slopes += high;
        }
        y.weights = at;
    }

    // By the number of tiles, that addresses are known to the compiler; few chains where shared memory has no room for them.
    template <int MODE, class Meanwhile>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy,
                                    const Meanwhile& meanwhile) {
        if (!tile.shared) return Tiles<1, false>::template evaluate<MODE>(q, tile, share, x, grad, energy, meanwhile);
        if (tile.chains == 32) return Tiles<4, true>::template evaluate<MODE>(q, tile, share, x, grad, energy, meanwhile);
        if (tile.chains == 16) return Tiles<2, true>::template evaluate<MODE>(q, tile, share, x, grad, energy, meanwhile);
        Tiles<1, true>::template evaluate<MODE>(q, tile, share, x, grad, energy, meanwhile);
    }

    struct Activated {
        float4 h, slope;
    };
    // All but the most frequent ones in a function of its own: inlined, six kinds would take a warp's registers.
    static __device__ Activated activate_four(int kind, float leak, float4 z) {
        if (kind == static_cast<int>(Activation::tanh)) return four<Activation::tanh>(leak, z);
        return activate_by_call(static_cast<Activation>(kind), leak, z);
    }
    static __device__ __noinline__ Activated activate_by_call(Activation kind, float leak, float4 z) {
        switch (kind) {
            case Activation::tanh: break;
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
        static constexpr int STRIDE = row_of_chains(8 * N);
        static constexpr int UNROLL = 4 / N;  // as many loads at once as registers allow

        // A block's memory: the state, later its gradient; its parts as a factor; two factors in turn; the slopes of all layers
        // but the last, whose activations take that place.
        struct Memory {
            float* base;  // the state; the rest by its distance, that the compiler knows which memory it is in
            int pieces, factors, slopes;
            int piece, part;  // words between the parts of the state and of a factor
            __device__ uint32_t* words_at(int offset) const { return reinterpret_cast<uint32_t*>(base) + offset; }
            __device__ uint32_t* factor(int turn) const { return words_at(factors + turn * Kind::RIGHT * part); }
            __device__ float* slopes_of(const Layer& a) const { return base + slopes + a.slopes * STRIDE; }
        };
        static __device__ Memory memory_of(const Network& y, const Tile& tile) {
            Memory m;
            m.base = SHARED ? shared_scratch(tile) : tile.scratch;
            m.piece = y.piece * STRIDE, m.part = y.part * STRIDE;
            m.pieces = y.state * STRIDE;
            m.factors = m.pieces + Kind::STATE * m.piece;
            m.slopes = m.factors + 2 * Kind::RIGHT * m.part;
            return m;
        }

        template <int MODE, class Meanwhile>
        static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy,
                                        const Meanwhile& meanwhile) {
            const Network& y = network();
            const int hidden = y.hidden;
            const Memory m = memory_of(y, tile);
            split_state(q, tile, share, x, m);
            __syncthreads();
            for (int l = 1; l <= hidden; ++l) {
                forwards<MODE>(q.p, tile, m, y, l);
                __syncthreads();
            }
            if constexpr ((MODE & VALUE) != 0) {
                const Layer& last = y.layer[hidden - 1];
                const float *weights = q.p + y.weights, *h = m.slopes_of(last);
                double sum = 0.0;
                for (int r = share.index(); r < last.rows; r += share.size())
                    sum += static_cast<double>(weights[r]) * h[r * STRIDE + tile.chain];
                energy = static_cast<float>(share.sum(sum)) + q.p[1];
            }
            if constexpr ((MODE & GRAD) != 0) {
                for (int l = hidden; l >= 1; --l) {
                    if (l == 1 && !tile.helps) meanwhile();  // the last product is narrow, and the last warps begin with it
                    backwards(q.p, tile, m, y, l);
                    __syncthreads();
                }
                by_blocks(share, [&](int i) { return m.base[i * STRIDE + tile.chain]; }, [&](int i, float a) { grad[i] = a; });
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

        // What a thread reads of rows r and r + 8 before it multiplies
        struct Upper {
            float upper = 0.0f, lower = 0.0f;  // where the sums begin
            float weight = 0.0f, weight_below = 0.0f;
        };

        // One layer: activations as a factor and slopes beside them; of the last layer the activations themselves and, as a
        // factor, the deltas.
        template <int MODE>
        static __device__ void forwards(const float* p, const Tile& tile, const Memory& m, const Network& y, int l) {
            const Layer a = y.layer[l - 1];
            const bool last = l == y.hidden;
            const float *bias = p + a.bias, *weights = p + y.weights, leak = from_global(p);
            const int kind = y.kind;
            float* slopes = m.slopes_of(a);
            uint32_t* out = m.factor((l + 1) & 1);
            const auto start = [&](int r) {
                Upper u{from_global(bias + r), from_global(bias + r + 8)};
                if (last) u.weight = from_global(weights + r), u.weight_below = from_global(weights + r + 8);
                return u;
            };
            const auto sink = [&](int r, int c, const Upper& u, const float4& z) {
                const Activated b = activate_four(kind, leak, z);
                float4 h = b.h;
                if (last) {
                    if (MODE & VALUE) put(slopes, r, c, b.h);
                    h = {u.weight * b.slope.x, u.weight * b.slope.y, u.weight_below * b.slope.z, u.weight_below * b.slope.w};
                } else if (MODE & GRAD) {
                    put(slopes, r, c, b.slope);
                }
                if (!last || (MODE & GRAD)) store(m, out, r, c, h);
            };
            const int tiles = (a.rows + ROWS - 1) / ROWS;
            if (l == 1)
                product<Kind::STATE, false>(tile, p + a.forward, tiles, a.deep, m.words_at(m.pieces), m.piece, start, sink);
            else product<Kind::RIGHT, false>(tile, p + a.forward, tiles, a.deep, m.factor(l & 1), m.part, start, sink);
        }

        // The deltas below layer l, or the gradient
        static __device__ void backwards(const float* p, const Tile& tile, const Memory& m, const Network& y, int l) {
            const Layer a = y.layer[l - 1];
            const int in = (y.hidden + 1 + y.hidden - l) & 1;  // they take turns from what the last layer wrote
            const float* slopes = l > 1 ? m.slopes_of(y.layer[l - 2]) : nullptr;
            uint32_t* out = m.factor(in ^ 1);
            product<Kind::RIGHT, true>(
                tile, p + a.backward, (a.columns + ROWS - 1) / ROWS, a.back_deep, m.factor(in), m.part,
                [](int) { return Upper(); },
                [&](int r, int c, const Upper&, const float4& v) {
                    if (l == 1) return put(m.base, r, c, v);
                    const float2 upper = pair_at(slopes, r, c), lower = pair_at(slopes, r + 8, c);
                    store(m, out, r, c, float4{v.x * upper.x, v.y * upper.y, v.z * lower.x, v.w * lower.y});
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

        // sink(r, c, u, four): rows r and r + 8 of start + w in, chains c and c + 1, also of the rows that fill up; u = start(r)
        // LAST: the last warps begin.
        template <int PARTS, bool LAST, class Start, class Sink>
        static __device__ void product(const Tile& tile, const float* w, int tiles, int deep, const uint32_t* in, int part,
                                       const Start& start, const Sink& sink) {
            const int lane = tile.thread % 32, group = lane / 4, warp = tile.thread / 32, warps = tile.threads / 32;
            for (int at = LAST ? warps - 1 - warp : warp; at < tiles; at += warps) {
                const float4* left = reinterpret_cast<const float4*>(w) + (at * deep * 32 * Kind::LEFT + lane);
                const uint32_t* right = in + lane % 4 * STRIDE + group;
                const Upper u = start(at * ROWS + group);
                float acc[N][4];
                EBM_FAST_UNROLL
                for (int n = 0; n < N; ++n) acc[n][0] = acc[n][1] = u.upper, acc[n][2] = acc[n][3] = u.lower;
#pragma unroll UNROLL
                for (int k = 0; k < deep; ++k, left += 32 * Kind::LEFT, right += WORDS * STRIDE)
                    multiply<PARTS>(acc, left, right, part);
                EBM_FAST_UNROLL
                for (int n = 0; n < N; ++n)
                    sink(at * ROWS + group, 8 * n + 2 * (lane % 4), u, float4{acc[n][0], acc[n][1], acc[n][2], acc[n][3]});
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
