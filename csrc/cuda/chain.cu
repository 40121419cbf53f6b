// Lays whole chains out on the GPU and cuts a run into launches that stay well under a second.
#include <algorithm>
#include "../core/energies/energy.h"
#include "../core/transition.h"
#include "blocks.cuh"
#include "chain.h"
#include "launch.h"

namespace ebm_fast {
namespace {

constexpr char NAME[] = "chain_cuda";
constexpr int64_t ALIGN = 64;                     // floats: parts of the workspace begin at multiples of 256 bytes
constexpr double SECONDS = 0.2, OPERATIONS_PER_SECOND = 2e12, SECONDS_PER_SERIAL_OPERATION = 1e-8;  // of a launch; pessimistic
int64_t most_steps = int64_t(1) << 62;

const ChainEnergy& energy_of(const ChainParams& c) {
    switch (c.energy_kind) {
        case EnergyKind::gaussian_diagonal: return gaussian_diagonal_chain;
        case EnergyKind::gaussian_dense: return gaussian_dense_chain;
        case EnergyKind::mixture: return mixture_chain;
        case EnergyKind::gamma: return gamma_chain;
        case EnergyKind::double_well: return double_well_chain;
        case EnergyKind::rosenbrock: return rosenbrock_chain;
        case EnergyKind::funnel: return funnel_chain;
        case EnergyKind::ring: return ring_chain;
        case EnergyKind::phi_four: return phi_four_chain;
        case EnergyKind::logistic_regression: return logistic_regression_chain;
        case EnergyKind::eight_schools: return eight_schools_chain;
        case EnergyKind::mlp: return c.precision == 0 ? mlp_chain : c.precision == 1 ? mlp_tf32_chain : mlp_bfloat16_chain;
    }
    throw std::runtime_error("chain_cuda: unknown energy");
}

// Threads that share a chain: by the event's size alone, since sums depend on it.
int team_of(const ChainEnergy& energy, int64_t dim) {
    if (energy.together) return dim <= energy.eight ? 8 : 32;
    if (dim < 32 && (energy.registers >> dim & 1u)) return 0;
    return dim <= 8 ? 1 : dim <= 32 ? 4 : dim <= 64 ? 8 : dim <= 4096 ? 32 : 256;
}

#if defined(EBM_FAST_ON_CPU)
constexpr int TOGETHER_THREADS = 96;  // each is a context of its own there
#else
constexpr int TOGETHER_THREADS = 256;  // of a block whose chains are evaluated together, at least
#endif

struct Plan {
    int64_t blocks, packed, shared_bytes, space_floats;
    int threads;
};

int64_t aligned_up(int64_t floats) { return (floats + ALIGN - 1) / ALIGN * ALIGN; }

int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), NAME);
    check(cudaDeviceGetAttribute(&value, which, device), NAME);
    return value;
}

// Fills in the layout of l, all but the addresses.
Plan plan(const ChainEnergy& energy, ChainLaunch& l) {
    const ChainParams& c = l.c;
    if (c.dim > int64_t(1) << 24) throw std::runtime_error("chain_cuda: an event may have at most 2^24 elements");
    const bool langevin = c.transition == TransitionKind::langevin, hmc = c.transition == TransitionKind::hmc;
    const bool walk = c.transition == TransitionKind::random_walk;
    const bool used[8] = {true,
                          !walk,
                          hmc || c.momentum != nullptr,
                          !langevin || c.noise_std.at || c.noise_std.value != 0.0,
                          hmc || walk,
                          hmc && c.flip,
                          c.mean != nullptr,
                          c.mean != nullptr};
    l.arrays = 0;
    for (int k = 0; k < 8; ++k) l.slots[k] = used[k] ? l.arrays++ : 0;
    l.team = team_of(energy, c.dim);
    const int team = std::max(l.team, 1), most_chains = l.team == 0 ? 128 : std::max((energy.together ? 256 : 128) / team, 1);
    const int fewest = std::max(energy.together, std::max(32 / team, 1));  // whole warps
    const int64_t quads = (c.dim + 3) / 4 * 4;
    l.stride = 0;  // neighbouring threads then use different banks of shared memory
    if (l.team) l.stride = static_cast<int>(team < 32 ? team * ((quads + team - 1) / team | 1) : quads);
    if (l.team == 0) l.arrays = 0;
    const auto floats = [&](int chains) { return l.arrays * int64_t(l.stride) * chains + energy.scratch(c, chains); };
    const int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
    const int64_t most_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 2048;
    // Fewer chains a block where that gives every processor work, or memory asks for it; chains that are evaluated together share
    // what is read of the parameters.
    const int64_t enough = energy.together ? processors * 7 / 4 : 2 * processors, wide = most_bytes / 2;
    int chains = most_chains;
    while (chains > fewest && ((c.chains + chains - 1) / chains < enough || floats(chains) * 4 > wide)) chains /= 2;
    l.chains = chains;
    l.block_floats = aligned_up(floats(chains));
    Plan p;
    p.threads = energy.together ? std::max(chains * team, TOGETHER_THREADS) : chains * team;
    l.threads = p.threads;
    p.blocks = (c.chains + chains - 1) / chains;
    p.packed = energy.packed(c);
    const bool shared = floats(chains) * 4 <= most_bytes;
    p.shared_bytes = shared ? floats(chains) * 4 : 0;
    // The parameters too, where there is room: for two blocks a processor where there are so many.
    const int64_t near = energy.near(c, chains), both = (l.block_floats + near) * 4;
    l.near = near && both <= (p.blocks <= processors ? most_bytes : wide) ? static_cast<int>(l.block_floats) : 0;
    if (l.near) p.shared_bytes = both;
    p.space_floats = aligned_up(p.packed) + (shared ? 0 : p.blocks * l.block_floats);
    return p;
}

// Steps that take less than SECONDS, by a crude and pessimistic count.
int64_t steps_at_once(const ChainEnergy& energy, const ChainLaunch& l) {
    const ChainParams& c = l.c;
    const double dim = static_cast<double>(c.dim), gradients = c.transition == TransitionKind::hmc ? double(c.leapfrogs) : 1.0;
    const double step = 60.0 * dim + 500.0 + gradients * (energy.work(c) + 12.0 * dim);
    const double all = step * static_cast<double>(c.chains) / OPERATIONS_PER_SECOND;
    const double alone = step / std::max(l.team, 1) * SECONDS_PER_SERIAL_OPERATION;
    return std::max<int64_t>(1, std::min(most_steps, static_cast<int64_t>(SECONDS / std::max(all, alone))));
}

}  // namespace

int64_t chain_cuda_space(const ChainParams& c) {
    ChainLaunch l{};
    l.c = c;
    return plan(energy_of(c), l).space_floats * 4;
}

void force_chain_steps(int64_t most) { most_steps = most > 0 ? most : int64_t(1) << 62; }

void chain_cuda(const ChainParams& c, CudaPlace place) {
    if (c.chains == 0 || c.dim == 0 || c.steps == 0) return;
    const auto stream = reinterpret_cast<cudaStream_t>(place.stream);
    const ChainEnergy& energy = energy_of(c);
    ChainLaunch l{};
    l.c = c;
    const Plan p = plan(energy, l);
    auto* space = reinterpret_cast<float*>(place.workspace);
    l.parameters = c.parameters;
    if (p.packed) energy.pack(l, space, p.packed, stream), l.parameters = space;
    l.space = p.shared_bytes == 0 && p.space_floats > aligned_up(p.packed) ? space + aligned_up(p.packed) : nullptr;
    const int64_t most = steps_at_once(energy, l);
    const bool carries = c.finish && c.energy && (c.grad || !needs_grad(c, c.transition));  // else evaluated anew: same bits
    for (l.begin = 0; l.begin < c.steps; l.begin = l.end) {
        l.end = std::min(c.steps, l.begin + most);
        l.carried = l.begin == 0 ? c.carried : carries;
        l.finish = l.end == c.steps ? c.finish : carries;
        energy.run(l, p.blocks, p.threads, p.shared_bytes, stream);
    }
}

}  // namespace ebm_fast
