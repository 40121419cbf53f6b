"""Norm of each chain's event in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def add_norms(norm_sum: Tensor, norm: Tensor, active: Tensor | None) -> None:
    """norm_sum += norm of the active chains. # (n,) each"""
    norm_sum += norm if active is None else norm.masked_fill(~active.bool(), 0.0)


def event_norm(x: Tensor) -> Tensor:
    """norm_i = sqrt(sum_d x_id^2), summed in float64. x # (n, *event) -> (n,)"""
    norm = x.reshape(x.shape[0], -1).double().square().sum(1).sqrt()
    return norm if x.dtype == torch.float64 else norm.float()
