"""Replica-exchange swaps in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import noise_


def swap_(
    x: Tensor, energy: Tensor, betas: Tensor, grad: Tensor | None, labels: Tensor | None, counters: Tensor | None,
    rng: Tensor | None, parity: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """Neighbours j, j + 1 (j = parity, parity + 2, ...) change places where log u_j <= (b_j - b_{j+1}) (E_j - E_{j+1})."""
    n, r = energy.shape
    u = torch.empty((n, r), dtype=torch.float32, device=x.device)
    noise_(u, rng, 1, purpose, seed, step, chain_offset)
    first = torch.arange(parity, r - 1, 2, device=x.device)
    difference = energy[:, first].double() - energy[:, first + 1].double()
    a = (betas[first] - betas[first + 1]) * difference
    finite = torch.isfinite(energy[:, first]) & torch.isfinite(energy[:, first + 1])
    swapped = finite & (u[:, first].double().log().float().double() <= a)
    if counters is not None:
        counters[:, first, 0] += torch.where(finite, a.clamp(max=0.0).exp(), 0.0)
        counters[:, first, 1] += swapped
    place = torch.arange(r, device=x.device).repeat(n, 1)
    place[:, first] += swapped.long()
    place[:, first + 1] -= swapped.long()
    chain = torch.arange(n, device=x.device)[:, None]
    for t in (x, energy, grad, labels):
        if t is not None:
            t.copy_(t[chain, place])
