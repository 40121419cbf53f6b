// Runs CUDA kernels' own source on the CPU. The test that compiles this has turned `kernel<<<grid, threads, 0, stream>>>(args)` into
// `run_threads(grid, threads, kernel, args)` (threads that never meet, one after the other) or, for sources that shuffle and
// synchronise, `run_together(...)`: each thread of a block is then a context of its own, and all of them go on to the next meeting
// in turn. Without LAUNCH: the
// whole chain, whose sources are compiled one by one, all but the launcher's as a PART (see chain_emulation.py).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <ucontext.h>
#include <vector>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define EBM_FAST_ON_CPU
#define __CUDACC__  // the core headers then choose a CUDA thread's value types
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static  // thread blocks run one at a time
#undef __grid_constant__
#define __grid_constant__
#define EBM_FAST_DYNAMIC_SHARED(name) float4* name = dynamic_memory
#define blockIdx block_index
#define threadIdx thread_index
#define gridDim grid_size

namespace {  // several of these may be linked

dim3 block_index, thread_index, grid_size;
bool turned = false;  // threads and blocks go backwards, every other launch: a result that depends on their order is a race
alignas(256) float4 dynamic_memory[6400];  // 100 KiB
int64_t granted = 0;  // bytes of it that the launch asked for

template <class Kernel, class... Args>
void run_threads(unsigned grid, unsigned threads, Kernel kernel, const Args&... args) {
    grid_size.x = grid;
    turned = !turned;
    for (unsigned b = 0; b < grid; ++b) {
        block_index.x = turned ? grid - 1 - b : b;
        for (unsigned k = 0; k < threads; ++k) thread_index.x = turned ? threads - 1 - k : k, kernel(args...);
    }
}

constexpr unsigned MOST_THREADS = 256, STACK = 1 << 16;
std::function<void()> body;
ucontext_t scheduler, contexts[MOST_THREADS];
bool running[MOST_THREADS];
unsigned long long exchanged[MOST_THREADS];

// A barrier of all threads of the block, or of a warp, that have not ended.
struct Meeting {
    unsigned expected = 0, arrived = 0, generation = 0;
    void complete() {
        if (arrived && arrived == expected) arrived = 0, ++generation;
    }
    void wait() {
        const unsigned now = generation;
        ++arrived;
        complete();
        while (generation == now) swapcontext(&contexts[thread_index.x], &scheduler);
    }
};
Meeting whole_block, warps[MOST_THREADS / 32];
Meeting& warp() { return warps[thread_index.x / 32]; }

void thread_main() {
    body();
    running[thread_index.x] = false;
    for (Meeting* meeting : {&whole_block, &warp()}) --meeting->expected, meeting->complete();
}

template <class Kernel, class... Args>
void run_together(unsigned grid, unsigned threads, Kernel kernel, const Args&... args) {
    static std::vector<char> stacks(MOST_THREADS * STACK);
    body = [&] { kernel(args...); };
    grid_size.x = grid;
    turned = !turned;
    for (unsigned b = 0; b < grid; ++b) {
        block_index.x = turned ? grid - 1 - b : b;
        std::memset(dynamic_memory, 0xFF, sizeof dynamic_memory);  // NaN
        whole_block = {threads, 0, 0};
        for (unsigned i = 0; i < threads; ++i) {
            warps[i / 32] = {i % 32 + 1, 0, 0};
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = stacks.data() + i * STACK;
            contexts[i].uc_stack.ss_size = STACK;
            contexts[i].uc_link = &scheduler;
            makecontext(&contexts[i], thread_main, 0);
            running[i] = true;
        }
        for (unsigned left = threads; left;) {
            left = 0;
            for (unsigned k = 0; k < threads; ++k) {
                const unsigned i = turned ? threads - 1 - k : k;
                if (!running[i]) continue;
                thread_index.x = i;
                swapcontext(&scheduler, &contexts[i]);
                left += running[i];
            }
        }
        const auto* byte = reinterpret_cast<const unsigned char*>(dynamic_memory);
        for (size_t at = granted; at < sizeof dynamic_memory; ++at)
            if (byte[at] != 0xFF) throw std::runtime_error("a write beyond the launch's shared memory");
    }
}
template <class Kernel, class... Args>
void run_with_memory(unsigned grid, unsigned threads, int64_t bytes, Kernel kernel, const Args&... args) {
    if (bytes > static_cast<int64_t>(sizeof dynamic_memory)) throw std::runtime_error("too much shared memory");
    granted = bytes;
    run_together(grid, threads, kernel, args...);
}

void __syncthreads() { whole_block.wait(); }
void __syncwarp() { warp().wait(); }
template <class T>
T exchange_with(T a, unsigned thread) {
    std::memcpy(&exchanged[thread_index.x], &a, sizeof a);
    warp().wait();
    T b;
    std::memcpy(&b, &exchanged[thread], sizeof b);
    warp().wait();
    return b;
}
template <class T>
T __shfl_xor_sync(unsigned, T a, int mask) {
    return exchange_with(a, thread_index.x ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T a, int lane, int width) {
    return exchange_with(a, thread_index.x / width * width + lane);
}
// What each lane of the warp gave; it stays until they meet again.
template <class T>
const T* lanes_of_warp(const T& mine) {
    static T given[MOST_THREADS];
    given[thread_index.x] = mine;
    warp().wait();
    return given + thread_index.x / 32 * 32;
}
int any_of(Meeting& meeting, int a, unsigned first, unsigned count) {
    exchanged[thread_index.x] = a != 0;
    meeting.wait();
    unsigned long long found = 0;
    for (unsigned i = first; i < first + count; ++i) found |= exchanged[i];
    meeting.wait();
    return found != 0;
}
int __any_sync(unsigned, int a) { return any_of(warp(), a, thread_index.x / 32 * 32, 32); }
int __syncthreads_or(int a) { return any_of(whole_block, a, 0, whole_block.expected); }

}  // namespace

// A device with one processor, unless told: small tensors then go several times round the grid-stride loop.
#ifndef PART  // of the whole chain: the rest of it has these
int shared_bytes = sizeof dynamic_memory, processors = 1, bare_launches = 0, near_threads = 0;
extern "C" cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    return *value = which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? shared_bytes : processors, cudaSuccess;
}
extern "C" cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
extern "C" cudaError_t cudaGetLastError() { return cudaSuccess; }
extern "C" const char* cudaGetErrorString(cudaError_t) { return ""; }
#else
extern int bare_launches, near_threads;
#endif

#define __noinline__ __attribute__((noinline))  // after all of the standard library, which has the word for itself
#include SOURCE  // one of csrc/cuda/*.cu

#if defined(LAUNCH)
extern "C" int run(const ebm_fast::PARAMS* p) {
    try {
        return ebm_fast::LAUNCH(*p, 0), 0;
    } catch (const std::exception& error) { return std::fprintf(stderr, "%s\n", error.what()), 1; }
}
#elif !defined(PART)
extern "C" int64_t chain_space(const ebm_fast::ChainParams* p, int most_shared_bytes) {
    shared_bytes = most_shared_bytes;
    return ebm_fast::chain_cuda_space(*p);
}
extern "C" int chain(const ebm_fast::ChainParams* p, void* workspace, int64_t most_steps) {
    try {
        ebm_fast::force_chain_steps(most_steps);
        return ebm_fast::chain_cuda(*p, {reinterpret_cast<uintptr_t>(workspace), 0}), 0;
    } catch (const std::exception& error) { return std::fprintf(stderr, "%s\n", error.what()), 1; }
}
#endif
