"""ebm_fast: a fast sampling engine for energy-based models, p(x) proportional to exp(-E(x)/T)."""

from . import ops
from .ops import BackendError, use_backend

__version__ = "0.1.0"
__all__ = ["BackendError", "__version__", "ops", "use_backend"]
