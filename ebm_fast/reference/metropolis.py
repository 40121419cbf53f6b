"""Metropolis decision and selection in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import noise_
from .proposal import kinetic_energy, per_chain


def metropolis_(
    x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, grad: Tensor | None, proposal_grad: Tensor | None,
    momentum: Tensor | None, momentum_before: Tensor | None, kinetic: Tensor | None, scale: Tensor | None,
    log_ratio: Tensor | None, counters: Tensor | None, kick_at: Tensor | None, beta_at: Tensor | None, rng: Tensor | None,
    kick: float, beta: float, max_error: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """a = beta (E - E') + K - K' + r; where log u <= a: x, E, g = x', E', g'."""
    n = x.shape[0]
    before = energy.new_zeros(n, dtype=torch.float64) if kinetic is None else kinetic
    after = torch.zeros_like(before)
    p = momentum
    if momentum is not None:
        if kick_at is not None or kick != 0.0:
            assert proposal_grad is not None
            p = momentum - per_chain(kick_at, kick, x) * (1.0 if scale is None else scale) * proposal_grad
        assert p is not None
        after = kinetic_energy(p)
    b = beta if beta_at is None else beta_at.double()
    a = b * (energy.double() - proposal_energy.double()) + (before - after)
    if log_ratio is not None:
        a = a + log_ratio
    finite = torch.isfinite(proposal_energy) & torch.isfinite(after) & ~torch.isnan(a)
    u = torch.empty((n, 1), dtype=torch.float32, device=x.device)
    noise_(u, rng, 1, purpose, seed, step, chain_offset)
    log_u = u[:, 0].double().log().float().double()
    accepted = finite & (log_u <= a)
    if counters is not None:
        probability = torch.where(finite, a.clamp(max=0.0).exp(), 0.0)
        counters[:, 0] += probability
        counters[:, 1] += accepted
        counters[:, 2] += ~finite | (a < -max_error)
        counters[:, 3] = probability
        counters[:, 4] = torch.where(accepted, b * proposal_energy.double() + after, b * energy.double() + before)
    mask = accepted.view(-1, *[1] * (x.ndim - 1))
    x.copy_(torch.where(mask, proposal, x))
    energy.copy_(torch.where(accepted, proposal_energy, energy))
    if grad is not None:
        assert proposal_grad is not None
        grad.copy_(torch.where(mask, proposal_grad, grad))
    if momentum_before is not None:
        assert momentum is not None and p is not None
        momentum.copy_(torch.where(mask, p, -momentum_before))
