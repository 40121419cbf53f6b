"""The fused ops: validation, documentation and choice of backend; one module per op."""

from .backend import BackendError, use_backend
from .langevin import langevin_step_
from .noise import bits_, fresh_seed, normal_, rademacher_, uniform_
from .norm import event_norm
from .purposes import PURPOSES

__all__ = [
    "PURPOSES",
    "BackendError",
    "bits_",
    "event_norm",
    "fresh_seed",
    "langevin_step_",
    "normal_",
    "rademacher_",
    "uniform_",
    "use_backend",
]
