// Groups of threads that share a chain: one thread, 8, a warp, or a thread block, by the event's size alone. Each thread takes
// every SIZE-th block of four elements; sums go over a fixed tree, so they depend on the event alone.
#pragma once
#include "blocks.cuh"

namespace ebm_fast {
namespace {

// All threads of a thread block must call sum and broadcast, those without a chain too.
template <int SIZE>
class Group {
public:
    static constexpr int PER_BLOCK = THREADS / SIZE;
    __device__ explicit Group(int64_t groups)
        : index(int64_t(blockIdx.x) * PER_BLOCK + threadIdx.x / SIZE), lane(threadIdx.x % SIZE), exists(index < groups) {}

    __device__ bool leads() const { return exists && lane == 0; }

    // the same in all threads of the group
    __device__ double sum(double a) const {
        return together(a, [](double b, double c) { return b + c; });
    }
    __device__ double largest(double a) const {      // of numbers of at least 0
        return together(a, [](double b, double c) { return ::fmax(b, c); });
    }

    __device__ bool broadcast(bool a) const {    // what the first thread says
        if constexpr (SIZE > 32) {
            __shared__ bool said;
            if (threadIdx.x == 0) said = a;
            __syncthreads();
            return said;
        } else if constexpr (SIZE > 1) {
            return __shfl_sync(0xFFFFFFFFu, static_cast<int>(a), 0, SIZE);
        }
        return a;
    }

    const int64_t index;
    const int lane;
    const bool exists;

private:
    static constexpr int IN_WARP = SIZE < 32 ? SIZE : 32;

    template <class Both>
    __device__ double together(double a, const Both& both) const {
        for (int offset = IN_WARP / 2; offset > 0; offset /= 2) a = both(a, __shfl_xor_sync(0xFFFFFFFFu, a, offset));
        if constexpr (SIZE > 32) {
            __shared__ double part[SIZE / 32];
            __syncthreads();      // all have read what an earlier call left there
            if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = a;
            __syncthreads();
            a = 0.0;
            for (int k = 0; k < SIZE / 32; ++k) a = both(a, part[k]);
        }
        return a;
    }
};

constexpr int64_t ONE_THREAD = 4, EIGHT_THREADS = 64, ONE_WARP = 4096;      // the longest event of each group

template <int SIZE>
unsigned grid_of(int64_t groups, const char* op) {
    const int64_t grid = (groups + THREADS / SIZE - 1) / (THREADS / SIZE);
    if (grid > 0x7FFFFFFF) throw std::runtime_error(std::string(op) + ": at most 2^31 - 1 thread blocks, so fewer chains");
    return static_cast<unsigned>(grid);
}

template <class V> __device__ inline V value_of(const Coefficient& c, int64_t chain) {
    return c.at ? static_cast<const V*>(c.at)[chain * c.stride] : static_cast<V>(c.value);
}

// scale_e of a block of four elements, or 1
template <bool WHOLE, class V>
__device__ inline void load_scale(const void* scale, int64_t element, int count, V (&out)[4]) {
    if (scale) load4<WHOLE>(static_cast<const V*>(scale) + element, count, out);
    else
        for (int k = 0; k < 4; ++k) out[k] = V(1);
}

}  // namespace
}  // namespace ebm_fast
