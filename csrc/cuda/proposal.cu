// The start of a trajectory: noise, refreshed momentum, its kinetic energy, kick and drift in registers.
#include "../core/proposal.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

// One block of four elements; returns the sum of the refreshed momentum's squares.
template <class T, bool WHOLE>
__device__ inline double propose(const ProposalParams& p, const Counter& key, T kick, T drift, T persistence, T fresh,
                                 int64_t chain, uint32_t block) {
    const int64_t element = block * int64_t(4), from = chain * p.dim + element;
    const int count = WHOLE ? 4 : static_cast<int>(p.dim - element < 4 ? p.dim - element : 4);
    uint32_t w[4];
    float z[4];
    words_of(key, static_cast<uint32_t>(chain), block, w);
    normals_of(w, z);
    T q[4], sigma[4];
    load_scale<WHOLE>(p.scale, element, count, sigma);
    for (int k = 0; k < 4; ++k) q[k] = T(z[k]);
    if (p.persistence.at || p.persistence.value != 0.0) {
        T before[4];
        load4<WHOLE>(static_cast<const T*>(p.momentum) + from, count, before);
        for (int k = 0; k < 4; ++k) q[k] = refreshed(before[k], q[k], persistence, fresh);
    }
    double sum = 0.0;
    if (p.kinetic) {
        for (int k = 0; k < 4; ++k)
            if (WHOLE || k < count) sum = ::fma(double(q[k]), double(q[k]), sum);
    }
    if (p.grad) {
        T grad[4];
        load4<WHOLE>(static_cast<const T*>(p.grad) + from, count, grad);
        for (int k = 0; k < 4; ++k) q[k] = kicked(q[k], grad[k], kick * sigma[k]);
    }
    if (p.momentum) store4<WHOLE>(static_cast<T*>(p.momentum) + from, count, q);
    if (p.proposal) {
        T x[4];
        load4<WHOLE>(static_cast<const T*>(p.x) + from, count, x);
        for (int k = 0; k < 4; ++k) x[k] = drifted(x[k], q[k], drift * sigma[k]);
        store4<WHOLE>(static_cast<T*>(p.proposal) + from, count, x);
    }
    return sum;
}

// SIZE threads share a chain; SIZE = 0: nothing is summed, and the blocks of all chains go to whoever is free.
template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) proposal_kernel(const ProposalParams p) {
    const Counter key = make_counter(p.stream);
    if constexpr (SIZE == 0) {
        for (Blocks at(p.chains, p.dim); at.inside(); at.next())
            propose<T, WHOLE>(p, key, value_of<T>(p.kick, at.chain), value_of<T>(p.drift, at.chain),
                              value_of<T>(p.persistence, at.chain), value_of<T>(p.fresh, at.chain), at.chain, at.block);
    } else {
        const Group<SIZE> group(p.chains);
        double sum = 0.0;
        if (group.exists) {
            const T kick = value_of<T>(p.kick, group.index), drift = value_of<T>(p.drift, group.index);
            const T persistence = value_of<T>(p.persistence, group.index), fresh = value_of<T>(p.fresh, group.index);
            for (int64_t block = group.lane; block * 4 < p.dim; block += SIZE)
                sum += propose<T, WHOLE>(p, key, kick, drift, persistence, fresh, group.index, static_cast<uint32_t>(block));
        }
        sum = group.sum(sum);
        if (group.leads()) p.kinetic[group.index] = 0.5 * sum;
    }
}

// With a factor: a thread block draws the normals of DENSE_CHAINS chains, a warp each; then every thread takes one column of the
// factor, for EACH of the chains. A block's normals lie # (element, chain).
constexpr int DENSE_CHAINS = Group<32>::PER_BLOCK;

template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS) dense_kernel(const ProposalParams p) {
    constexpr int EACH = DENSE_CHAINS * COLUMNS / THREADS;
    __shared__ T z[COLUMNS * DENSE_CHAINS];
    const Counter key = make_counter(p.stream);
    const Group<32> warp(p.chains);
    const int dim = static_cast<int>(p.dim);
    double sum = 0.0;
    if (warp.exists)
        for (int block = warp.lane; block * 4 < dim; block += 32) {
            uint32_t w[4];
            float normal[4];
            words_of(key, static_cast<uint32_t>(warp.index), static_cast<uint32_t>(block), w);
            normals_of(w, normal);
            for (int k = 0; k < 4 && block * 4 + k < dim; ++k) {
                z[(block * 4 + k) * DENSE_CHAINS + threadIdx.x / 32] = T(normal[k]);
                sum = ::fma(double(normal[k]), double(normal[k]), sum);
            }
        }
    sum = warp.sum(sum);
    if (p.kinetic && warp.leads()) p.kinetic[warp.index] = 0.5 * sum;
    __syncthreads();
    const int column = threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS * EACH;
    if (column >= dim) return;
    T v[EACH] = {};
    const T* factor = static_cast<const T*>(p.factor) + column;
    for (int j = 0; j <= column; ++j) {
        const T f = factor[static_cast<int64_t>(j) * dim];
        EBM_FAST_UNROLL
        for (int c = 0; c < EACH; ++c) v[c] = fma(z[j * DENSE_CHAINS + first + c], f, v[c]);
    }
    for (int c = 0; c < EACH; ++c) {
        const int64_t chain = static_cast<int64_t>(blockIdx.x) * DENSE_CHAINS + first + c, at = chain * dim + column;
        if (chain >= p.chains) return;
        if (p.grad) v[c] = kicked(v[c], static_cast<const T*>(p.grad)[at], value_of<T>(p.kick, chain));
        if (p.momentum) static_cast<T*>(p.momentum)[at] = v[c];
        if (p.proposal)
            static_cast<T*>(p.proposal)[at] = drifted(static_cast<const T*>(p.x)[at], v[c], value_of<T>(p.drift, chain));
    }
}

template <class T, bool WHOLE>
void launch(const ProposalParams& p, cudaStream_t stream) {
    constexpr char name[] = "proposal_cuda";
    auto kernel = proposal_kernel<T, WHOLE, 0>;
    unsigned grid = grid_for(p.chains, p.dim, name);
    if (p.factor) {
        grid = grid_of<32>(p.chains, name);
        if (p.dim <= 32) kernel = dense_kernel<T, 32>;
        else if (p.dim <= 64) kernel = dense_kernel<T, 64>;
        else if (p.dim <= 128) kernel = dense_kernel<T, 128>;
        else if (p.dim <= 256) kernel = dense_kernel<T, 256>;
        else throw std::runtime_error("proposal_cuda: a factor of at most 256 columns");
    } else if (p.kinetic) {
        if (p.dim <= ONE_THREAD) kernel = proposal_kernel<T, false, 1>, grid = grid_of<1>(p.chains, name);
        else if (p.dim <= EIGHT_THREADS) kernel = proposal_kernel<T, WHOLE, 8>, grid = grid_of<8>(p.chains, name);
        else if (p.dim <= ONE_WARP) kernel = proposal_kernel<T, WHOLE, 32>, grid = grid_of<32>(p.chains, name);
        else kernel = proposal_kernel<T, WHOLE, THREADS>, grid = grid_of<THREADS>(p.chains, name);
    }
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), name);
}

template <class T>
void launch(const ProposalParams& p, cudaStream_t stream) {
    const bool whole = p.dim % 4 == 0 && aligned<T>(p.x) && aligned<T>(p.proposal) && aligned<T>(p.momentum) &&
                       aligned<T>(p.grad) && aligned<T>(p.scale);
    whole ? launch<T, true>(p, stream) : launch<T, false>(p, stream);
}

}  // namespace

void proposal_cuda(const ProposalParams& p, uintptr_t stream) {
    if (p.chains * p.dim == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, s) : launch<float>(p, s);
}

}  // namespace ebm_fast
