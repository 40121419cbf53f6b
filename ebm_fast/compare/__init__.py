"""The comparison of training objectives on densities that are known."""

from __future__ import annotations

from .methods import METHODS
from .run import run

__all__ = ["METHODS", "run"]
