// Multilayer perceptrons in float32.
#include "chain_mlp.cuh"

namespace ebm_fast {

const ChainEnergy mlp_chain = chain_energy<Perceptrons<Tf32<2>>>();

}  // namespace ebm_fast
