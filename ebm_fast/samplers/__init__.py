"""Samplers: frozen dataclasses of hyper-parameters with `init` and `step`; one module per family."""

from .adaptation import Adaptation
from .annealed import AnnealedLangevin, SimulatedAnnealing
from .base import Sampler, Transition
from .chees import ChEES
from .hmc import GHMC, HMC, MALA
from .langevin import Langevin, langevin_
from .metropolis import IndependenceMetropolis, MetropolisHastings, ProposalNoise, RandomWalkMetropolis
from .replica import ReplicaExchange
from .underdamped import UnderdampedLangevin

__all__ = [
    "GHMC",
    "HMC",
    "MALA",
    "Adaptation",
    "AnnealedLangevin",
    "ChEES",
    "IndependenceMetropolis",
    "Langevin",
    "MetropolisHastings",
    "ProposalNoise",
    "RandomWalkMetropolis",
    "ReplicaExchange",
    "Sampler",
    "SimulatedAnnealing",
    "Transition",
    "UnderdampedLangevin",
    "langevin_",
]
