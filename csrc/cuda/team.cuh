// A team of threads that shares one chain: 1 to 32 neighbouring threads of a warp, or a whole thread block. A thread's share are the
// noise's blocks of four elements lane, lane + width, ... Sums go over a fixed tree: they depend on the event's size alone.
#pragma once
#include "../core/share.h"

#ifndef EBM_FAST_DYNAMIC_SHARED
#define EBM_FAST_DYNAMIC_SHARED(name) extern __shared__ float4 name[]
#endif

namespace ebm_fast {
namespace {

// Of global memory that no kernel writes meanwhile
template <class T>
__device__ inline T from_global(const T* at) {
#if defined(__CUDA_ARCH__)
    return __ldg(at);
#else
    return *at;
#endif
}

constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

// All threads of a warp (of the block, where the team is one) must call sum, any, largest and sync.
struct Team : ByElement<Team> {
    static constexpr bool SPLIT = true;
    static constexpr int BLOCK = 4;
    int dim, lane, width;  // width: a power of two

    __device__ Team(int elements, int thread, int threads) : dim(elements), lane(thread), width(threads) {}

    __device__ int first() const { return 4 * lane; }
    __device__ int next(int i) const { return (i & 3) == 3 ? i + 1 + 4 * (width - 1) : i + 1; }
    __device__ static int head(int i) { return i & ~3; }
    __device__ bool owns(int i) const { return ((i >> 2) & (width - 1)) == lane; }
    __device__ int index() const { return lane; }
    __device__ int size() const { return width; }

    template <class Op> __device__ double reduce(double a, const Op& op) const {
        for (int offset = (width < 32 ? width : 32) / 2; offset > 0; offset /= 2)
            a = op(a, __shfl_xor_sync(ALL_LANES, a, offset));
        if (width <= 32) return a;
        __shared__ double part[8];
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
        __syncthreads();
        a = part[0];
        for (int k = 1; k < width / 32; ++k) a = op(a, part[k]);
        __syncthreads();
        return a;
    }
    __device__ double sum(double a) const {
        return reduce(a, [](double x, double y) { return x + y; });
    }
    __device__ double largest(double a) const {
        return reduce(a, [](double x, double y) { return x < y ? y : x; });
    }
    // Of this team or of its neighbours too: for questions whose answer may be yes for nothing.
    __device__ bool any(bool a) const { return width > 32 ? __syncthreads_or(a) != 0 : __any_sync(ALL_LANES, a) != 0; }
    __device__ void sync() const { width > 32 ? __syncthreads() : __syncwarp(); }
};

// One event in memory: its blocks of four elements side by side, first elements, second elements, ..., so that neighbouring threads
// read neighbouring words.
struct Row {
    float* at;
    int quarter;  // number of blocks
    __device__ float& operator[](int i) const { return at[(i & 3) * quarter + (i >> 2)]; }
};

}  // namespace
}  // namespace ebm_fast
