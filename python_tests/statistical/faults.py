"""The fused ops with a fault planted, to be put in their place: what each fault is, and nothing else changed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebm_fast.ops.noise import normal_
from ebm_fast.reference.proposal import kinetic_energy, per_chain


def plant(monkeypatch: Any, module: Any, op: str, faulty: Any) -> None:
    """Put `faulty` in the place of an op, where samplers call it (`op`) and where they bind it once (its `_steps`)."""

    def langevin_steps(x: Tensor, **how: Any) -> Any:
        return lambda grad, step: faulty(x, grad, step=step, **how)

    def propose_steps(x: Tensor, **how: Any) -> Any:
        return lambda grad, step: faulty(x, grad=grad, step=step, **how)

    def metropolis_steps(x: Tensor, proposal: Tensor, energy: Tensor, **how: Any) -> Any:
        return lambda new, grad, step: faulty(x, proposal, energy, new, proposal_grad=grad, step=step, **how)

    def baoab_steps(x: Tensor, momentum: Tensor, **how: Any) -> Any:
        return lambda grad, kicks, step: faulty(x, momentum, grad, kicks=kicks, step=step, **how)

    bound = {"langevin_step_": langevin_steps, "propose_": propose_steps, "metropolis_": metropolis_steps,
             "baoab_": baoab_steps}[op]  # fmt: skip
    for name, function in ((op, faulty), (bound.__name__, bound)):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, function)


def accept_ratio(metropolis: Any, factor: float) -> Any:
    """`metropolis_` with the log of its acceptance ratio multiplied by `factor`."""

    def metropolis_(x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, **how: Any) -> None:
        ratio = how.get("beta", 1.0) * (energy.double() - proposal_energy.double())
        if how.get("momentum") is not None:
            kick, scale = how.get("kick", 0.0), how.get("scale")
            p = how["momentum"] - kick * (1.0 if scale is None else scale) * how["proposal_grad"]
            if how.get("inverse_factor") is not None:
                p = p @ how["inverse_factor"]
            ratio = ratio + how["kinetic"] - kinetic_energy(p)
        given = how.get("log_ratio")
        ratio = ratio if given is None else ratio + given
        how["log_ratio"] = (factor - 1.0) * ratio + (0.0 if given is None else given)
        metropolis(x, proposal, energy, proposal_energy, **how)

    return metropolis_


def no_flip(metropolis: Any) -> Any:
    """`metropolis_` that keeps the direction of the momentum of a rejected chain."""

    def metropolis_(x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, **how: Any) -> None:
        was = x.clone()
        metropolis(x, proposal, energy, proposal_energy, **how)
        if how.get("momentum_before") is not None:
            rejected = (x == was).flatten(1).all(1).view(-1, *[1] * (x.ndim - 1))
            how["momentum"].copy_(torch.where(rejected, how["momentum_before"], how["momentum"]))

    return metropolis_


def _noise(x: Tensor, purpose: str, scale: float, reused: bool, shared: bool, counter: dict[str, Any]) -> Tensor:
    z = scale * normal_(torch.empty_like(x), purpose=purpose, **counter)
    if reused:  # block 1 of four words is block 0 again
        flat = z.view(z.shape[0], -1)
        flat[:, 4:8] = flat[:, 0 : min(flat.shape[1], 8) - 4].clone()
    if shared:  # chain 2 i + 1 has the numbers of chain 2 i
        z[1::2] = z[0::2]
    return z


def momentum(scale: float = 1.0, reused: bool = False, shared: bool = False, step: int | None = None) -> Any:
    """`propose_` with normals `scale` times too large, a block used twice, chains in pairs, or one step's noise for ever."""

    def propose_(x: Tensor, *, proposal: Any = None, momentum: Any = None, grad: Any = None, kinetic: Any = None,
                 kick: Any = 0.0, drift: Any = 0.0, persistence: float = 0.0, purpose: str = "momentum",
                 **counter: Any) -> None:  # fmt: skip
        sigma = counter.pop("scale", None)
        sigma = 1.0 if sigma is None else sigma
        factor = counter.pop("factor", None)
        counter = counter if step is None else counter | {"step": step}
        p = _noise(x, purpose, scale, reused, shared, counter)
        if persistence:
            p = persistence * momentum + math.sqrt(1.0 - persistence**2) * p
        if kinetic is not None:
            kinetic.copy_(kinetic_energy(p))
        p = p if factor is None else p @ factor
        if grad is not None:
            p = p - per_chain(None, kick, x) * sigma * grad
        if proposal is not None:
            proposal.copy_(x + per_chain(None, drift, x) * sigma * p)
        if momentum is not None:
            momentum.copy_(p)

    return propose_


def langevin_noise(scale: float = 1.0, reused: bool = False, shared: bool = False, step: int | None = None) -> Any:
    """`langevin_step_` with such normals, in the gradient-first order."""

    def langevin_step_(x: Tensor, grad: Tensor, *, step_size: float, noise_std: float, seed: int, **how: Any) -> None:
        counter = {"seed": seed, "step": how["step"] if step is None else step, "chain_offset": how["chain_offset"]}
        x.add_(noise_std * _noise(x, "langevin", scale, reused, shared, counter) - step_size * grad)

    return langevin_step_


def baoab_noise(scale: float = 1.0, reused: bool = False) -> Any:
    """`baoab_` with such normals."""

    def baoab_(x: Tensor, momentum: Tensor, grad: Tensor, *, kick: float, drift: float, persistence: float, noise_std: float,
               kicks: int, seed: int, step: int, chain_offset: int, **how: Any) -> None:  # fmt: skip
        counter = {"seed": seed, "step": step, "chain_offset": chain_offset}
        z = _noise(x, "langevin", scale, reused, False, counter)
        momentum.sub_(kicks * kick * grad)
        x.add_(drift * momentum)
        momentum.mul_(persistence).add_(noise_std * z)
        x.add_(drift * momentum)

    return baoab_
