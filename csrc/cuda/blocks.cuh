// A grid-stride walk over the blocks of four elements of all chains (chain 0 block 0, 1, ...; chain 1 block 0, ...), and
// the launch of such a walk.
#pragma once
#include <atomic>
#include <stdexcept>
#include <string>
#include "../core/normal.h"
#include "../core/philox.h"
#include "storage.cuh"

namespace ebm_fast {
namespace {

constexpr int THREADS = 256;
constexpr int64_t MOST_DIM = int64_t(1) << 33;      // block + stride fits 32 bits

class Blocks {
public:
    __device__ Blocks(int64_t chains, int64_t dim)
        : per_chain_((dim + 3) / 4),
          at_(int64_t(blockIdx.x) * THREADS + threadIdx.x),
          end_(chains * per_chain_),
          stride_(int64_t(gridDim.x) * THREADS) {
        divide(at_, chain, block);
        divide(stride_, chain_stride_, block_stride_);
    }
    __device__ bool inside() const { return at_ < end_; }
    __device__ void next() {                        // no division in the loop
        at_ += stride_;
        chain += chain_stride_;
        block += block_stride_;
        if (block >= per_chain_) block -= per_chain_, ++chain;
    }
    template <bool WHOLE> __device__ int64_t element(int64_t dim) const {
        return WHOLE ? at_ * 4 : chain * dim + block * int64_t(4);
    }
    __device__ int count(int64_t dim) const {
        const int64_t rest = dim - block * int64_t(4);
        return rest < 4 ? static_cast<int>(rest) : 4;
    }
    uint32_t chain, block;

private:
    __device__ void divide(int64_t a, uint32_t& quotient, uint32_t& rest) const {
        const bool small = static_cast<uint64_t>(a) >> 32 == 0;      // 64-bit division is a long subroutine
        quotient = small ? static_cast<uint32_t>(a) / per_chain_ : static_cast<uint32_t>(a / per_chain_);
        rest = static_cast<uint32_t>(a) - quotient * per_chain_;
    }
    uint32_t per_chain_;
    int64_t at_, end_, stride_;
    uint32_t chain_stride_, block_stride_;
};

__device__ inline void words_of(const Counter& key, uint32_t chain, uint32_t block, uint32_t (&w)[4]) {
    w[0] = block, w[1] = chain + key.chain_offset, w[2] = key.step, w[3] = key.tag;
    philox4x32_10(w, key.keys);
}

__device__ inline void normals_of(const uint32_t (&w)[4], float (&z)[4]) {
    box_muller<float, int32_t, uint32_t>(w[0], w[1], z[0], z[1]);
    box_muller<float, int32_t, uint32_t>(w[2], w[3], z[2], z[3]);
}

inline void check(cudaError_t error, const char* op) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(error));
}

// Of the current device: asked once for each, since a launch takes little longer than the question.
inline int processors_here(const char* op) {
    constexpr int DEVICES = 64;
    static std::atomic<int> known[DEVICES];
    int device = 0, found = 0;
    check(cudaGetDevice(&device), op);
    if (device < DEVICES && (found = known[device].load(std::memory_order_relaxed))) return found;
    check(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device), op);
    if (device < DEVICES) known[device].store(found, std::memory_order_relaxed);
    return found;
}

// Enough thread blocks to fill the GPU four times over: threads then share their set-up among several blocks of elements,
// and the last wave is still short.
inline unsigned grid_for(int64_t chains, int64_t dim, const char* op) {
    if (dim > MOST_DIM) throw std::runtime_error(std::string(op) + ": an event may have at most 2^33 elements on a GPU");
    const int processors = processors_here(op);
    const int64_t wanted = (chains * ((dim + 3) / 4) + THREADS - 1) / THREADS, most = int64_t(processors) * 32;
    return static_cast<unsigned>(wanted < most ? wanted : most);
}

}  // namespace
}  // namespace ebm_fast
