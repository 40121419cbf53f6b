// Multilayer perceptrons whose products are rounded to tf32 or bfloat16.
#include "chain_mlp.cuh"

namespace ebm_fast {

const ChainEnergy mlp_tf32_chain = chain_energy<Perceptrons<Tf32<1>>>();
const ChainEnergy mlp_bfloat16_chain = chain_energy<Perceptrons<BFloat16>>();

}  // namespace ebm_fast
