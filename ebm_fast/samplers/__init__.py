"""Samplers: frozen dataclasses of hyper-parameters with `init` and `step`; one module per family."""

from .langevin import Langevin, langevin_

__all__ = ["Langevin", "langevin_"]
