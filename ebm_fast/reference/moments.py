"""Streaming moments in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def moments_(x: Tensor, mean: Tensor, squares: Tensor, count_at: Tensor | None, count: int) -> None:
    """d = x - mean; mean += d / count; squares += d (x - mean)."""
    difference = x - mean
    mean += difference / (count if count_at is None else count_at.to(x.dtype))
    squares += difference * (x - mean)
