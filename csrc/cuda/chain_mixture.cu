// Gaussian mixtures: weights of the components in shared memory; of a few components in two dimensions in registers.
#include "../core/energies/gaussian.h"
#include "chain.cuh"

namespace ebm_fast {
namespace {

HD inline EnergyView view_of(const ChainParams& c) { return {c.parameters, static_cast<int>(c.dim), c.integers}; }

template <int MOST, int DIM>
struct FewComponents {
    using Core = MixtureOf<MOST>;
    static constexpr int TOGETHER = 0, HELD = MOST * (1 + 2 * DIM), OWN = MOST;
    static __device__ float held_at(const ChainParams& c, int i) { return Core::filled_at({c.parameters, DIM, c.integers}, i); }
};

struct Mixtures {
    using Core = Mixture;
    static constexpr int TOGETHER = 0, HELD = 0, FEW = 8;
    static HD bool few(const ChainParams& c) { return c.dim == 2 && c.integers[0] <= FEW; }
    static int64_t packed(const ChainParams& c) { return few(c) ? 0 : Core::packed_size(view_of(c)); }
    static HD float packed_at(const ChainParams& c, int64_t i) { return Core::packed_at(view_of(c), i); }
    static HD int64_t scratch(const ChainParams& c, int chains) { return few(c) ? 0 : Core::scratch(view_of(c)) * chains; }
    static double work(const ChainParams& c) {
        return static_cast<double>(c.integers[0]) * (6.0 * static_cast<double>(c.dim) + 30.0);
    }
    template <int DIM>
    static void in_registers(const ChainLaunch& l, int64_t blocks, int threads, int64_t bytes, cudaStream_t stream) {
        if (few(l.c)) return run_in_registers<FewComponents<FEW, DIM>, DIM>(l, blocks, threads, bytes, stream);
        run_in_registers<Mixtures, DIM>(l, blocks, threads, bytes, stream);
    }
};

}  // namespace

const ChainEnergy mixture_chain = chain_energy<Mixtures, 2>();

}  // namespace ebm_fast
