"""One Langevin update in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from .noise import noise_
from .norm import add_norms, event_norm


def langevin_step_(
    x: Tensor, grad: Tensor | None, velocity: Tensor | None, norm_sum: Tensor | None, step_size_at: Tensor | None,
    noise_std_at: Tensor | None, grad_scale: Tensor | None, active: Tensor | None, scale: Tensor | None, rng: Tensor | None,
    step_size: float, noise_std: float, momentum: float, prior_precision: float, grad_clip: float, step_lo: float,
    step_hi: float, noise_lo: float, noise_hi: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """y = x - s (scale clip(g) + p x), or with velocity v = m v - s (...), y = x + v; clamp; y += n z; clamp.

    With a preconditioner's square root `scale`: s scale^2 in place of s, n scale in place of n. norm_sum += |g|, unclipped.
    """
    per_chain = (-1,) + (1,) * (x.ndim - 1)
    arithmetic = x.float() if x.itemsize < 4 else x
    s = step_size if step_size_at is None else step_size_at.expand(x.shape[0]).view(per_chain)
    n = noise_std if noise_std_at is None else noise_std_at.expand(x.shape[0]).view(per_chain)
    if scale is not None:
        s, n = s * scale.square(), n * scale
    y = arithmetic.clone()
    if grad is not None:
        if norm_sum is not None:
            add_norms(norm_sum, event_norm(grad), active)
        g = grad.to(y.dtype).clamp(-grad_clip, grad_clip)
        g = g if grad_scale is None else g * grad_scale.view(per_chain)
        move = -s * (g + prior_precision * y)
        if velocity is not None:
            move = momentum * velocity.to(y.dtype) + move
        y += move
    y = y.clamp(step_lo, step_hi)
    if noise_std_at is not None or noise_std != 0.0:
        z = x.new_empty(x.shape, dtype=y.dtype)
        noise_(z, rng, 2, purpose, seed, step, chain_offset)
        y = y + n * z
    y = y.clamp(noise_lo, noise_hi)
    if active is not None:
        mask = active.bool().view(per_chain)
        y = y.where(mask, arithmetic)
    if velocity is not None and grad is not None:
        velocity.copy_(move if active is None else move.where(mask, velocity.to(move.dtype)))
    x.copy_(y)
