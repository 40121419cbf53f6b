"""Kick and drift in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from .proposal import per_chain


def leapfrog_(
    x: Tensor, momentum: Tensor, grad: Tensor, scale: Tensor | None, kick_at: Tensor | None, drift_at: Tensor | None,
    kick: float, drift: float,
) -> None:  # fmt: skip
    """p -= kick scale g; x += drift scale p."""
    sigma = 1.0 if scale is None else scale
    momentum -= per_chain(kick_at, kick, x) * sigma * grad
    x += per_chain(drift_at, drift, x) * sigma * momentum
