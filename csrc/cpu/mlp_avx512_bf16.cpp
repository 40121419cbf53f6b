// Multilayer perceptrons at precision bfloat16 on AVX-512's instructions for pairs of such numbers.
#if defined(__x86_64__)
#include "mlp_pairs.h"

namespace ebm_fast {
namespace {

EnergyView view(const ChainParams& c, const float* p) { return {p, static_cast<int>(c.dim), c.integers, c.precision}; }

template <int G, int MODE>
void evaluate(const ChainParams& c, const float* packed, const float* x, float* grad, float* energy, float* scratch) {
    MlpPairs::evaluate<G, MODE>(view(c, packed), reinterpret_cast<const F*>(x), reinterpret_cast<F*>(grad),
                                reinterpret_cast<F*>(energy), reinterpret_cast<F*>(scratch));
}
int64_t packed_size(const ChainParams& c) { return MlpPairs::packed_size(view(c, c.parameters)); }
void pack(const ChainParams& c, float* out) { MlpPairs::pack(view(c, c.parameters), out); }
int64_t scratch(const ChainParams& c) { return MlpPairs::scratch(view(c, c.parameters)); }

}  // namespace

const MlpKernels avx512_bf16_mlp = {packed_size,
                                    pack,
                                    scratch,
                                    {{nullptr, evaluate<1, VALUE>, evaluate<1, GRAD>, evaluate<1, BOTH>},
                                     {nullptr, evaluate<2, VALUE>, evaluate<2, GRAD>, evaluate<2, BOTH>}}};

}  // namespace ebm_fast
#endif
