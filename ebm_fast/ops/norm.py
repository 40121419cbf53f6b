"""Norm of each chain's event, for gradient clipping, the divergence guard and the gradient strength along a chain."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .backend import route
from .library import define


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _impl(x: Tensor, backend: str) -> Tensor:
    return route("event_norm", x, backend)(x) if x.numel() else _empty(x).zero_()


_op = define("event_norm(Tensor x, str backend) -> Tensor", _impl, lambda x, backend: _empty(x))


def event_norm(
    x: Tensor,  # (n, *event)
    *,
    backend: str | None = None,
) -> Tensor:
    """norm_i = sqrt(sum_d x_id^2), summed in float64 in an order that depends on the event alone.

    Args:
        x: contiguous tensor (n, *event), float32, float64, bfloat16 or float16.
        backend: see `ebm_fast.use_backend`.

    Returns:
        (n,) float32, or float64 for a float64 x; inf or NaN where the event holds one.

    Raises:
        TypeError, ValueError: x is of a wrong dtype or not contiguous.
    """
    checks.state(x, "x")
    return _op(x, backend or "auto")
