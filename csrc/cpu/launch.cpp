#include "launch.h"

#include <algorithm>
#include <stdexcept>
#include "../core/adapt.h"
#include "kernels.h"
#include "parallel.h"
#include "tiles.h"

namespace ebm_fast {
namespace {

std::vector<const CpuKernels*> available() {
    std::vector<const CpuKernels*> found{&baseline_kernels};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        found.push_back(&avx2_kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        found.push_back(&avx512_kernels);
        // the same but for MLPs at precision bfloat16: chain_launch.cpp
        static const CpuKernels with_pairs = [] {
            CpuKernels kernels = avx512_kernels;
            kernels.isa = "avx512_bf16";
            return kernels;
        }();
        if (__builtin_cpu_supports("avx512bf16")) found.push_back(&with_pairs);
    }
#endif
    return found;
}

const CpuKernels*& current() {
    static const CpuKernels* kernels = available().back();
    return kernels;
}

int64_t blocks(int64_t chains, int64_t dim) { return chains * blocks_per_chain(dim); }

// Elements that make a thread worth waking: those with noise cost about ten times as much.
constexpr int64_t NOISY = 16384, PLAIN = 131072;

int64_t grain_of_chains(int64_t elements, int64_t dim) { return elements / (dim > 0 ? dim : 1) + 1; }

// Over chains, or tiles of long chains.
template <class Body>
void over_units(int64_t chains, int64_t dim, int64_t elements, int threads, const Body& body) {
    if (dim > TILE) parallel_for(chains * tiles_of_chain(dim), elements / TILE, 1, threads, body);
    else parallel_for(chains, grain_of_chains(elements, dim), chains_of_tile(dim), threads, body);
}

// Few long chains: each is then shared among the threads, segment by segment.
bool shares_chains(int64_t chains, int64_t dim, int64_t elements, int threads) {
    return threads > 1 && chains < 4 * threads && dim >= 2 * elements && dim > 2 * TILE;
}

template <class Body>
void over_segments(int64_t dim, int64_t elements, int threads, const Body& body) {
    const int64_t grain = elements / (tiles_of_segment(dim) * TILE);
    parallel_for(segments_of_chain(dim), grain > 0 ? grain : 1, 1, threads, body);
}

double total(const double (&sums)[MOST_SEGMENTS], int64_t dim) {
    double a = 0.0;
    for (int64_t s = 0; s < segments_of_chain(dim); ++s) a += sums[s];
    return a;
}

}  // namespace

// Grains: below about ten microseconds of work per thread, waking it costs more than it saves.
void noise_cpu(const NoiseParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(blocks(p.chains, p.dim), 4096, 512, threads, [&](int64_t b, int64_t e) { k->noise(p, b, e); });
}

void langevin_cpu(const LangevinParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(blocks(p.chains, p.dim), 4096, 512, threads, [&](int64_t b, int64_t e) { k->langevin(p, b, e); });
}

void norm_cpu(const NormParams& p, int threads) {
    const CpuKernels* k = current();
    const int64_t grain = 65536 / (p.dim > 0 ? p.dim : 1) + 1;
    parallel_for(p.chains, grain, 1, threads, [&](int64_t b, int64_t e) { k->norm(p, b, e); });
}

void proposal_cpu(const ProposalParams& p, int threads) {
    const CpuKernels* k = current();
    const auto range = [&](int64_t b, int64_t e) { k->proposal(p, b, e); };
    if (p.factor) {      // a product of d elements costs about as much as the noise of d / 64 more
        const int64_t grain = grain_of_chains(NOISY, p.dim * (1 + p.dim / 64));
        return parallel_for(p.chains, grain, p.dim < TILE_BLOCKS ? chains_of_tile(p.dim) : 8, threads, range);
    }
    if (!p.kinetic) return over_units(p.chains, p.dim, NOISY, threads, range);
    if (!shares_chains(p.chains, p.dim, NOISY, threads))
        return parallel_for(p.chains, grain_of_chains(NOISY, p.dim), chains_of_tile(p.dim), threads, range);
    double sums[MOST_SEGMENTS];
    for (int64_t chain = 0; chain < p.chains; ++chain) {
        over_segments(p.dim, NOISY, threads, [&](int64_t b, int64_t e) { k->proposal_segments(p, chain, b, e, sums); });
        p.kinetic[chain] = 0.5 * total(sums, p.dim);
    }
}

void leapfrog_cpu(const LeapfrogParams& p, int threads) {
    const CpuKernels* k = current();
    over_units(p.chains, p.dim, PLAIN, threads, [&](int64_t b, int64_t e) { k->leapfrog(p, b, e); });
}

void metropolis_cpu(const MetropolisParams& p, int threads) {
    const CpuKernels* k = current();
    if (!shares_chains(p.chains, p.dim, PLAIN, threads))
        return parallel_for(p.chains, grain_of_chains(PLAIN, p.dim), chains_of_tile(p.dim), threads,
                            [&](int64_t b, int64_t e) { k->metropolis(p, b, e); });
    double sums[MOST_SEGMENTS];
    for (int64_t chain = 0; chain < p.chains; ++chain) {
        over_segments(p.dim, PLAIN, threads, [&](int64_t b, int64_t e) { k->metropolis_segments(p, chain, b, e, sums); });
        const bool accepted = k->metropolis_decide(p, chain, total(sums, p.dim));
        over_segments(p.dim, PLAIN, threads, [&](int64_t b, int64_t e) { k->metropolis_select(p, chain, accepted, b, e); });
    }
}

void baoab_cpu(const BaoabParams& p, int threads) {
    const CpuKernels* k = current();
    over_units(p.chains, p.dim, NOISY, threads, [&](int64_t b, int64_t e) { k->baoab(p, b, e); });
}

void swap_cpu(const SwapParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(blocks(p.chains, p.replicas), grain_of_chains(NOISY, 4 * p.dim), 1, threads,
                 [&](int64_t b, int64_t e) { k->swap(p, b, e); });
}

void moments_cpu(const MomentsParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(p.chains * p.dim, PLAIN, TILE, threads, [&](int64_t b, int64_t e) { k->moments(p, b, e); });
}

void guard_cpu(const GuardParams& p, int threads) {
    const CpuKernels* k = current();
    const int64_t grain = 32768 / (p.dim > 0 ? p.dim : 1) + 1;
    parallel_for(p.chains, grain, 1, threads, [&](int64_t b, int64_t e) { k->guard(p, b, e); });
}

void perturb_cpu(const PerturbParams& p, int threads) {
    const CpuKernels* k = current();
    over_units(p.chains, p.dim, NOISY, threads, [&](int64_t b, int64_t e) { k->perturb(p, b, e); });
}

void randperm_cpu(const RandpermParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(p.chains, 1024, 1, threads, [&](int64_t b, int64_t e) { k->randperm(p, b, e); });
}

void gather_cpu(const GatherParams& p, int threads) {
    const CpuKernels* k = current();
    const int64_t elements = p.rate > 0.25 ? NOISY : PLAIN;
    parallel_for(p.chains, grain_of_chains(elements, p.dim), 1, threads, [&](int64_t b, int64_t e) { k->gather(p, b, e); });
}

void scatter_cpu(const ScatterParams& p, int threads) {
    const CpuKernels* k = current();
    parallel_for(p.chains, grain_of_chains(PLAIN, p.dim), 1, threads, [&](int64_t b, int64_t e) { k->scatter(p, b, e); });
}

void adapt_cpu(const AdaptParams& p, int threads) {
    const CpuKernels* k = current();
    const int64_t by_chains = grain_of_chains(PLAIN / 8, p.dim), by_elements = grain_of_chains(PLAIN / 8, p.chains);
    if (p.search) {
        double *weight = p.space, *centre = weight + p.chains;
        parallel_for(p.chains, by_chains, 8, threads, [&](int64_t b, int64_t e) { k->adapt_weights(p, weight, b, e); });
        const double total = std::max(k->adapt_sum(weight, p.chains), 1e-10);
        parallel_for(p.dim, by_elements, 8, threads,
                     [&](int64_t b, int64_t e) { k->adapt_centres(p, weight, total, centre, b, e); });
        parallel_for(p.chains, by_chains, 8, threads, [&](int64_t b, int64_t e) { k->adapt_slopes(p, centre, weight, b, e); });
        // Over all chains: trajectories that blew up would count in full if the few left were weighted to 1.
        const double slope = k->adapt_sum(weight, p.chains) / static_cast<double>(p.chains) * p.fraction * *p.length;
        const bool wide = p.dtype == DType::float64;
        const double step = wide ? *static_cast<const double*>(p.step_size) : *static_cast<const float*>(p.step_size);
        *p.length = seek_length(p.search, slope, ::log(step), p.longest);
    }
    if (p.average) k->adapt_step_sizes(p);
    if (p.mean) {
        parallel_for(p.dim, by_elements, 8, threads, [&](int64_t b, int64_t e) { k->adapt_moments(p, b, e); });
        *p.count += static_cast<double>(p.chains);
    }
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const CpuKernels* k : available()) names.emplace_back(k->isa);
    return names;
}

std::string current_isa() { return current()->isa; }

void force_isa(const std::string& name) {
    std::string known;
    for (const CpuKernels* k : available()) {
        if (name == k->isa) {
            current() = k;
            return;
        }
        known += (known.empty() ? "" : ", ") + std::string(k->isa);
    }
    throw std::invalid_argument("EBM_FAST_CPU_ISA must be one of " + known + " on this machine, got '" + name + "'");
}

}  // namespace ebm_fast
