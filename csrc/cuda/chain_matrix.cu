// Energies that are matrix products: dense Gaussian and logistic regression. The chains of a block are evaluated together, with
// the matrix in shared memory where that has room: the same sums in the same order.
#include "product.cuh"

namespace ebm_fast {
namespace {

// E = 1/2 (x - mu)' P (x - mu);  packed: P transposed, mu. Scratch: y = x - mu and P y.
struct DenseGaussians {
    static constexpr int TOGETHER = 4, EIGHT = 16;
    static int64_t packed(const ChainParams& c) { return c.dim + up_to_four(c.dim) * c.dim + 4; }
    static HD int64_t matrix_size(int64_t dim) { return up_to_four(dim) * dim; }
    static HD float packed_at(const ChainParams& c, int64_t i) {
        const int64_t mu = i - matrix_size(c.dim), column = i / up_to_four(c.dim), row = i % up_to_four(c.dim);
        if (mu >= 0) return mu < c.dim ? c.parameters[mu] : 0.0f;
        return row < c.dim ? c.parameters[c.dim + row * c.dim + column] : 0.0f;
    }
    static HD int64_t scratch(const ChainParams& c, int chains) { return 2 * up_to_four(c.dim) * chains; }
    static double work(const ChainParams& c) { return 1.5 * static_cast<double>(c.dim) * static_cast<double>(c.dim); }
    static HD int64_t near(const ChainParams& c, int) { return matrix_size(c.dim) + c.dim; }
    static __device__ void prepare(const ChainLaunch& l, int thread) {
        if (!l.near) return;
        float* to = shared_float(l.near);
        const int all = static_cast<int>(near(l.c, l.chains));
        for (int i = thread; i < all; i += l.threads) to[i] = from_global(l.parameters + i);
    }

    template <int MODE, class Meanwhile>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy,
                                    const Meanwhile& meanwhile) {
        meanwhile();
        where_they_lie(tile, q.p, [&](float* y, const float* p, auto near) {
            constexpr bool NEAR = decltype(near)::value;
            const float* mu = p + matrix_size(q.dim);
            float* product = y + up_to_four(q.dim) * tile.chains;
            by_blocks(
                share, [&](int i) { return x[i] - read<NEAR>(mu + i); },
                [&](int i, float a) { y[i * tile.chains + tile.chain] = a; });
            __syncthreads();
            tile_product<NEAR>(
                tile, p, q.dim, q.dim, y, 1, [](int, int, int) { return float4{}; },
                [&](int, int r, int c, float4 v) { four_at(product, tile.chains, r, c) = v; });
            __syncthreads();
            double sum = 0.0;
            by_blocks(
                share, [&](int i) { return product[i * tile.chains + tile.chain]; },
                [&](int i, float slope) {
                    if (MODE & GRAD) grad[i] = slope;
                    if (MODE & VALUE) sum += static_cast<double>(slope) * y[i * tile.chains + tile.chain];
                });
            if (MODE & VALUE) energy = static_cast<float>(0.5 * share.sum(sum));
        });
    }
};

// E = sum_n softplus(-S_n x) + 1/2 al |x|^2. The rows of S are cut into SLICES over which the gradient is summed one by one,
// since an event may have fewer elements than a block has threads. In shared memory S lies row by row, and all is done in one
// pass; else ROWS rows are taken at a time, the next PIECE of each slice.
// Packed: these rows, transposed, one such set after the other; the same not transposed; al. Scratch: x, the slices' sums,
// margins.
struct LogisticRegressions {
    static constexpr int TOGETHER = 4, EIGHT = 16;
    static constexpr int SLICES = 8, PIECE = 32, ROWS = SLICES * PIECE;
    static HD int64_t rows(const ChainParams& c) { return c.integers[0]; }
    static HD int64_t slice(int64_t rows) { return (rows + SLICES - 1) / SLICES; }
    static HD int64_t pieces(int64_t rows) { return (slice(rows) + PIECE - 1) / PIECE; }
    static HD int64_t forward_size(int64_t rows, int64_t dim) { return pieces(rows) * ROWS * dim; }
    static HD int64_t backward_size(int64_t rows, int64_t dim) { return pieces(rows) * ROWS * up_to_four(dim); }
    static int64_t packed(const ChainParams& c) { return forward_size(rows(c), c.dim) + backward_size(rows(c), c.dim) + 1; }
    // Row r of the set `piece`, or -1
    static HD int64_t row_of(int64_t piece, int64_t r, int64_t rows) {
        const int64_t at = piece * PIECE + r % PIECE, row = r / PIECE * slice(rows) + at;
        return at < slice(rows) && row < rows ? row : -1;
    }
    static HD float packed_at(const ChainParams& c, int64_t i) {
        const int64_t all = rows(c), forward = forward_size(all, c.dim), wide = up_to_four(c.dim);
        if (i - forward >= backward_size(all, c.dim)) return c.parameters[0];
        const bool transposed = i < forward;
        if (!transposed) i -= forward;
        const int64_t width = transposed ? c.dim : wide, piece = i / (ROWS * width), at = i % (ROWS * width);
        const int64_t row = row_of(piece, transposed ? at % ROWS : at / wide, all), k = transposed ? at / ROWS : at % wide;
        return row >= 0 && k < c.dim ? c.parameters[1 + row * c.dim + k] : 0.0f;
    }
    static HD int64_t scratch(const ChainParams& c, int chains) { return ((1 + SLICES) * up_to_four(c.dim) + ROWS) * chains; }
    static double work(const ChainParams& c) {
        return static_cast<double>(c.integers[0]) * (3.0 * static_cast<double>(c.dim) + 60.0);
    }

    // Near: al, margins of all rows, S with rows of an odd length, that neighbouring threads read other banks along rows and
    // columns.
    static HD int stride(int64_t dim) { return static_cast<int>(dim | 1); }
    static HD int64_t near(const ChainParams& c, int chains) { return 4 + rows(c) * (chains + stride(c.dim)); }
    static __device__ void prepare(const ChainLaunch& l, int thread) {
        if (!l.near) return;
        const int all = static_cast<int>(rows(l.c)), dim = static_cast<int>(l.c.dim), wide = static_cast<int>(up_to_four(dim));
        const float* from = l.parameters + forward_size(all, dim);
        float *to = shared_float(l.near), *s = to + 4 + all * l.chains;
        if (thread == 0) to[0] = from[backward_size(all, dim)];
        for (int i = thread; i < all * dim; i += l.threads) {
            const int row = i / dim, k = i % dim, at = row % static_cast<int>(slice(all));
            const int set = at / PIECE, r = row / static_cast<int>(slice(all)) * PIECE + at % PIECE;
            s[row * stride(dim) + k] = from_global(from + (static_cast<int64_t>(set) * ROWS + r) * wide + k);
        }
    }

    template <int MODE, class Meanwhile>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy,
                                    const Meanwhile& meanwhile) {
        meanwhile();
        where_they_lie(tile, q.p, [&](float* state, const float* p, auto near) {
            constexpr bool NEAR = decltype(near)::value;
            const int all = q.n0(), chains = tile.chains, wide = static_cast<int>(up_to_four(q.dim));
            const float prior = NEAR ? p[0] : p[forward_size(all, q.dim) + backward_size(all, q.dim)];
            float* parts = state + wide * chains;
            double sum = 0.0, squares = 0.0;
            by_blocks(
                share, [&](int i) { return x[i]; },
                [&](int i, float a) {
                    state[i * chains + tile.chain] = a;
                    if (MODE & VALUE) squares += static_cast<double>(a) * a;
                });
            __syncthreads();
            if constexpr (NEAR) at_once<MODE>(q, tile, share, state, parts, const_cast<float*>(p) + 4, sum);
            else by_pieces<MODE>(q, tile, share, state, parts, p, sum);
            if (MODE & GRAD) {
                const auto total = [&](int i) {
                    float sum = prior * x[i];
                    EBM_FAST_UNROLL
                    for (int s = 0; s < SLICES; ++s) sum += parts[(s * wide + i) * chains + tile.chain];
                    return sum;
                };
                by_blocks(share, total, [&](int i, float a) { grad[i] = a; });
            }
            if (MODE & VALUE)
                energy = static_cast<float>(share.sum(sum) + (0.5 * static_cast<double>(prior)) * share.sum(squares));
        });
    }

    // The losses of a set's rows to `sum`, and their slopes in place of their margins; margin(r, row): where that is
    template <class Margin>
    static __device__ void losses(const Tile& tile, const Team& share, int set, int all, double& sum, const Margin& margin) {
        for (int r = share.index(); r < (tile.helps ? 0 : ROWS); r += share.size()) {
            const int row = static_cast<int>(row_of(set, r, all));
            if (row < 0) continue;
            float &z = margin(r, row), loss, slope;
            softplus(-z, loss, slope);
            sum += loss, z = -slope;
        }
    }

    template <int MODE>
    static __device__ void by_pieces(const EnergyView& q, const Tile& tile, const Team& share, float* state, float* parts,
                                     const float* p, double& sum) {
        const int all = q.n0(), chains = tile.chains, wide = static_cast<int>(up_to_four(q.dim));
        const int64_t forward = static_cast<int64_t>(ROWS) * q.dim, backward = static_cast<int64_t>(ROWS) * wide;
        const float* last = p + forward_size(all, q.dim);
        float* margins = parts + SLICES * wide * chains;
        for (int set = 0; set < pieces(all); ++set) {
            tile_product<false>(
                tile, p + set * forward, ROWS, q.dim, state, 1, [](int, int, int) { return float4{}; },
                [&](int, int r, int c, float4 v) { four_at(margins, chains, r, c) = v; });
            __syncthreads();
            if constexpr ((MODE & VALUE) != 0) {
                losses(tile, share, set, all, sum, [&](int r, int) -> float& { return margins[r * chains + tile.chain]; });
            } else {
                for (int i = tile.thread; i < ROWS * chains; i += tile.threads) margins[i] = -sigmoid(-margins[i]);
            }
            __syncthreads();
            if (MODE & GRAD) {
                tile_product<false>(
                    tile, last + set * backward, q.dim, ROWS, margins, SLICES,
                    [&](int s, int r, int c) { return set ? four_at(parts + s * wide * chains, chains, r, c) : float4{}; },
                    [&](int s, int r, int c, float4 v) { four_at(parts + s * wide * chains, chains, r, c) = v; });
                __syncthreads();
            }
        }
    }

    template <int MODE>
    static __device__ void at_once(const EnergyView& q, const Tile& tile, const Team& share, const float* state, float* parts,
                                   float* margins, double& sum) {
        const int all = q.n0(), chains = tile.chains, quads = chains / 4, wide = static_cast<int>(up_to_four(q.dim));
        const int rows_apart = stride(q.dim), length = static_cast<int>(slice(all));
        const float* s = margins + all * chains;
        for (int task = tile.thread; task < all * quads; task += tile.threads) {
            const int row = task % all, c = task / all * 4;
            const float4 z = sum_over(s + row * rows_apart, 1, state + c, chains, q.dim);
            four_at(margins, chains, row, c) =
                MODE & VALUE ? z : float4{-sigmoid(-z.x), -sigmoid(-z.y), -sigmoid(-z.z), -sigmoid(-z.w)};
        }
        __syncthreads();
        if constexpr ((MODE & VALUE) != 0) {
            for (int set = 0; set < pieces(all); ++set)
                losses(tile, share, set, all, sum, [&](int, int row) -> float& { return margins[row * chains + tile.chain]; });
            __syncthreads();
        }
        if (MODE & GRAD) {
            const int each = q.dim * quads;
            for (int task = tile.thread; task < each * SLICES; task += tile.threads) {
                const int part = task / each, k = task % each % q.dim, c = task % each / q.dim * 4, first = part * length;
                const int count = all - first < length ? all - first : length;
                four_at(parts + part * wide * chains, chains, k, c) =
                    sum_over(s + first * rows_apart + k, rows_apart, margins + first * chains + c, chains, count);
            }
            __syncthreads();
        }
    }

    // sum_k a[k by] b[k chains], four chains
    static __device__ __forceinline__ float4 sum_over(const float* a, int by, const float* b, int chains, int count) {
        float4 sum = {};
#pragma unroll 8
        for (int k = 0; k < count; ++k) {
            const float left = a[k * by];
            const float4 right = *reinterpret_cast<const float4*>(b + k * chains);
            sum.x = fma(left, right.x, sum.x), sum.y = fma(left, right.y, sum.y);
            sum.z = fma(left, right.z, sum.z), sum.w = fma(left, right.w, sum.w);
        }
        return sum;
    }
};

}  // namespace

const ChainEnergy gaussian_dense_chain = chain_energy<DenseGaussians>();
const ChainEnergy logistic_regression_chain = chain_energy<LogisticRegressions>();

}  // namespace ebm_fast
