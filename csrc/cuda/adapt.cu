// What a warm-up learns from one proposal, in four launches: weights of chains, sums over chains of each element, what each chain
// adds to the slope, and the few numbers that come of it.
#include "../core/adapt.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

__device__ inline double probability_of(const AdaptParams& p, int64_t chain) {
    return p.counters[chain * COUNTERS + PROBABILITY];
}

// sum over i < n of term(i), by all threads of the thread block
template <class Term>
__device__ double sum_of(int64_t n, const Term& term) {
    const Group<THREADS> all(1);
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += term(i);
    return all.sum(sum);
}

template <class T, int SIZE>
__global__ void __launch_bounds__(THREADS) weights_kernel(const AdaptParams p) {
    const Group<SIZE> group(p.chains);
    const int64_t from = group.index * p.dim;
    const T *x = static_cast<const T*>(p.proposal) + from, *v = static_cast<const T*>(p.momentum) + from;
    double doubt = 0.0;
    for (int64_t j = group.lane; group.exists && j < p.dim; j += SIZE) doubt += double((x[j] - x[j]) + (v[j] - v[j]));
    doubt = group.sum(doubt);
    if (!group.leads()) return;
    const double w = probability_of(p, group.index);
    p.space[group.index] = w > 0.0 && doubt == 0.0 ? w : 0.0;
}

// A thread block has up to 32 elements to itself, for each of which some threads look at some of the chains.
constexpr int ELEMENTS = 32;

struct Column {
    int width, rows, element, row;
    __device__ explicit Column(int64_t dim) : width(1) {
        while (width < dim && width < ELEMENTS) width *= 2;
        rows = THREADS / width, element = threadIdx.x % width, row = threadIdx.x / width;
    }
    // over all chains, the same in every thread of the element
    template <class Term>
    __device__ double sum(int64_t chains, bool exists, const Term& term) const {
        __shared__ double part[THREADS];
        double a = 0.0;
        for (int64_t i = row; exists && i < chains; i += rows) a += term(i);
        __syncthreads();  // all have read what an earlier call left there
        part[threadIdx.x] = a;
        __syncthreads();
        a = 0.0;
        for (int k = 0; k < rows; ++k) a += part[k * width + element];
        return a;
    }
};

template <class T>
__global__ void __launch_bounds__(THREADS) elements_kernel(const AdaptParams p) {
    const Column column(p.dim);
    const int64_t j = blockIdx.x * int64_t(column.width) + column.element;
    const bool exists = j < p.dim, leads = exists && column.row == 0;
    const double chains = static_cast<double>(p.chains);
    const T *x = static_cast<const T*>(p.x), *before = static_cast<const T*>(p.before);
    const T* proposal = static_cast<const T*>(p.proposal);
    if (p.search) {
        const double total = ::fmax(sum_of(p.chains, [&](int64_t i) { return p.space[i]; }), 1e-10);
        const double ahead = column.sum(
            p.chains, exists, [&](int64_t i) { return p.space[i] > 0.0 ? p.space[i] * double(proposal[i * p.dim + j]) : 0.0; });
        const double behind = column.sum(p.chains, exists, [&](int64_t i) { return double(before[i * p.dim + j]); });
        if (leads) {
            double* centre = p.space + p.chains + j;
            const double narrow = p.scale ? 1.0 / double(static_cast<const T*>(p.scale)[j]) : 1.0;
            centre[0] = ahead / total * narrow, centre[p.dim] = behind / chains * narrow, centre[2 * p.dim] = narrow;
        }
    }
    if (p.mean) {
        const double mean = column.sum(p.chains, exists, [&](int64_t i) { return double(x[i * p.dim + j]); }) / chains;
        const double squares = column.sum(p.chains, exists, [&](int64_t i) {
            const double off = double(x[i * p.dim + j]) - mean;
            return off * off;
        });
        if (leads) merge_moments(*p.count, chains, mean, squares, p.mean[j], p.squares[j]);
    }
}

template <class T, int SIZE>
__global__ void __launch_bounds__(THREADS) slopes_kernel(const AdaptParams p) {
    const Group<SIZE> group(p.chains);
    const int64_t from = group.index * p.dim;
    const T *x = static_cast<const T*>(p.proposal) + from, *v = static_cast<const T*>(p.momentum) + from;
    T* before = static_cast<T*>(p.before) + from;
    const double *middle = p.space + p.chains, *middle_before = middle + p.dim, *narrow = middle_before + p.dim;
    const double weight = group.exists ? p.space[group.index] : 0.0;
    double change = 0.0, along = 0.0;
    for (int64_t j = group.lane; group.exists && j < p.dim; j += SIZE) {
        if (weight > 0.0) {
            const double now = double(x[j]) * narrow[j] - middle[j], then = double(before[j]) * narrow[j] - middle_before[j];
            change += now * now - then * then;
            along += now * double(v[j]);
        }
        before[j] = static_cast<const T*>(p.x)[from + j];
    }
    change = group.sum(change), along = group.sum(along);
    if (group.leads()) p.space[group.index] = weight > 0.0 ? weight * (change * along) : 0.0;
}

// One thread block
template <class T>
__global__ void __launch_bounds__(THREADS) numbers_kernel(const AdaptParams p) {
    const bool first = threadIdx.x == 0;
    T* step_size = static_cast<T*>(p.step_size);
    if (p.search) {
        const double slope = sum_of(p.chains, [&](int64_t i) { return p.space[i]; }) / static_cast<double>(p.chains);
        if (first) *p.length = seek_length(p.search, slope * p.fraction * *p.length, ::log(double(*step_size)), p.longest);
    }
    const double count = p.average ? *p.average_count + 1.0 : 0.0;
    const int64_t members = p.chains / p.groups;
    const auto counted = [&](int64_t g, int64_t i) { return as_counted(probability_of(p, i * p.groups + g), p.least); };
    const auto settle = [&](int64_t g, double sum) {
        return static_cast<T>(::exp(dual_average(p, g, count, acceptance_of(sum / static_cast<double>(members), p.least))));
    };
    __syncthreads();  // all have read the count
    if (p.average && p.groups < THREADS) {
        __shared__ T told;
        for (int64_t g = 0; g < p.groups; ++g) {
            const double sum = sum_of(members, [&](int64_t i) { return counted(g, i); });
            if (first) told = settle(g, sum);
            __syncthreads();
            for (int64_t i = threadIdx.x; i < (p.groups == 1 ? 1 : members); i += THREADS) step_size[i * p.groups + g] = told;
        }
    } else if (p.average) {
        for (int64_t g = threadIdx.x; g < p.groups; g += THREADS) {
            double sum = 0.0;
            for (int64_t i = 0; i < members; ++i) sum += counted(g, i);
            const T step = settle(g, sum);
            for (int64_t i = 0; i < members; ++i) step_size[i * p.groups + g] = step;
        }
    }
    if (first && p.average) *p.average_count = count;
    if (first && p.mean) *p.count += static_cast<double>(p.chains);
}

template <class Kernel>
void launch(Kernel kernel, int64_t grid, const AdaptParams& p, cudaStream_t stream) {
    if (grid > 0x7FFFFFFF) throw std::runtime_error("adapt_cuda: at most 2^31 - 1 thread blocks");
    kernel<<<static_cast<unsigned>(grid), THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), "adapt_cuda");
}

template <class T, int SIZE>
void launch_all(const AdaptParams& p, cudaStream_t stream) {
    const int64_t width = p.dim < ELEMENTS ? p.dim : ELEMENTS;
    if (p.search) launch(weights_kernel<T, SIZE>, grid_of<SIZE>(p.chains, "adapt_cuda"), p, stream);
    if (p.search || p.mean) launch(elements_kernel<T>, (p.dim + width - 1) / width, p, stream);
    if (p.search) launch(slopes_kernel<T, SIZE>, grid_of<SIZE>(p.chains, "adapt_cuda"), p, stream);
    if (p.average || p.mean) launch(numbers_kernel<T>, 1, p, stream);
}

template <class T>
void by_size(const AdaptParams& p, cudaStream_t stream) {
    if (p.dim <= ONE_THREAD) return launch_all<T, 1>(p, stream);
    if (p.dim <= EIGHT_THREADS) return launch_all<T, 8>(p, stream);
    p.dim <= ONE_WARP ? launch_all<T, 32>(p, stream) : launch_all<T, THREADS>(p, stream);
}

}  // namespace

void adapt_cuda(const AdaptParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? by_size<double>(p, s) : by_size<float>(p, s);
}

}  // namespace ebm_fast
