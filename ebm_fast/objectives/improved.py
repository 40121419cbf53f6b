"""The terms of improved contrastive divergence (Du, Li, Tenenbaum, Mordatch 2021): KL through the last step, entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.objectives.numerics import wide
from ebm_fast.samplers import Langevin


def differentiable_last_step(
    energy: Callable[..., Tensor],
    sampler: Langevin,
    x: Tensor,  # (n, *event)
    condition: dict[str, Tensor],
    seed: int,
    step: int,
    chain_offset: int,
) -> tuple[Tensor, Tensor]:  # (n, *event), (n, *event)
    """x_K = x_{K-1} - s grad E_theta(x_{K-1}) + n z: the engine's step, as a function of theta; and the gradient.

    x_{K-1} is a constant, as in the paper, so that d x_K / d theta = -s d grad E / d theta where nothing is clipped.
    With a preconditioner P it is s P in place of s and n sqrt(P) in place of n.
    The noise is the one the engine would draw for (seed, step).
    """

    def per_chain(coefficient: Any) -> Any:
        return coefficient.view(-1, *[1] * (x.dim() - 1)) if isinstance(coefficient, Tensor) else coefficient

    s, n = per_chain(sampler.step_size), per_chain(sampler.noise_std)
    n = (2.0 * s * per_chain(sampler.temperature)) ** 0.5 if n is None else n
    if sampler.preconditioner is not None:
        arithmetic = torch.float64 if x.dtype == torch.float64 else torch.float32
        scale = sampler.preconditioner.detach().to(x.device, arithmetic).sqrt()
        s, n = s * scale.square(), n * scale
    noise = ops.normal_(
        torch.empty_like(x), seed=seed, step=step, purpose="langevin", chain_offset=chain_offset
    )
    last = "noise" if sampler.order == "gradient" else "step"
    after = last if sampler.clamp_after == "last" else sampler.clamp_after

    def clamped(y: Tensor, part: str) -> Tensor:
        y = y.to(x.dtype)  # coefficients in float32 make more of a 16-bit state
        return y.clamp(*sampler.clamp) if sampler.clamp is not None and after in (part, "both") else y

    y = clamped(x + n * noise, "noise") if sampler.order == "noise" else x
    y = y.detach().requires_grad_()
    gradient = torch.autograd.grad(energy(y, **condition).sum(), y, create_graph=True)[0]
    y, force = y.detach(), gradient
    if sampler.grad_clip is not None:
        force = force.clamp(-sampler.grad_clip, sampler.grad_clip)
    if sampler.grad_clip_norm is not None:
        norm = torch.linalg.vector_norm(force.flatten(1), dim=1).view(-1, *[1] * (x.dim() - 1))
        force = force * (sampler.grad_clip_norm / norm.clamp_min(sampler.grad_clip_norm))
    y = clamped(y - s * (force + sampler.prior_precision * y), "step")
    if sampler.order == "gradient":
        y = clamped(y + n * noise, "noise")
    return y, gradient.detach().contiguous()


def frozen_energy(energy: Any, x: Tensor, condition: dict[str, Tensor]) -> Tensor:  # (n,)
    """E(x) whose gradient flows into x and not into the parameters: the paper's stop-gradient copy of theta."""
    parameters = {name: p.detach() for name, p in energy.named_parameters()}
    return torch.func.functional_call(energy, parameters, (x,), condition)


def nearest_neighbour_entropy(x: Tensor) -> Tensor:  # (n, *event) -> ()
    """mean_i log min_{j != i} ||x_i - x_j||: the entropy of x up to scale and constant; the neighbours are constants.

    In float32 at least. Raises ValueError for fewer than two states. Source: Kozachenko and Leonenko 1987.
    """
    if len(x) < 2:
        raise ValueError(f"batch: entropy_weight needs at least 2 states, got {len(x)}")
    flat = x.flatten(1)
    constant = wide(flat.detach())
    distances = torch.cdist(constant, constant, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    # Equal states have no direction to part in; the bound keeps their logarithm finite.
    squared = (wide(flat) - constant[nearest]).square().sum(1)
    return 0.5 * squared.clamp_min(torch.finfo(squared.dtype).tiny).log().mean()
