// Gaussian mixtures: weights of the components in shared memory.
#include "../core/energies/gaussian.h"
#include "chain.cuh"

namespace ebm_fast {
namespace {

struct Mixtures {
    using Core = Mixture;
    static constexpr int TOGETHER = 0;
    static HD EnergyView view(const ChainParams& c) { return {c.parameters, static_cast<int>(c.dim), c.integers}; }
    static int64_t packed(const ChainParams& c) { return Mixture::packed_size(view(c)); }
    static HD float packed_at(const ChainParams& c, int64_t i) { return Mixture::packed_at(view(c), i); }
    static HD int64_t scratch(const ChainParams& c, int chains) { return Mixture::scratch(view(c)) * chains; }
    static double work(const ChainParams& c) {
        return static_cast<double>(c.integers[0]) * (6.0 * static_cast<double>(c.dim) + 30.0);
    }
};

}  // namespace

const ChainEnergy mixture_chain = chain_energy<Mixtures, 2>();

}  // namespace ebm_fast
