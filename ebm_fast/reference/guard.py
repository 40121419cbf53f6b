"""The divergence guard in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .norm import event_norm

LARGEST_NORMAL = 6.77  # sqrt(66 ln 2), see csrc/core/normal.h


def size(x: Tensor) -> Tensor:
    """A bound on |x| of every element: the norm; of float16, whose range the norm may leave, the largest. (n,)"""
    flat = x.reshape(x.shape[0], -1).double()
    norm = flat.square().sum(1).sqrt()
    return torch.where(torch.isfinite(norm), flat.abs().amax(1), norm) if x.dtype == torch.float16 else norm


def guard_(
    x: Tensor, grad: Tensor, momentum: Tensor | None, energy: Tensor | None, divergence_step: Tensor | None,
    active: Tensor | None, norm_sum: Tensor | None, step_size_at: Tensor | None, noise_std_at: Tensor | None,
    stretch_at: Tensor | None, rng: Tensor | None, step_size: float, noise_std: float, stretch: float, heavy_ball: float,
    prior_precision: float, grad_clip: float, grad_clip_norm: float, kinetic: bool, step: int,
) -> None:  # fmt: skip
    frozen = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    if divergence_step is not None:
        assert energy is not None
        s, n, sigma = (
            number if at is None else at.double()
            for number, at in ((step_size, step_size_at), (noise_std, noise_std_at), (stretch, stretch_at))
        )
        slope = size(grad)
        if grad_clip < math.inf:
            slope = slope.clamp(max=grad_clip * math.sqrt(grad.numel() // grad.shape[0]))
        elif grad_clip_norm < math.inf:
            slope = slope.where(~torch.isfinite(slope), slope.clamp(max=grad_clip_norm))
        speed = 0.0 if momentum is None else size(momentum)
        if kinetic:
            reach = size(x) + s * sigma * (speed + s * sigma * slope + LARGEST_NORMAL * n)
        else:
            reach = size(x) * (1.0 + s * sigma**2 * abs(prior_precision)) + s * sigma**2 * slope
            reach = reach + abs(heavy_ball) * speed + sigma * LARGEST_NORMAL * n
        fine = torch.isfinite(energy) & (reach <= torch.finfo(x.dtype).max)
        frozen = divergence_step >= 0
        now = torch.full_like(divergence_step, step) if rng is None else (rng[1] + step).expand_as(divergence_step)
        divergence_step.copy_(torch.where(fine | frozen, divergence_step, now))
        frozen = divergence_step >= 0
    if active is not None:
        active.copy_(~frozen)
    if norm_sum is not None:
        norm_sum += event_norm(grad).double().masked_fill(frozen, 0.0)
