// Energies in which elements meet: Rosenbrock, funnel, ring, phi-four, eight schools.
#include "../core/energies/bayes.h"
#include "../core/energies/shapes.h"
#include "chain.cuh"

namespace ebm_fast {

const ChainEnergy rosenbrock_chain = chain_energy<Elementwise<Rosenbrock>, 2>();
const ChainEnergy funnel_chain = chain_energy<Elementwise<Funnel>, 2>();
const ChainEnergy ring_chain = chain_energy<Elementwise<Ring>, 2>();
const ChainEnergy phi_four_chain = chain_energy<Elementwise<PhiFour>>();
const ChainEnergy eight_schools_chain = chain_energy<Elementwise<EightSchools>, 10>();

}  // namespace ebm_fast
