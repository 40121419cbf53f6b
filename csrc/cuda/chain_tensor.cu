// Multilayer perceptrons on tensor cores: products of numbers rounded to tf32 or bfloat16, sums in float32; the state itself, which is
// the first layer's input, is not rounded but multiplied in parts. A warp has 16 rows of up
// to 32 chains. The layout of the fragments is that of PTX's mma.m16n8k8 (tf32) and mma.m16n8k16 (bf16).
#include "chain_mlp.cuh"

namespace ebm_fast {
namespace {

constexpr int ROWS = 16, MOST_TILES = 4;  // rows of a warp's tile; tiles of eight chains side by side

HD inline uint32_t word_of(float a) { return static_cast<uint32_t>(float_to_bits(a)); }
// Rounded to 10 bits behind the point, ties away from zero, as cvt.rna.tf32
HD inline uint32_t to_tf32(float a) { return a - a == 0.0f ? (word_of(a) + 0x1000u) & 0xFFFFE000u : word_of(a); }
// To nearest, ties to even, in the upper half
HD inline uint32_t to_bfloat16(float a) {
    const uint32_t bits = word_of(a);
    return (a == a ? bits + 0x7FFFu + ((bits >> 16) & 1u) : bits | 0x400000u) & 0xFFFF0000u;
}
HD inline uint32_t pair_of(float low, float high) { return to_bfloat16(low) >> 16 | to_bfloat16(high); }

HD inline float element(const float* from, int64_t rows, int64_t columns, bool transposed, int64_t row, int64_t k) {
    const int64_t r = transposed ? k : row, c = transposed ? row : k;
    return r < rows && c < columns ? from[r * columns + c] : 0.0f;
}

// What mma does, lane by lane: for the tests that run this source on a CPU.
template <int DEPTH, int HALF, class Value>
__device__ inline void multiply_by_shuffles(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Value& value) {
    const int lane = threadIdx.x % 32, per_word = HALF / 4;
    for (int k = 0; k < DEPTH; ++k) {
        const int at = k % HALF / per_word, part = k % per_word;
        const bool upper = k >= HALF;
        float left[2], right[2];
        for (int j = 0; j < 2; ++j) {
            left[j] = value(__shfl_sync(ALL_LANES, a[j + 2 * upper], lane / 4 * 4 + at, 32), part);
            right[j] = value(__shfl_sync(ALL_LANES, upper ? b1 : b0, (lane % 4 * 2 + j) * 4 + at, 32), part);
        }
        for (int j = 0; j < 4; ++j) d[j] = fma(left[j / 2], right[j % 2], d[j]);
    }
}

// What is left of a when its first parts, each rounded, are taken away.
template <class Kind>
HD inline float part_of(float a, int part) {
    for (int k = 0; k < part; ++k) a = a - Kind::rounded(a);
    return a;
}

struct Tf32 {
    static constexpr int DEPTH = 8, PARTS = 2;
    static HD float rounded(float a) { return bits_to_float(to_signed(to_tf32(a))); }
    // register r of a lane of the left factor: one number
    static HD uint32_t packed(const float* from, int64_t rows, int64_t columns, bool transposed, int64_t row, int64_t k, int r) {
        return to_tf32(element(from, rows, columns, transposed, row + 8 * (r & 1), k + 4 * (r >> 1)));
    }
    static HD int64_t column_of(int lane) { return lane % 4; }
    // register r of the right factor
    static __device__ uint32_t right(const float* in, int chains, int columns, int k0, int chain, int lane, int r, int part) {
        const int k = k0 + lane % 4 + 4 * r;
        return k < columns ? to_tf32(part_of<Tf32>(in[k * chains + chain], part)) : 0u;
    }
    static __device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
        multiply_by_shuffles<8, 4>(d, a, b0, b1, [](uint32_t word, int) { return bits_to_float(to_signed(word)); });
#endif
    }
};

struct BFloat16 {
    static constexpr int DEPTH = 16, PARTS = 3;
    static HD float rounded(float a) { return bits_to_float(to_signed(to_bfloat16(a))); }
    static HD uint32_t packed(const float* from, int64_t rows, int64_t columns, bool transposed, int64_t row, int64_t k, int r) {
        row += 8 * (r & 1), k += 8 * (r >> 1);
        return pair_of(element(from, rows, columns, transposed, row, k), element(from, rows, columns, transposed, row, k + 1));
    }
    static HD int64_t column_of(int lane) { return 2 * (lane % 4); }
    static __device__ uint32_t right(const float* in, int chains, int columns, int k0, int chain, int lane, int r, int part) {
        const int k = k0 + 2 * (lane % 4) + 8 * r;
        return pair_of(k < columns ? part_of<BFloat16>(in[k * chains + chain], part) : 0.0f,
                       k + 1 < columns ? part_of<BFloat16>(in[(k + 1) * chains + chain], part) : 0.0f);
    }
    static __device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
        multiply_by_shuffles<16, 8>(d, a, b0, b1, [](uint32_t word, int part) {
            return bits_to_float(to_signed(part ? word & 0xFFFF0000u : word << 16));
        });
#endif
    }
};

// Packed: the left factor by tiles of 16 rows and DEPTH columns, 32 lanes of four words each.
template <class Kind>
struct TensorProduct {
    static constexpr int FILL = ROWS, CHAINS = 8;
    static HD int64_t tiles(int64_t rows) { return (rows + ROWS - 1) / ROWS; }
    static HD int64_t depths(int64_t columns) { return (columns + Kind::DEPTH - 1) / Kind::DEPTH; }
    static HD int64_t forward_size(int64_t rows, int64_t columns) { return tiles(rows) * depths(columns) * 128; }
    static HD int64_t backward_size(int64_t rows, int64_t columns) { return forward_size(columns, rows); }
    static HD float packed_at(const float* from, int64_t rows, int64_t columns, bool backward, int64_t i) {
        const int64_t deep = depths(backward ? rows : columns), tile = i / 128 / deep, depth = i / 128 % deep;
        const int lane = static_cast<int>(i % 128 / 4);
        const uint32_t word = Kind::packed(from, rows, columns, backward, tile * ROWS + lane / 4,
                                           depth * Kind::DEPTH + Kind::column_of(lane), static_cast<int>(i % 4));
        return bits_to_float(to_signed(word));
    }

    template <class Start, class Sink>
    static __device__ void run(const Tile& tile, const float* w, int rows, int columns, const float* in, const Start& start,
                               const Sink& sink, bool unrounded) {
        const int lane = tile.thread % 32, group = lane / 4, deep = static_cast<int>(depths(columns));
        for (int at = tile.thread / 32; at < tiles(rows); at += tile.threads / 32) {
            const float4* left = reinterpret_cast<const float4*>(w) + (static_cast<int64_t>(at) * deep) * 32 + lane;
            const float upper = start(at * ROWS + group), lower = start(at * ROWS + 8 + group);
            float acc[MOST_TILES][4];
            EBM_FAST_UNROLL
            for (int n = 0; n < MOST_TILES; ++n) acc[n][0] = acc[n][1] = upper, acc[n][2] = acc[n][3] = lower;
            for (int k = 0; k < deep; ++k) {
                const float4 words = left[k * 32];
                const uint32_t a[4] = {word_of(words.x), word_of(words.y), word_of(words.z), word_of(words.w)};
#pragma unroll 1
                for (int part = 0; part < (unrounded ? Kind::PARTS : 1); ++part) {
                    EBM_FAST_UNROLL
                    for (int n = 0; n < MOST_TILES; ++n) {
                        if (8 * n >= tile.chains) continue;
                        const uint32_t b0 = Kind::right(in, tile.chains, columns, k * Kind::DEPTH, 8 * n + group, lane, 0, part);
                        const uint32_t b1 = Kind::right(in, tile.chains, columns, k * Kind::DEPTH, 8 * n + group, lane, 1, part);
                        Kind::multiply(acc[n], a, b0, b1);
                    }
                }
            }
            EBM_FAST_UNROLL
            for (int n = 0; n < MOST_TILES; ++n) {
                if (8 * n >= tile.chains) continue;
                const int r = at * ROWS + group, c = 8 * n + 2 * (lane % 4);
                sink(r, c, float2{acc[n][0], acc[n][1]});
                sink(r + 8, c, float2{acc[n][2], acc[n][3]});
            }
        }
    }
};

}  // namespace

const ChainEnergy mlp_tf32_chain = chain_energy<Perceptrons<TensorProduct<Tf32>>>();
const ChainEnergy mlp_bfloat16_chain = chain_energy<Perceptrons<TensorProduct<BFloat16>>>();

}  // namespace ebm_fast
