"""Noise models: normalised densities that can be drawn from, `log_prob(x)` and `sample(n)`; and adapters of others' objects."""

from .base import NoiseModel
from .foreign import Exact, Foreign, as_noise
from .gaussian import Gaussian
from .mixture import KernelDensity, Mixture
from .uniform import Uniform

__all__ = [
    "Exact",
    "Foreign",
    "Gaussian",
    "KernelDensity",
    "Mixture",
    "NoiseModel",
    "Uniform",
    "as_noise",
]
