"""Perturbed copies of data in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from .noise import noise_


def perturb_(
    out: Tensor, noise: Tensor | None, x: Tensor, scale: Tensor | None, sigma_at: Tensor | None, rng: Tensor | None,
    sigma: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """y_i = x_{i // k} + sigma_i scale z_i, k = len(out) / len(x); noise = z."""
    arithmetic = out.float() if out.itemsize < 4 else out
    z = arithmetic.new_empty(out.shape)
    noise_(z, rng, 2, purpose, seed, step, chain_offset)
    s = sigma if sigma_at is None else sigma_at.expand(out.shape[0]).view(-1, *[1] * (out.ndim - 1))
    if scale is not None:
        s = s * scale
    out.copy_(x.to(z.dtype).repeat_interleave(out.shape[0] // x.shape[0], 0) + s * z)
    if noise is not None:
        noise.copy_(z)
