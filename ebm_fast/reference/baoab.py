"""B, A, O and A of underdamped Langevin dynamics in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import noise_
from .proposal import per_chain


def baoab_(
    x: Tensor, momentum: Tensor, grad: Tensor, scale: Tensor | None, active: Tensor | None, kick_at: Tensor | None,
    drift_at: Tensor | None, persistence_at: Tensor | None, noise_std_at: Tensor | None, rng: Tensor | None, kick: float,
    drift: float, persistence: float, noise_std: float, kicks: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """p -= kick scale g (kicks times); x += drift scale p; p = c p + n z; x += drift scale p."""
    sigma = 1.0 if scale is None else scale
    p, y = momentum, x
    for _ in range(kicks):
        p = p - per_chain(kick_at, kick, x) * sigma * grad
    y = y + per_chain(drift_at, drift, x) * sigma * p
    z = x.new_empty(x.shape)
    noise_(z, rng, 2, purpose, seed, step, chain_offset)
    p = per_chain(persistence_at, persistence, x) * p + per_chain(noise_std_at, noise_std, x) * z
    y = y + per_chain(drift_at, drift, x) * sigma * p
    if active is not None:
        mask = active.bool().view(-1, *[1] * (x.ndim - 1))
        p, y = torch.where(mask, p, momentum), torch.where(mask, y, x)
    momentum.copy_(p)
    x.copy_(y)
