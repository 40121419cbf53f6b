// Rows of a buffer, some of them restarted: 8 bytes of traffic per float32 element, and noise for those that start anew alone.
#include "../core/gather.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T, bool WHOLE>
__device__ inline void copy_row(T* out, const void* from, int64_t row, int64_t dim, int lane, int threads) {
    const T* source = static_cast<const T*>(from) + row * dim;
    for (int64_t i = lane * int64_t(4); i < dim; i += threads * 4) {
        const int count = WHOLE ? 4 : static_cast<int>(dim - i < 4 ? dim - i : 4);
        typename Storage<T>::Value a[4];
        load4<WHOLE>(source + i, count, a);
        store4<WHOLE>(out + i, count, a);
    }
}

template <class T, bool WHOLE>
__device__ inline void draw_row(const GatherParams& p, const Counter& key, T* out, uint32_t chain, int lane, int threads) {
    using V = typename Storage<T>::Value;
    const V shift = static_cast<V>(p.shift), spread = static_cast<V>(p.spread);
#pragma unroll 1
    for (int64_t i = lane * int64_t(4); i < p.dim; i += threads * 4) {
        uint32_t w[4];
        float noise[4];
        words_of(key, chain, static_cast<uint32_t>(i / 4), w);
        if (p.kind == NoiseKind::normal) normals_of(w, noise);
        else
            for (int k = 0; k < 4; ++k) noise[k] = word_to_uniform<float, uint32_t>(w[k]);
        V a[4];
        for (int k = 0; k < 4; ++k) a[k] = placed(V(noise[k]), shift, spread);
        store4<WHOLE>(out + i, WHOLE ? 4 : static_cast<int>(p.dim - i < 4 ? p.dim - i : 4), a);
    }
}

__device__ inline uint32_t first_word(const Counter& key, uint32_t chain) {
    uint32_t w[4];
    words_of(key, chain, 0, w);
    return w[0];
}

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) gather_kernel(const GatherParams p) {
    const Group<SIZE> group(p.chains);
    if (!group.exists) return;
    const Counter key = make_counter(p.stream);
    Counter coin = key;
    coin.tag = (key.tag & ~0xFFu) | p.coin;
    const uint32_t chain = static_cast<uint32_t>(group.index);
    const bool fresh = word_to_uniform<float, uint32_t>(first_word(coin, chain)) <= static_cast<float>(p.rate);
    T* out = static_cast<T*>(p.out) + group.index * p.dim;
    if (p.fresh && group.leads()) p.fresh[group.index] = fresh;
    if (fresh && !p.rows) return draw_row<T, WHOLE>(p, key, out, chain, group.lane, SIZE);
    const int64_t row = fresh ? row_of(first_word(key, chain), p.count) : p.slots[group.index];
    if (fresh || (row >= 0 && row < p.size))
        return copy_row<T, WHOLE>(out, fresh ? p.rows : p.source, row, p.dim, group.lane, SIZE);
    for (int64_t i = group.lane; i < p.dim; i += SIZE) out[i] = narrow<T>(typename Storage<T>::Value(NAN));
}

template <class T>
void launch(const GatherParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.out) && aligned<T>(p.source) && aligned<T>(p.rows);
    const bool is_long = p.dim > ONE_WARP / 4;
    const auto kernel = is_long ? (whole ? gather_kernel<T, true, THREADS> : gather_kernel<T, false, THREADS>)
                                : (whole ? gather_kernel<T, true, 32> : gather_kernel<T, false, 32>);
    const unsigned grid = is_long ? grid_of<THREADS>(p.chains, "gather_cuda") : grid_of<32>(p.chains, "gather_cuda");
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "gather_cuda");
}

}  // namespace

void gather_cuda(const GatherParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    switch (p.dtype) {
        case DType::float32: return launch<float>(p, s);
        case DType::float64: return launch<double>(p, s);
        case DType::bfloat16: return launch<__nv_bfloat16>(p, s);
        case DType::float16: return launch<__half>(p, s);
        case DType::int32: throw std::runtime_error("gather_cuda: int32 is no state");
    }
}

}  // namespace ebm_fast
