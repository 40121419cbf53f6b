// The Metropolis decision, in float64: log u <= a, a = beta (E - E') + K - K' + r. V is double (one chain) or a lane vector.
#pragma once
#include "exponential.h"
#include "leapfrog.h"

EBM_FAST_CORE_BEGIN

template <class V>
HD inline auto is_finite(V a) {
    return a - a == broadcast<V>(0.0);
}

// min(1, e^a)
template <class V>
HD inline V acceptance(V a) {
    const V zero = broadcast<V>(0.0);
    return exponential(a < zero ? a : zero);
}

template <class V>
struct ChainEnd {                 // of one chain's trajectory
    V energy, proposal_energy, kinetic, proposal_kinetic, log_ratio, beta;
};

template <class V>
struct Decision {
    using Mask = decltype(V{} <= V{});
    Mask accepted, finite;
    V a, hamiltonian;             // beta E + K of the state that is kept

    HD V probability() const { return finite ? acceptance(a) : broadcast<V>(0.0); }
    HD Mask diverged(double max_error) const { return (finite == Mask{}) | (a < broadcast<V>(-max_error)); }
};

template <class V>
HD inline Decision<V> decide(const ChainEnd<V>& e, V log_u) {
    Decision<V> d;
    d.a = e.beta * (e.energy - e.proposal_energy) + (e.kinetic - e.proposal_kinetic) + e.log_ratio;
    d.finite = is_finite(e.proposal_energy) & is_finite(e.proposal_kinetic) & (d.a == d.a);
    d.accepted = d.finite & (log_u <= d.a);
    d.hamiltonian = d.accepted ? e.beta * e.proposal_energy + e.proposal_kinetic : e.beta * e.energy + e.kinetic;
    return d;
}

EBM_FAST_CORE_END
