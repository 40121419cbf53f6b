// out[r][c] = start[r][c] + sum_k w[k][r] in[k][c] for all chains c of a block, k ascending: each thread keeps one or four rows
// of four chains in registers. w is packed # (k, rows filled up to a multiple of four), at a multiple of 16 bytes; in and out lie
// as [.][chains].
#pragma once
#include <type_traits>
#include "chain.cuh"

namespace ebm_fast {
namespace {

HD inline int64_t up_to_four(int64_t n) { return (n + 3) / 4 * 4; }

template <bool NEAR, class T>
__device__ inline T read(const T* at) {
    if constexpr (NEAR) return *at;
    else return from_global(at);
}

// evaluate(scratch, parameters, NEAR): by what the compiler is told, where scratch and parameters lie
template <class Evaluate>
__device__ __forceinline__ void where_they_lie(const Tile& tile, const float* parameters, const Evaluate& evaluate) {
    if (tile.near) evaluate(shared_scratch(tile), shared_float(tile.near), std::true_type());
    else if (tile.shared) evaluate(shared_scratch(tile), parameters, std::false_type());
    else evaluate(tile.scratch, parameters, std::false_type());
}

// start(slice, r, c) and sink(slice, r, c, four): chains c ... c + 3 of row r, also of the rows that fill up. Each of `slices`
// sums over its part of the columns, that there is work for all threads. NEAR: w lies in shared memory.
template <int ROWS, bool NEAR, class Start, class Sink>
__device__ inline void tile_tasks(const Tile& tile, const float* w, int rows, int columns, const float* in, int slices,
                                  const Start& start, const Sink& sink) {
    const int quads = tile.chains / 4, wide = static_cast<int>(up_to_four(rows)), each = wide / ROWS * quads;
    const int length = (columns + slices - 1) / slices;
    constexpr int UNROLL = ROWS == 4 ? 4 : 8;  // steps whose loads are under way at once
    for (int task = tile.thread; task < each * slices; task += tile.threads) {
        const int slice = task / each, r0 = task % each / quads * ROWS, c0 = task % quads * 4;
        float acc[ROWS][4];
        EBM_FAST_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const float4 first = start(slice, r0 + r, c0);
            acc[r][0] = first.x, acc[r][1] = first.y, acc[r][2] = first.z, acc[r][3] = first.w;
        }
        const int end = columns < (slice + 1) * length ? columns : (slice + 1) * length;
#pragma unroll UNROLL
        for (int k = slice * length; k < end; ++k) {
            const float4 b4 = *reinterpret_cast<const float4*>(in + (k * quads * 4 + c0));
            const float* left = w + static_cast<int64_t>(k) * wide + r0;
            float a[ROWS];
            if constexpr (ROWS == 4) {
                const float4 a4 = read<NEAR>(reinterpret_cast<const float4*>(left));
                a[0] = a4.x, a[1] = a4.y, a[2] = a4.z, a[3] = a4.w;
            } else {
                a[0] = read<NEAR>(left);
            }
            const float b[4] = {b4.x, b4.y, b4.z, b4.w};
            EBM_FAST_UNROLL
            for (int r = 0; r < ROWS; ++r) EBM_FAST_UNROLL
            for (int c = 0; c < 4; ++c) acc[r][c] = fma(a[r], b[c], acc[r][c]);
        }
        EBM_FAST_UNROLL
        for (int r = 0; r < ROWS; ++r) sink(slice, r0 + r, c0, float4{acc[r][0], acc[r][1], acc[r][2], acc[r][3]});
    }
}

// By one row a thread where four would leave most threads without work: the sums are the same.
template <bool NEAR, class Start, class Sink>
__device__ inline void tile_product(const Tile& tile, const float* w, int rows, int columns, const float* in, int slices,
                                    const Start& start, const Sink& sink) {
    const int tasks = static_cast<int>(up_to_four(rows)) / 4 * (tile.chains / 4) * slices;
    if (2 * tasks > tile.threads) tile_tasks<4, NEAR>(tile, w, rows, columns, in, slices, start, sink);
    else tile_tasks<1, NEAR>(tile, w, rows, columns, in, slices, start, sink);
}

__device__ inline float4& four_at(float* rows, int chains, int r, int c) {
    return *reinterpret_cast<float4*>(rows + static_cast<int64_t>(r) * chains + c);
}

}  // namespace
}  // namespace ebm_fast
