"""Exponentials and logistic terms of log ratios that neither overflow nor lose digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def wide(t: Tensor) -> Tensor:
    """float32 at least: differences of energies in 16 bits say nothing."""
    return t.float() if t.itemsize < 4 else t


def softplus(t: Tensor) -> Tensor:
    """log(1 + e^t), to rounding in float64 too: torch's own cuts at 20, where e^-20 is still 1e-10 of the value."""
    return functional.softplus(t, threshold=40.0)


def _limit(t: Tensor) -> float:
    return 600.0 if t.dtype is torch.float64 else 60.0


def bounded_exp(t: Tensor) -> Tensor:
    """e^t up to c = 60 (600 in float64), its tangent e^c (1 + t - c) above.

    Finite with a finite gradient for every t that may come up, and so are sums of a billion of its values.
    """
    c = _limit(t)
    return t.clamp_max(c).exp() * (1.0 + (t - c).clamp_min(0.0))


def bounded_expm1(t: Tensor) -> Tensor:
    """e^t - 1, continued as `bounded_exp`, exact near 0."""
    c = _limit(t)
    return t.clamp_max(c).expm1() + math.exp(c) * (t - c).clamp_min(0.0)
