"""Start of a trajectory in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from .noise import noise_


def per_chain(at: Tensor | None, number: float, x: Tensor) -> Tensor | float:
    """A coefficient, shaped to multiply # (n, *event)."""
    return number if at is None else at.expand(x.shape[0]).view(-1, *[1] * (x.ndim - 1))


def kinetic_energy(momentum: Tensor) -> Tensor:
    """|p|^2 / 2 in float64. # (n, *event) -> (n,)"""
    return 0.5 * momentum.reshape(momentum.shape[0], -1).double().square().sum(1)


def propose_(
    x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, scale: Tensor | None,
    factor: Tensor | None, kinetic: Tensor | None, kick_at: Tensor | None, drift_at: Tensor | None,
    persistence_at: Tensor | None, fresh_at: Tensor | None, rng: Tensor | None, kick: float, drift: float, persistence: float,
    fresh: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """p = c p + n z; K = |p|^2 / 2; [p = p R';] p -= kick scale g; proposal = x + drift scale p."""
    p = x.new_empty(x.shape)
    noise_(p, rng, 2, purpose, seed, step, chain_offset)
    if persistence_at is not None or persistence != 0.0:
        assert momentum is not None
        p = per_chain(persistence_at, persistence, x) * momentum + per_chain(fresh_at, fresh, x) * p
    if kinetic is not None:
        kinetic.copy_(kinetic_energy(p))
    if factor is not None:
        p = (p.reshape(p.shape[0], -1) @ factor.triu()).view(p.shape)
    sigma = 1.0 if scale is None else scale
    if grad is not None:
        p = p - per_chain(kick_at, kick, x) * sigma * grad
    if proposal is not None:
        proposal.copy_(x + per_chain(drift_at, drift, x) * sigma * p)
    if momentum is not None:
        momentum.copy_(p)
