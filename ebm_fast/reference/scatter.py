"""Rows written back to a buffer in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def scatter_(target: Tensor, slots: Tensor, x: Tensor) -> None:
    """target[slots_i] = x_i where every element of x_i is finite and slots_i exists."""
    kept = x.isfinite().reshape(x.shape[0], -1).all(1) & (slots >= 0) & (slots < target.shape[0])
    target[slots[kept]] = x[kept]
