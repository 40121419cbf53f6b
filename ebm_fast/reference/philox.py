"""Philox4x32-10 in int64 arithmetic of plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def _mulhilo(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    product = a * m  # wraps at 64 bits, as it should
    return (product >> 32) & MASK, product & MASK


def philox4x32_10(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Ten rounds of Philox4x32 (Salmon et al. 2011) on int64 tensors that hold 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = _mulhilo(c0, 0xD2511F53)
        hi1, lo1 = _mulhilo(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def signed64(value: int) -> int:
    """A 64-bit word as the signed integer of the same bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def words(
    chains: int, dim: int, *, seed: int, step: int, purpose: int, chain_offset: int, rng: Tensor | None, device: torch.device
) -> Tensor:
    """Random words # (chains, 4 * ceil(dim / 4)) as int64 in [0, 2^32); element e of chain i is word e % 4 of the counter
    (e // 4, chain_offset + i, step mod 2^32, purpose | (step >> 32) << 8)."""
    seed_ = torch.tensor(signed64(seed), device=device) if rng is None else rng[0]
    step_ = torch.tensor(signed64(step), device=device) + (0 if rng is None else rng[1])
    block = torch.arange((dim + 3) // 4, device=device).expand(chains, -1)
    chain = (torch.arange(chains, device=device) + chain_offset).bitwise_and(MASK)[:, None].expand_as(block)
    tag = purpose | ((step_ >> 32) & 0xFFFFFF) << 8
    counter = (block, chain, (step_ & MASK).expand_as(block), tag.expand_as(block))
    return torch.stack(philox4x32_10(counter, (seed_ & MASK, (seed_ >> 32) & MASK)), dim=-1).flatten(1)
