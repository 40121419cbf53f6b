// The whole chain on a GPU: the machine of core/transition.h for one thread, the two forms of the kernel around it, and what an
// energy needs to be run by them. What a chain computes depends on nothing but its index.
#pragma once
#include "../core/transition.h"
#include "blocks.cuh"
#include "chain.h"
#include "team.cuh"

namespace ebm_fast {
namespace {

// Scratch of one chain
struct Column {
    float* at;
    int stride;
    __device__ float& operator[](int i) const { return at[static_cast<int64_t>(i) * stride]; }
};

// Where the thread of a chain finds the parameters and its scratch: in memory; or where the compiler knows their numbers, HELD
// and OWN, parameters that the thread block has packed into shared memory, and scratch in registers.
template <class Energy, bool = (Energy::HELD > 0)>
struct Place {
    using Scratch = Column;
    const float* parameters;
    const Column scratch;
    __device__ Place(const ChainLaunch& l, float* memory)
        : parameters(l.parameters), scratch{(l.space ? l.space + blockIdx.x * l.block_floats : memory) + threadIdx.x, l.chains} {}
};
template <class Energy>
struct Place<Energy, true> {
    using Scratch = float*;
    const float* parameters;
    float scratch[Energy::OWN];
    __device__ Place(const ChainLaunch& l, float*) {
        alignas(16) __shared__ float packed[Energy::HELD];
        for (int i = threadIdx.x; i < Energy::HELD; i += l.chains) packed[i] = Energy::held_at(l.c, i);
        __syncthreads();
        parameters = packed;
    }
};

// The chains of a thread block, for energies that are evaluated for all of them at once, by more threads than look after chains.
struct Tile {
    float* scratch;  // if `shared`, the dynamic shared memory from float `offset` on
    int offset, chains, chain;  // chain: this thread's
    int thread, threads;
    bool helps;  // this thread looks after none
    bool shared;
    int near;  // float of the dynamic shared memory from which the parameters lie there, or 0
};

// From here the compiler knows which memory that is.
__device__ inline float* shared_float(int at) {
    EBM_FAST_DYNAMIC_SHARED(memory);
    return reinterpret_cast<float*>(memory) + at;
}
// What `tile.scratch` is if `tile.shared`
__device__ inline float* shared_scratch(const Tile& tile) { return shared_float(tile.offset); }

// Nothing to do for those who look after chains while others evaluate
struct Nothing {
    __device__ void operator()() const {}
};

// A function of its own: inlined at each of its ten calls it would take the compiler most of its time.
template <class Energy, int MODE>
__device__ __noinline__ float evaluate_together(EnergyView view, Tile tile, Team share, Row x, Row grad) {
    float energy = 0.0f;
    Energy::template evaluate<MODE>(view, tile, share, x, grad, energy, Nothing());
    return energy;
}

template <class Energy, class Share, class Events, class Scratch = Column>
struct ChainThread {
    const ChainParams& c;
    const Share share;
    const Tile tile;
    const EnergyView view;
    const Counter key;
    const int64_t index;  // of the chain in memory
    const bool exists;  // else a copy of the last chain fills the block up: it may be behind or ahead, and writes nothing
    const Scratch scratch;  // of the chain
    uint64_t first_step;
    double stretch = 1.0;  // largest element of the scale
    Numbers<float, 1> now;

    __device__ ChainThread(const ChainLaunch& l, const EnergyView& energy, const Share& mine, const Tile& block, int64_t chain,
                           bool is_real, const Scratch& own)
        : c(l.c),
          share(mine),
          tile(block),
          view(energy),
          key(make_counter(l.c.stream)),
          index(chain),
          exists(is_real),
          scratch(own),
          first_step(l.c.stream.step + (l.c.stream.rng ? static_cast<uint64_t>(l.c.stream.rng[1]) : 0)) {
        if (!c.scale) return;
        double most = 0.0;
        EBM_FAST_EACH(i, share) most = c.scale[i] > most ? c.scale[i] : most;
        if constexpr (Share::SPLIT) most = share.largest(most);
        stretch = most;
    }

    template <int MODE> __device__ void evaluate(Events x, Events grad, float* energy) {
        if constexpr (Energy::TOGETHER > 0) {
            const float found = evaluate_together<Energy, MODE>(view, tile, share, x, grad);
            if (MODE & VALUE) *energy = found;
        } else {
            share.sync();
            Energy::Core::template evaluate<float, 1, MODE>(view, share, x, grad, energy, scratch);
            share.sync();
        }
        if (MODE & VALUE) *energy += static_cast<float>(c.offset);
    }

    __device__ void words(int64_t t, uint32_t purpose, uint32_t block, uint32_t (&w)[4]) const {
        const uint64_t step = first_step + static_cast<uint64_t>(t);
        w[0] = block, w[1] = static_cast<uint32_t>(index) + key.chain_offset, w[2] = static_cast<uint32_t>(step);
        w[3] = purpose | static_cast<uint32_t>((step >> 32) & 0xFFFFFFu) << 8;
        philox4x32_10(w, key.keys);
    }
    __device__ void normals(Events out, int64_t t, uint32_t purpose) const {
        EBM_FAST_UNROLL_EVENT
        for (int i = share.first(); i < share.dim; i = share.next(i + 3)) {
            uint32_t w[4];
            float z[4];
            words(t, purpose, static_cast<uint32_t>(i) / 4, w);
            normals_of(w, z);
            EBM_FAST_UNROLL
            for (int k = 0; k < 4; ++k)
                if (i + k < share.dim) out[i + k] = z[k];
        }
    }
    __device__ void log_uniform(float (&out)[1], int64_t t) const {
        uint32_t w[4];
        words(t, PURPOSE_ACCEPT, 0, w);
        out[0] = log_unit<float, int32_t>(word_to_uniform<float, uint32_t>(w[0]));
    }
    __device__ void freeze_exactly(const Arrays<float, Events>& a, const Numbers<float, 1>& at, int64_t t,
                                   Status<float, 1>& status) const {
        double x = 0.0, slope = 0.0, speed = 0.0;
        EBM_FAST_EACH(i, share) {
            const double xi = a.x[i], gi = a.grad[i];
            x += xi * xi, slope += gi * gi;
            if (c.momentum) speed += static_cast<double>(a.momentum[i]) * a.momentum[i];
        }
        const double most = reach(c, stretch, at.step_size[0], at.noise_std[0], ::sqrt(share.sum(x)), ::sqrt(share.sum(slope)),
                                  ::sqrt(share.sum(speed)));
        const bool fine = status.energy[0] - status.energy[0] == 0.0f && most <= 3.4028234663852886e38;
        if (fine || status.frozen[0]) return;
        status.frozen[0] = status.any_frozen = true;
        if (exists && share.index() == 0) c.divergence_step[index] = static_cast<int64_t>(first_step + static_cast<uint64_t>(t));
    }

    __device__ float number(const Schedule& from, int64_t t) const {
        return from.at ? from.at[index * from.chain_stride + t * from.step_stride] : static_cast<float>(from.value);
    }
    __device__ void numbers_at(int64_t t) {
        now.step_size[0] = number(c.step_size, t), now.noise_std[0] = number(c.noise_std, t);
        now.beta[0] = number(c.beta, t), now.persistence[0] = number(c.persistence, t);
    }

    __device__ void load(const float* from, Events to) const {
        EBM_FAST_EACH(i, share) to[i] = from[index * c.dim + i];
    }
    __device__ void store(Events from, float* to) const {
        EBM_FAST_EACH(i, share) to[index * c.dim + i] = from[i];
    }

    // Steps begin ... end - 1
    __device__ void run(TransitionKind kind, const ChainLaunch& l, const Arrays<float, Events>& a, Events mean, Events squares) {
        const bool with_grad = needs_grad(c, kind), leads = exists && share.index() == 0;
        Status<float, 1> status{};
        load(c.x, a.x);
        if (c.momentum) load(c.momentum, a.momentum);
        if (c.mean) load(c.mean, mean), load(c.squares, squares);
        if (c.guard) status.frozen[0] = status.any_frozen = c.divergence_step[index] >= 0;
        double* totals[] = {&status.probability_sum[0], &status.accepted[0], &status.divergent[0], &status.probability[0],
                            &status.hamiltonian[0]};
        if (c.counters) EBM_FAST_UNROLL
        for (int k = 0; k < COUNTERS; ++k) *totals[k] = c.counters[index * COUNTERS + k];
        if (c.norm_sum) status.norm_sum[0] = c.norm_sum[index];
        if (l.carried) {
            status.energy[0] = c.energy[index];
            if (with_grad) load(c.grad, a.grad);
        } else if (with_grad) {
            evaluate<BOTH>(a.x, a.grad, status.energy);
        } else if (kind == TransitionKind::random_walk) {
            evaluate<VALUE>(a.x, a.grad, status.energy);
        }
        int64_t row = l.begin / c.thin, wait = (row + 1) * c.thin - l.begin;  // steps until the next one that is recorded
        for (int64_t t = l.begin; t < l.end; ++t) {
            numbers_at(t);
            const bool recorded = --wait == 0;
            take_step<float, 1>(kind, *this, c, a, now, t, l.end, l.finish, recorded, status);
            if (c.proposal && t + 1 == l.end && exists) store(a.proposal, c.proposal);  // kept, it would spill
            if (c.mean) update_moments<float, 1>(share, c.count + t + 1, a.x, mean, squares);
            if (!recorded) continue;
            if (c.hamiltonians) hamiltonian_now<float, 1>(kind, *this, a, status);
            if (c.samples && exists) store(a.x, c.samples + row * c.chains * c.dim);
            if (c.energies && leads) c.energies[row * c.chains + index] = status.energy[0];
            if (c.hamiltonians && leads) c.hamiltonians[row * c.chains + index] = status.hamiltonian[0];
            ++row, wait = c.thin;
        }
        if (exists) {
            store(a.x, c.x);
            if (c.momentum) store(a.momentum, c.momentum);
            if (c.mean) store(mean, c.mean), store(squares, c.squares);
            if (c.grad && with_grad) store(a.grad, c.grad);
        }
        if (!leads) return;
        if (c.energy) c.energy[index] = status.energy[0];
        if (c.counters) EBM_FAST_UNROLL
        for (int k = 0; k < COUNTERS; ++k) c.counters[index * COUNTERS + k] = *totals[k];
        if (c.norm_sum) c.norm_sum[index] = status.norm_sum[0];
    }

    // The same steps where `is_bare`. A step's noise is drawn beside the evaluation, which does not wait for it: between its
    // instructions, or by warps that would wait.
    __device__ void run_bare(const ChainLaunch& l, Events x, Events grad, Events noise) {
        const float step_size = static_cast<float>(c.step_size.value), noise_std = static_cast<float>(c.noise_std.value);
        load(c.x, x);
        for (int64_t t = l.begin; t < l.end; ++t) {
            const auto draw = [&] { normals(noise, t, PURPOSE_LANGEVIN); };
            float unused = 0.0f;
            if constexpr (Energy::TOGETHER > 0) Energy::template evaluate<GRAD>(view, tile, share, x, grad, unused, draw);
            else draw(), evaluate<GRAD>(x, grad, nullptr);
            by_blocks(
                share, [&](int i) { return fma(noise_std, noise[i], fma(-step_size, grad[i], x[i])); },
                [&](int i, float a) { x[i] = a; });
        }
        if (exists) store(x, c.x);
    }
};

// Langevin steps without options or schedules that leave their last state behind and nothing else
inline bool is_bare(const ChainParams& c) {
    return c.transition == TransitionKind::langevin && is_plain(c) && !c.scale && !c.noise_first && !c.step_size.at &&
           !c.noise_std.at && c.noise_std.value != 0.0 && !c.guard && !c.norm_sum && !c.energy && !c.grad && !c.samples &&
           !c.energies && !c.hamiltonians && !c.mean;
}

constexpr int REGISTER_THREADS = 128, TEAM_THREADS = 256;

template <class Energy, int DIM, TransitionKind KIND>
__global__ void __launch_bounds__(REGISTER_THREADS, 4) chain_in_registers(const __grid_constant__ ChainLaunch l) {
    EBM_FAST_DYNAMIC_SHARED(memory);
    Place<Energy> place(l, reinterpret_cast<float*>(memory));
    const int64_t index = static_cast<int64_t>(blockIdx.x) * l.chains + threadIdx.x;
    if (index >= l.c.chains) return;
    float x[DIM], grad[DIM] = {}, momentum[DIM], proposal[DIM], proposal_grad[DIM], before[DIM], mean[DIM], squares[DIM];
    const Arrays<float, float*> arrays = {x, grad, momentum, proposal, proposal_grad, before, l.c.scale};
    using Thread = ChainThread<Energy, Exactly<DIM>, float*, typename Place<Energy>::Scratch>;
    const EnergyView view = {place.parameters, DIM, l.c.integers, 0};
    Thread thread(l, view, Exactly<DIM>(), Tile{}, index, true, place.scratch);
    thread.run(KIND, l, arrays, mean, squares);
}

// A loop of a few hundred instructions, where that of all the options has thousands and the energy's code several times.
template <class Energy, int DIM>
__global__ void __launch_bounds__(REGISTER_THREADS, 5) bare_langevin(const __grid_constant__ ChainLaunch l) {
    EBM_FAST_DYNAMIC_SHARED(memory);
    Place<Energy> place(l, reinterpret_cast<float*>(memory));
    const int64_t index = static_cast<int64_t>(blockIdx.x) * l.chains + threadIdx.x;
    if (index >= l.c.chains) return;
    float x[DIM], grad[DIM], noise[DIM], held[Energy::HELD + 1];
    EBM_FAST_UNROLL
    for (int i = 0; i < Energy::HELD; ++i) held[i] = place.parameters[i];
    using Thread = ChainThread<Energy, Exactly<DIM>, float*, typename Place<Energy>::Scratch>;
    const EnergyView view = {Energy::HELD > 0 ? held : place.parameters, DIM, l.c.integers, 0};
    Thread thread(l, view, Exactly<DIM>(), Tile{}, index, true, place.scratch);
    thread.run_bare(l, x, grad, noise);
}

// Parameters that a block may keep in its shared memory
template <class E, class = void>
struct Near {
    static int64_t size(const ChainParams&, int) { return 0; }
};
template <class E>
struct Near<E, decltype(E::near(ChainParams{}, 0), void())> {
    static int64_t size(const ChainParams& c, int chains) { return E::near(c, chains); }
};

// BARE: the loop of `run_bare` alone, with all arrays in shared memory, which the compiler then knows
template <class Energy, bool BARE>
__global__ void __launch_bounds__(TEAM_THREADS, Energy::TOGETHER > 0 && !BARE ? 1 : 2)
    chain_in_teams(const __grid_constant__ ChainLaunch l) {
    float* block = BARE || !l.space ? shared_float(0) : l.space + blockIdx.x * l.block_floats;
    const int thread = threadIdx.x, quarter = static_cast<int>((l.c.dim + 3) / 4);
    const bool helps = thread >= l.chains * l.team;  // whole warps, whose events have no elements
    const int chain = helps ? l.chains - 1 : thread / l.team;
    const int64_t last = l.c.chains - 1, wanted = static_cast<int64_t>(blockIdx.x) * l.chains + chain;
    __shared__ int64_t integers[8];  // there every address is one that all loads can use
    if (thread < 8) integers[thread] = l.c.integers[thread];
    if constexpr (Energy::TOGETHER > 0) Energy::prepare(l, thread);
    __syncthreads();
    const auto row = [&](int slot) {
        return Row{block + (l.slots[slot] * l.chains + chain) * static_cast<int64_t>(l.stride), quarter};
    };
    const Arrays<float, Row> arrays = {row(STATE),          row(SLOPE),  row(MOMENTUM), row(PROPOSAL),
                                       row(PROPOSAL_SLOPE), row(BEFORE), l.c.scale};
    const int64_t offset = l.arrays * l.chains * static_cast<int64_t>(l.stride);
    float* scratch = block + offset;
    const Tile tile = {scratch, static_cast<int>(offset), l.chains, chain, thread, l.threads, helps, BARE || !l.space, l.near};
    const Team team = {helps ? 0 : static_cast<int>(l.c.dim), thread % l.team, l.team};
    const Column own = {scratch + chain * Energy::scratch(l.c, 1), 1};
    const bool exists = wanted <= last && !helps;
    ChainThread<Energy, Team, Row> machine(l, {l.parameters, static_cast<int>(l.c.dim), integers, 0}, team, tile,
                                           wanted < last ? wanted : last, exists, own);
    if constexpr (BARE) machine.run_bare(l, arrays.x, arrays.grad, arrays.proposal);
    else machine.run(l.c.transition, l, arrays, row(MEAN), row(SQUARES));
}

template <class Energy>
__global__ void __launch_bounds__(TEAM_THREADS) pack_parameters(const ChainParams c, float* out, int64_t count) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * TEAM_THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * TEAM_THREADS + threadIdx.x; i < count; i += stride)
        out[i] = Energy::packed_at(c, i);
}

template <class Kernel, class... Args>
void start(Kernel kernel, int64_t blocks, int threads, int64_t bytes, cudaStream_t stream, const Args&... args) {
    if (blocks > 0x7FFFFFFF) throw std::runtime_error("chain_cuda: at most 2^31 - 1 thread blocks, so fewer chains");
    if (bytes > 48 * 1024)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(bytes)),
              "chain_cuda");
    const unsigned grid = static_cast<unsigned>(blocks);
    kernel<<<grid, threads, bytes, stream>>>(args...);
    check(cudaGetLastError(), "chain_cuda");
}

template <class Energy, int DIM>
void run_in_registers(const ChainLaunch& l, int64_t blocks, int threads, int64_t bytes, cudaStream_t stream) {
    if (is_bare(l.c)) return start(bare_langevin<Energy, DIM>, blocks, threads, bytes, stream, l);
    switch (l.c.transition) {
        case TransitionKind::langevin:
            return start(chain_in_registers<Energy, DIM, TransitionKind::langevin>, blocks, threads, bytes, stream, l);
        case TransitionKind::random_walk:
            return start(chain_in_registers<Energy, DIM, TransitionKind::random_walk>, blocks, threads, bytes, stream, l);
        case TransitionKind::hmc:
            return start(chain_in_registers<Energy, DIM, TransitionKind::hmc>, blocks, threads, bytes, stream, l);
        case TransitionKind::baoab:
            return start(chain_in_registers<Energy, DIM, TransitionKind::baoab>, blocks, threads, bytes, stream, l);
    }
}

// An energy as the kernels take it: that of core/energies, with the number of a chain's scratch floats and of its operations.
template <class E>
struct Elementwise {
    using Core = E;
    static constexpr int TOGETHER = 0, HELD = 0;
    static int64_t packed(const ChainParams&) { return 0; }
    static HD int64_t scratch(const ChainParams&, int) { return 0; }
    static double work(const ChainParams& c) { return 20.0 * static_cast<double>(c.dim) + 50.0; }
    template <int DIM>
    static void in_registers(const ChainLaunch& l, int64_t blocks, int threads, int64_t bytes, cudaStream_t stream) {
        run_in_registers<Elementwise, DIM>(l, blocks, threads, bytes, stream);
    }
};

template <class E, class = void>
struct Packer {
    static constexpr auto function = static_cast<decltype(ChainEnergy::pack)>(nullptr);
};
template <class E>
struct Packer<E, decltype(E::packed_at(ChainParams{}, 0), void())> {
    static void function(const ChainLaunch& l, float* out, int64_t count, cudaStream_t stream) {
        const int64_t blocks = (count + TEAM_THREADS - 1) / TEAM_THREADS;
        start(pack_parameters<E>, blocks < 1024 ? blocks : 1024, TEAM_THREADS, 0, stream, l.c, out, count);
    }
};

// Elements of an event up to which eight threads share its chain; beyond, a warp.
template <class E, class = void>
struct Eight {
    static constexpr int MOST = 0;
};
template <class E>
struct Eight<E, decltype(E::EIGHT, void())> {
    static constexpr int MOST = E::EIGHT;
};

template <class E, int... DIMS>
ChainEnergy chain_energy() {
    const auto run = [](const ChainLaunch& l, int64_t blocks, int threads, int64_t bytes, cudaStream_t stream) {
        if (l.team && !l.space && is_bare(l.c)) return start(chain_in_teams<E, true>, blocks, threads, bytes, stream, l);
        if (l.team) return start(chain_in_teams<E, false>, blocks, threads, bytes, stream, l);
        ((l.c.dim == DIMS ? E::template in_registers<DIMS>(l, blocks, threads, bytes, stream) : void()), ...);
    };
    constexpr unsigned registers = ((1u << DIMS) | ... | 0u);
    return {E::TOGETHER, Eight<E>::MOST, registers, E::packed, E::scratch, Near<E>::size, E::work, Packer<E>::function, run};
}

}  // namespace
}  // namespace ebm_fast
