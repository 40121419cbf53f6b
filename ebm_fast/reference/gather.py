"""Rows of a buffer, some restarted, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .noise import noise_


def gather_(
    out: Tensor, source: Tensor, slots: Tensor, rows: Tensor | None, fresh: Tensor | None, rng: Tensor | None, kind: int,
    rate: float, shift: float, spread: float, coin: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """x_i = source[slots_i], or where u_i <= rate: shift + spread u, shift + spread z, or a row of `rows`; NaN outside source."""
    n, arithmetic = out.shape[0], torch.float64 if out.dtype == torch.float64 else torch.float32
    per_chain = (-1,) + (1,) * (out.ndim - 1)
    u = torch.empty((n, 1), dtype=torch.float32, device=out.device)
    noise_(u, rng, 1, coin, seed, step, chain_offset)
    restarted = u.squeeze(1) <= torch.tensor(rate, dtype=torch.float32, device=out.device)
    if rows is not None:
        word = torch.empty((n, 1), dtype=torch.int32, device=out.device)
        noise_(word, rng, 0, purpose, seed, step, chain_offset)
        new = rows[(word.squeeze(1).long() & 0xFFFFFFFF) * rows.shape[0] >> 32]
    else:
        z = torch.empty(out.shape, dtype=arithmetic, device=out.device)
        noise_(z, rng, kind, purpose, seed, step, chain_offset)
        new = (z * spread + shift).to(out.dtype)
    known = (slots >= 0) & (slots < source.shape[0])
    old = source[slots.clamp(0, source.shape[0] - 1)].where(known.view(per_chain), math.nan)
    out.copy_(torch.where(restarted.view(per_chain), new, old))
    if fresh is not None:
        fresh.copy_(restarted)
