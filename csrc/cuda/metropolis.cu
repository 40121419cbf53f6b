// The end of a trajectory: last kick and kinetic energy, decision by one thread, selection by all of the chain's threads. Of a
// rejected proposal nothing but what the decision needs is read.
#include "../core/metropolis.h"
#include "groups.cuh"
#include "launch.h"

namespace ebm_fast {
namespace {

template <class T>
__device__ inline bool settle(const MetropolisParams& p, int64_t chain, double sum) {
    T* energy = static_cast<T*>(p.energy) + chain;
    const T proposal_energy = static_cast<const T*>(p.proposal_energy)[chain];
    const T* beta = static_cast<const T*>(p.beta.at);
    const ChainEnd<double> end = {double(*energy),
                                  double(proposal_energy),
                                  p.kinetic ? p.kinetic[chain] : 0.0,
                                  0.5 * sum,
                                  p.log_ratio ? p.log_ratio[chain] : 0.0,
                                  beta ? double(beta[chain * p.beta.stride]) : p.beta.value};
    const Counter key = make_counter(p.stream);
    uint32_t w[4];
    words_of(key, static_cast<uint32_t>(chain), 0, w);
    const auto decision = decide(end, double(log_unit<float, int32_t>(word_to_uniform<float, uint32_t>(w[0]))));
    if (p.counters) {
        double* counters = p.counters + 5 * chain;
        const double probability = decision.probability();
        counters[0] += probability;
        counters[1] += decision.accepted;
        counters[2] += decision.diverged(p.max_error);
        counters[3] = probability;
        counters[4] = decision.hamiltonian;
    }
    if (decision.accepted) *energy = proposal_energy;
    return decision.accepted;
}

template <class T, bool WHOLE, int SIZE>
__global__ void __launch_bounds__(THREADS) metropolis_kernel(const MetropolisParams p) {
    const Group<SIZE> group(p.chains);
    const int64_t chain = group.index;
    const bool kicks = p.momentum && p.proposal_grad && (p.kick.value != 0.0 || p.kick.at);
    const T kick = kicks && group.exists ? value_of<T>(p.kick, chain) : T(0);
    const auto momentum_of = [&](int64_t i, int count, T(&q)[4]) {
        load4<WHOLE>(static_cast<const T*>(p.momentum) + chain * p.dim + i, count, q);
        if (kicks) {
            T grad[4], sigma[4];
            load4<WHOLE>(static_cast<const T*>(p.proposal_grad) + chain * p.dim + i, count, grad);
            load_scale<WHOLE>(p.scale, i, count, sigma);
            for (int k = 0; k < 4; ++k) q[k] = kicked(q[k], grad[k], kick * sigma[k]);
        }
    };
    const auto count_of = [&](int64_t i) { return WHOLE ? 4 : static_cast<int>(p.dim - i < 4 ? p.dim - i : 4); };

    double sum = 0.0;
    if (p.momentum && group.exists)
        for (int64_t i = group.lane * int64_t(4); i < p.dim; i += SIZE * 4) {
            T q[4];
            momentum_of(i, count_of(i), q);      // zero where there is no element
            for (int k = 0; k < 4; ++k) sum = ::fma(double(q[k]), double(q[k]), sum);
        }
    sum = group.sum(sum);
    const bool accepted = group.broadcast(group.leads() && settle<T>(p, chain, sum));
    if (!group.exists) return;

    const bool flips = !accepted && p.momentum_before;
    if (!accepted && !flips) return;
    for (int64_t i = group.lane * int64_t(4); i < p.dim; i += SIZE * 4) {
        const int64_t from = chain * p.dim + i;
        const int count = count_of(i);
        T a[4];
        if (accepted) {
            load4<WHOLE>(static_cast<const T*>(p.proposal) + from, count, a);
            store4<WHOLE>(static_cast<T*>(p.x) + from, count, a);
            if (p.grad) {
                load4<WHOLE>(static_cast<const T*>(p.proposal_grad) + from, count, a);
                store4<WHOLE>(static_cast<T*>(p.grad) + from, count, a);
            }
            if (p.momentum_before && kicks) {
                momentum_of(i, count, a);
                store4<WHOLE>(static_cast<T*>(p.momentum) + from, count, a);
            }
        } else {
            load4<WHOLE>(static_cast<const T*>(p.momentum_before) + from, count, a);
            for (int k = 0; k < 4; ++k) a[k] = -a[k];
            store4<WHOLE>(static_cast<T*>(p.momentum) + from, count, a);
        }
    }
}

template <class T, bool WHOLE>
void launch(const MetropolisParams& p, cudaStream_t stream) {
    constexpr char name[] = "metropolis_cuda";
    auto kernel = metropolis_kernel<T, WHOLE, THREADS>;
    unsigned grid = 0;
    if (p.dim <= ONE_THREAD) kernel = metropolis_kernel<T, false, 1>, grid = grid_of<1>(p.chains, name);
    else if (p.dim <= EIGHT_THREADS) kernel = metropolis_kernel<T, WHOLE, 8>, grid = grid_of<8>(p.chains, name);
    else if (p.dim <= ONE_WARP) kernel = metropolis_kernel<T, WHOLE, 32>, grid = grid_of<32>(p.chains, name);
    else grid = grid_of<THREADS>(p.chains, name);
    kernel<<<grid, THREADS, 0, stream>>>(p);
    check(cudaGetLastError(), name);
}

template <class T>
void launch(const MetropolisParams& p, cudaStream_t stream) {
    const void* tensors[] = {p.x, p.proposal, p.grad, p.proposal_grad, p.momentum, p.momentum_before, p.scale};
    bool whole = p.dim % 4 == 0;
    for (const void* tensor : tensors) whole = whole && aligned<T>(tensor);
    whole ? launch<T, true>(p, stream) : launch<T, false>(p, stream);
}

}  // namespace

void metropolis_cuda(const MetropolisParams& p, uintptr_t stream) {
    if (p.chains == 0) return;
    const auto s = reinterpret_cast<cudaStream_t>(stream);
    p.dtype == DType::float64 ? launch<double>(p, s) : launch<float>(p, s);
}

}  // namespace ebm_fast
