"""ebm_fast: a fast sampling engine for energy-based models, p(x) proportional to exp(-E(x)/T)."""

from . import engine, ops, samplers
from .engine import ChainState, Interrupted, Run, sample
from .ops import BackendError, use_backend
from .samplers import Langevin, langevin_

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "ChainState",
    "Interrupted",
    "Langevin",
    "Run",
    "__version__",
    "engine",
    "langevin_",
    "ops",
    "sample",
    "samplers",
    "use_backend",
]
