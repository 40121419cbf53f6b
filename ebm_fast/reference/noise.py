"""Uniforms, normals, signs and raw words of the random-number contract, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .philox import words


def uniform_of(word: Tensor) -> Tensor:
    """u = float32(w) 2^-32 + 2^-33 in (0, 1], every operation rounded to float32."""
    return word.to(torch.float32) * 2.0**-32 + 2.0**-33


def normal_of(word: Tensor) -> Tensor:
    """Box-Muller on word pairs (w, v): sqrt(-2 ln u(w)) (cos, sin)(2 pi a / 2^24), a = signed top 24 bits of v, computed in
    float64 and rounded to float32."""
    w, v = word.unflatten(-1, (-1, 2)).unbind(-1)
    radius = (-2.0 * uniform_of(w).double().log()).sqrt()
    signed = v - ((v >> 31) << 32)
    angle = (signed >> 8).double() * (2.0 * math.pi / 2**24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2).float()


def sign_of(word: Tensor) -> Tensor:
    """+1 where the top bit is 0, else -1."""
    return 1.0 - 2.0 * (word >> 31).float()


def bits_of(word: Tensor) -> Tensor:
    """The word's 32 bits as int32."""
    return (word - ((word >> 31) << 32)).to(torch.int32)


KINDS = (bits_of, uniform_of, normal_of, sign_of)


def noise_(
    out: Tensor, rng: Tensor | None, kind: int, purpose: int, seed: int, step: int, chain_offset: int
) -> None:
    """Fill out # (n, *event)."""
    chains, dim = out.shape[0], out[0].numel()
    word = words(
        chains, dim, seed=seed, step=step, purpose=purpose, chain_offset=chain_offset, rng=rng, device=out.device
    )
    out.copy_(KINDS[kind](word)[:, :dim].reshape(out.shape))
