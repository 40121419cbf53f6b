// Energies that are matrix products: dense Gaussian and logistic regression. The chains of a block are evaluated together.
#include "product.cuh"

namespace ebm_fast {
namespace {

// E = 1/2 (x - mu)' P (x - mu);  packed: P transposed. Scratch: y = x - mu and P y.
struct DenseGaussians {
    static constexpr int TOGETHER = 4, EIGHT = 16;
    static int64_t packed(const ChainParams& c) { return c.dim + up_to_four(c.dim) * c.dim + 4; }
    static HD int64_t matrix_size(int64_t dim) { return up_to_four(dim) * dim; }
    static HD float packed_at(const ChainParams& c, int64_t i) {
        if (i < matrix_size(c.dim)) return filled_up(c.parameters + c.dim, c.dim, c.dim, true, i);
        return i < matrix_size(c.dim) + c.dim ? c.parameters[i - matrix_size(c.dim)] : 0.0f;
    }
    static HD int64_t scratch(const ChainParams& c, int chains) { return 2 * up_to_four(c.dim) * chains; }
    static double work(const ChainParams& c) { return 1.5 * static_cast<double>(c.dim) * static_cast<double>(c.dim); }

    template <int MODE>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy) {
        if (tile.shared) evaluate<MODE>(q, tile, share, x, grad, energy, shared_scratch(tile));
        else evaluate<MODE>(q, tile, share, x, grad, energy, tile.scratch);
    }
    template <int MODE>
    static __device__ __forceinline__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad,
                                                    float& energy, float* y) {
        const float* mu = q.p + matrix_size(q.dim);
        float* product = y + up_to_four(q.dim) * tile.chains;
        EBM_FAST_EACH(i, share) y[i * tile.chains + tile.chain] = x[i] - mu[i];
        __syncthreads();
        tile_product(
            tile, q.p, q.dim, q.dim, y, 1, [](int, int) { return float4{}; },
            [&](int, int r, int c, float4 v) { four_at(product, tile.chains, r, c) = v; });
        __syncthreads();
        double sum = 0.0;
        EBM_FAST_EACH(i, share) {
            const float slope = product[i * tile.chains + tile.chain];
            if (MODE & GRAD) grad[i] = slope;
            if (MODE & VALUE) sum += static_cast<double>(slope) * y[i * tile.chains + tile.chain];
        }
        if (MODE & VALUE) energy = static_cast<float>(0.5 * share.sum(sum));
    }
};

// E = sum_n softplus(-S_n x) + 1/2 al |x|^2;  packed: S transposed, S, al. ROWS rows of S at a time, which the gradient adds up in
// SLICES, since an event may have fewer elements than a block has threads. Scratch: x, their margins, the gradient, its slices.
struct LogisticRegressions {
    static constexpr int TOGETHER = 4, EIGHT = 16;
    static constexpr int ROWS = 256, SLICES = 8;
    static HD int64_t rows(const ChainParams& c) { return c.integers[0]; }
    static HD int64_t forward_size(int64_t rows, int64_t dim) { return (rows + ROWS - 1) / ROWS * ROWS * dim; }
    static HD int64_t backward_size(int64_t rows, int64_t dim) { return rows * up_to_four(dim); }
    static int64_t packed(const ChainParams& c) { return forward_size(rows(c), c.dim) + backward_size(rows(c), c.dim) + 1; }
    // forward: ROWS rows after another, each transposed
    static HD float packed_at(const ChainParams& c, int64_t i) {
        const float* s = c.parameters + 1;
        if (i < forward_size(rows(c), c.dim)) {
            const int64_t piece = i / (ROWS * c.dim), at = i % (ROWS * c.dim), row = piece * ROWS + at % ROWS;
            return row < rows(c) ? s[row * c.dim + at / ROWS] : 0.0f;
        }
        i -= forward_size(rows(c), c.dim);
        return i < backward_size(rows(c), c.dim) ? filled_up(s, rows(c), c.dim, false, i) : c.parameters[0];
    }
    static HD int64_t scratch(const ChainParams& c, int chains) { return ((2 + SLICES) * up_to_four(c.dim) + ROWS) * chains; }
    static double work(const ChainParams& c) {
        return static_cast<double>(c.integers[0]) * (3.0 * static_cast<double>(c.dim) + 60.0);
    }

    template <int MODE>
    static __device__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad, float& energy) {
        if (tile.shared) evaluate<MODE>(q, tile, share, x, grad, energy, shared_scratch(tile));
        else evaluate<MODE>(q, tile, share, x, grad, energy, tile.scratch);
    }
    template <int MODE>
    static __device__ __forceinline__ void evaluate(const EnergyView& q, const Tile& tile, const Team& share, Row x, Row grad,
                                                    float& energy, float* state) {
        const int all = q.n0(), chains = tile.chains;
        const float *forward = q.p, *backward = forward + forward_size(all, q.dim), prior = backward[backward_size(all, q.dim)];
        float *slopes = state + up_to_four(q.dim) * chains, *margins = slopes + up_to_four(q.dim) * chains;
        float* parts = margins + ROWS * chains;
        const int wide = static_cast<int>(up_to_four(q.dim));
        double sum = 0.0, squares = 0.0;
        EBM_FAST_EACH(i, share) {
            state[i * chains + tile.chain] = x[i];
            if (MODE & GRAD) slopes[i * chains + tile.chain] = prior * x[i];
            if (MODE & VALUE) squares += static_cast<double>(x[i]) * x[i];
        }
        __syncthreads();
        for (int n = 0; n < all; n += ROWS) {
            const int rows = all - n < ROWS ? all - n : ROWS;
            tile_product(
                tile, forward + static_cast<int64_t>(n) * q.dim, ROWS, q.dim, state, 1, [](int, int) { return float4{}; },
                [&](int, int r, int c, float4 v) { four_at(margins, chains, r, c) = v; });
            __syncthreads();
            if constexpr ((MODE & VALUE) != 0) {
                for (int r = share.index(); r < (tile.helps ? 0 : rows); r += share.size()) {
                    float &z = margins[r * chains + tile.chain], loss, slope;
                    softplus(-z, loss, slope);
                    sum += loss, z = -slope;
                }
            } else {
                for (int i = tile.thread; i < rows * chains; i += tile.threads) margins[i] = -sigmoid(-margins[i]);
            }
            __syncthreads();
            if (MODE & GRAD) {
                tile_product(
                    tile, backward + static_cast<int64_t>(n) * wide, q.dim, rows, margins, SLICES,
                    [](int, int) { return float4{}; },
                    [&](int slice, int r, int c, float4 v) { four_at(parts + slice * wide * chains, chains, r, c) = v; });
                __syncthreads();
                for (int i = tile.thread; i < q.dim * chains; i += tile.threads) {
                    float total = slopes[i];
                    EBM_FAST_UNROLL
                    for (int slice = 0; slice < SLICES; ++slice) total += parts[slice * wide * chains + i];
                    slopes[i] = total;
                }
                __syncthreads();
            }
        }
        if (MODE & GRAD) {
            EBM_FAST_EACH(i, share) grad[i] = slopes[i * chains + tile.chain];
        }
        if (MODE & VALUE) energy = static_cast<float>(share.sum(sum) + (0.5 * static_cast<double>(prior)) * share.sum(squares));
        __syncthreads();  // the slopes are read before they are written again
    }
};

}  // namespace

const ChainEnergy gaussian_dense_chain = chain_energy<DenseGaussians>();
const ChainEnergy logistic_regression_chain = chain_energy<LogisticRegressions>();

}  // namespace ebm_fast
