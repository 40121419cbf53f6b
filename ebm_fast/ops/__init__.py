"""The fused ops: validation, documentation and choice of backend; one module per op."""

from .adapt import adapt_
from .backend import BackendError, use_backend
from .baoab import baoab_
from .chain import chain_
from .gather import gather_, scatter_
from .guard import guard_
from .langevin import langevin_step_
from .leapfrog import leapfrog_
from .metropolis import metropolis_
from .moments import moments_
from .noise import bits_, fresh_seed, normal_, rademacher_, uniform_
from .norm import event_norm
from .perturb import perturb_
from .proposal import propose_
from .purposes import PURPOSES
from .randperm import randperm_
from .swap import swap_

__all__ = [
    "PURPOSES",
    "BackendError",
    "adapt_",
    "baoab_",
    "bits_",
    "chain_",
    "event_norm",
    "fresh_seed",
    "gather_",
    "guard_",
    "langevin_step_",
    "leapfrog_",
    "metropolis_",
    "moments_",
    "normal_",
    "perturb_",
    "propose_",
    "rademacher_",
    "randperm_",
    "scatter_",
    "swap_",
    "uniform_",
    "use_backend",
]
