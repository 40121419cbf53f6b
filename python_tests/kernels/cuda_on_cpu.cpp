// Runs CUDA kernels' own source on the CPU, one thread after the other: enough for kernels whose threads never meet.
// The test that compiles this has turned `kernel<<<grid, threads, 0, stream>>>(args)` into `run_threads(grid, threads, kernel, args)`.
#include <cmath>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define __CUDACC__  // the core headers then choose a CUDA thread's value types
#undef __launch_bounds__
#define __launch_bounds__(threads)
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

// A device with one processor: small tensors then go several times round the grid-stride loop.
extern "C" cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
extern "C" cudaError_t cudaGetLastError() { return cudaSuccess; }
extern "C" const char* cudaGetErrorString(cudaError_t) { return ""; }

#include "noise.cu"
#include "langevin.cu"

extern "C" void noise(const ebm_fast::NoiseParams* p) { ebm_fast::noise_cuda(*p, 0); }
extern "C" void langevin(const ebm_fast::LangevinParams* p) { ebm_fast::langevin_cuda(*p, 0); }
