"""ebm_fast: a fast sampling engine for energy-based models, p(x) proportional to exp(-E(x)/T)."""

from . import diagnostics, energies, engine, models, objectives, ops, samplers, testing, training
from .engine import ChainState, Interrupted, Run, sample
from .objectives import ContrastiveDivergence, PersistentCD, ShortRunMLE
from .ops import BackendError, use_backend
from .samplers import (
    GHMC,
    HMC,
    MALA,
    Adaptation,
    AnnealedLangevin,
    ChEES,
    IndependenceMetropolis,
    Langevin,
    MetropolisHastings,
    RandomWalkMetropolis,
    ReplicaExchange,
    SimulatedAnnealing,
    UnderdampedLangevin,
    langevin_,
)
from .training import EMA, ReplayBuffer, Trainer

__version__ = "0.1.0"
__all__ = [
    "EMA",
    "GHMC",
    "HMC",
    "MALA",
    "Adaptation",
    "AnnealedLangevin",
    "BackendError",
    "ChEES",
    "ChainState",
    "ContrastiveDivergence",
    "IndependenceMetropolis",
    "Interrupted",
    "Langevin",
    "MetropolisHastings",
    "PersistentCD",
    "RandomWalkMetropolis",
    "ReplayBuffer",
    "ReplicaExchange",
    "Run",
    "ShortRunMLE",
    "SimulatedAnnealing",
    "Trainer",
    "UnderdampedLangevin",
    "__version__",
    "diagnostics",
    "energies",
    "engine",
    "langevin_",
    "models",
    "objectives",
    "ops",
    "sample",
    "samplers",
    "testing",
    "training",
    "use_backend",
]
