// Energies that are sums over the elements.
#include "../core/energies/gaussian.h"
#include "../core/energies/shapes.h"
#include "chain.cuh"

namespace ebm_fast {

const ChainEnergy gaussian_diagonal_chain = chain_energy<Elementwise<GaussianDiagonal>, 1, 2>();
const ChainEnergy gamma_chain = chain_energy<Elementwise<Gamma>>();
const ChainEnergy double_well_chain = chain_energy<Elementwise<DoubleWell>, 1, 2>();

}  // namespace ebm_fast
