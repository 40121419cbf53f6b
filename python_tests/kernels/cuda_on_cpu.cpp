// Runs CUDA kernels' own source on the CPU. The test that compiles this has turned `kernel<<<grid, threads, 0, stream>>>(args)` into
// `run_threads(grid, threads, kernel, args)` (threads that never meet, one after the other) or, for sources that shuffle and
// synchronise, `run_together(...)`: each thread of a block is then a context of its own, and all of them go on to the next meeting
// in turn.
#include <cmath>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define __CUDACC__  // the core headers then choose a CUDA thread's value types
#undef __launch_bounds__
#define __launch_bounds__(threads)
#undef __shared__
#define __shared__ static  // thread blocks run one at a time
#define blockIdx block_index
#define threadIdx thread_index
#define gridDim grid_size

static dim3 block_index, thread_index, grid_size;

template <class Kernel, class... Args>
void run_threads(unsigned grid, unsigned threads, Kernel kernel, const Args&... args) {
    grid_size.x = grid;
    for (block_index.x = 0; block_index.x < grid; ++block_index.x) {
        for (thread_index.x = 0; thread_index.x < threads; ++thread_index.x) kernel(args...);
    }
}

constexpr unsigned MOST_THREADS = 256, STACK = 1 << 16;
static std::function<void()> body;
static ucontext_t scheduler, contexts[MOST_THREADS];
static bool running[MOST_THREADS];
static unsigned long long exchanged[MOST_THREADS];

static void thread_main() {
    body();
    running[thread_index.x] = false;
}
static void meet() { swapcontext(&contexts[thread_index.x], &scheduler); }

template <class Kernel, class... Args>
void run_together(unsigned grid, unsigned threads, Kernel kernel, const Args&... args) {
    static std::vector<char> stacks(MOST_THREADS * STACK);
    body = [&] { kernel(args...); };
    grid_size.x = grid;
    for (block_index.x = 0; block_index.x < grid; ++block_index.x) {
        for (unsigned i = 0; i < threads; ++i) {
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = stacks.data() + i * STACK;
            contexts[i].uc_stack.ss_size = STACK;
            contexts[i].uc_link = &scheduler;
            makecontext(&contexts[i], thread_main, 0);
            running[i] = true;
        }
        for (unsigned left = threads; left;) {
            left = 0;
            for (unsigned i = 0; i < threads; ++i) {
                if (!running[i]) continue;
                thread_index.x = i;
                swapcontext(&scheduler, &contexts[i]);
                left += running[i];
            }
        }
    }
}

inline void __syncthreads() { meet(); }
template <class T>
T exchange_with(T a, unsigned thread) {
    std::memcpy(&exchanged[thread_index.x], &a, sizeof a);
    meet();
    T b;
    std::memcpy(&b, &exchanged[thread], sizeof b);
    meet();
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

// A device with one processor: small tensors then go several times round the grid-stride loop.
extern "C" cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
extern "C" cudaError_t cudaGetLastError() { return cudaSuccess; }
extern "C" const char* cudaGetErrorString(cudaError_t) { return ""; }

#include SOURCE  // one of csrc/cuda/*.cu

extern "C" int run(const ebm_fast::PARAMS* p) {
    try {
        return ebm_fast::LAUNCH(*p, 0), 0;
    } catch (const std::exception&) { return 1; }
}
