"""Underdamped (kinetic) Langevin dynamics, BAOAB."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import EnergyFunction
from ..engine.state import ChainState, StepInfo, no_divergence
from ..ops import checks
from ..ops.baoab import baoab_steps
from ..ops.guard import guard_steps
from ..ops.leapfrog import leapfrog_
from ..ops.noise import normal_
from ..ops.norm import event_norm
from .base import (
    Sampler,
    Transition,
    at_age,
    changed,
    check_coefficient,
    check_event,
    check_positive,
    claim_momentum,
    is_schedule,
    repeated,
    stacked,
)
from .langevin import mean_norm


@dataclass(frozen=True, eq=False)
class UnderdampedLangevin(Sampler):
    """dx = M^-1 p dt, dp = -grad E dt - friction p dt + sqrt(2 friction T M) dW, by BAOAB: half kick, half drift, friction and
    noise (p <- c p + sqrt((1 - c^2) T) z, c = exp(-friction e)), half drift, half kick.

    One gradient a step. The bias of positions is of order e^2, on Gaussian targets zero; `GHMC` is its exact form.

    Args:
        step_size: e: a number, or a tensor () or (n,).
        friction: gamma >= 0, per unit of time; 0 is Hamiltonian dynamics without noise.
        temperature: T >= 0: a number, a tensor (n,), a tuple (one per step) or a callable from the index of the step.
        inverse_mass: diagonal M^-1 (*event), an estimate of the target's variances; None for 1.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Leimkuhler and Matthews 2013; Leimkuhler, Matthews and Stoltz 2016.
    """

    step_size: float | Tensor
    friction: float = 1.0
    temperature: float | Tensor | Sequence[float] | Callable[[int], float] = 1.0
    inverse_mass: Tensor | None = None

    def __post_init__(self) -> None:
        if is_schedule(self.step_size):
            raise TypeError("step_size must be a number or a tensor () or (n,)")
        check_coefficient(self.step_size, "step_size")
        check_coefficient(self.temperature, "temperature")
        checks.number(self.friction, "friction", low=0.0)
        check_positive(self.inverse_mass, "inverse_mass")

    def check_start(self, x: Any) -> None:
        checks.exact_state(x, "x0")

    def why_not_fused(self, x: Tensor) -> str:
        return ""

    def why_not_graph(self) -> str:
        return ""

    def has_schedule(self) -> bool:
        return is_schedule(self.temperature)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return UnderdampedTransition(self, energy, state, backend=backend, guard=guard, track=track, rng=rng)


class UnderdampedTransition(Transition):
    """The last half kick of a step rides on the first of the next where nothing lies between the two; the chain is the same."""

    def __init__(self, sampler: UnderdampedLangevin, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 guard: bool, track: bool, rng: Tensor | None) -> None:  # fmt: skip
        self.sampler, self.energy, self.state = sampler, energy, state
        self.backend, self.guard, self.track, self.rng = backend, guard, track, rng
        x = state.x
        self.carries = frozenset({"energy", "grad"})
        if guard and state.divergence_step is None:
            state.divergence_step = no_divergence(x)
        claim_momentum(state, sampler)
        if not {"momentum", "energy", "grad"} <= state.extra.keys():
            known = "momentum" in state.extra
            state.extra.update(energy=x.new_zeros(x.shape[0]), grad=torch.zeros_like(x))
            state.extra.setdefault("momentum", torch.zeros_like(x))
            self._begin(draw=not known)
        mass = sampler.inverse_mass
        check_event(mass, "inverse_mass", x)
        if isinstance(sampler.step_size, Tensor):
            checks.coefficient(sampler.step_size, "step_size", x)
        self.scale: Tensor | None = None
        if mass is not None:
            self.scale = mass.detach().to(x.device, x.dtype).sqrt().contiguous()
        self._stretch: Any = 1.0 if self.scale is None else self.scale.max()
        step = sampler.step_size
        self.half = 0.5 * step
        if isinstance(step, Tensor):
            self.persistence: Any = torch.exp(-sampler.friction * step)
            self.spread: Any = (1.0 - self.persistence.square()).sqrt()
        else:
            self.persistence = math.exp(-sampler.friction * step)
            self.spread = math.sqrt(-math.expm1(-2.0 * sampler.friction * step))
        self._norm_sum = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device) if track else None
        self._active = ~state.diverged if guard else None
        self._bound: Any = None
        self._bound_to: Any = None  # the noise of its steps
        self.reset_stats()

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        energy, grad = self.energy.value_and_grad(self.state.x)
        return energy if energy.dtype is self.state.x.dtype else energy.to(self.state.x.dtype), grad

    def _begin(self, draw: bool) -> None:
        state, extra = self.state, self.state.extra
        if not state.x.numel():
            return
        if draw:
            p = extra["momentum"]
            counter: dict[str, Any] = {"rng": self.rng} if self.rng is not None else {"seed": state.seed, "step": state.step}
            normal_(p, purpose="initial_momentum", chain_offset=state.chain_offset, backend=self.backend, **counter)
            T = at_age(self.sampler.temperature, "temperature", state.age)
            p *= T.sqrt().view(-1, *[1] * (p.ndim - 1)) if isinstance(T, Tensor) and T.ndim else math.sqrt(T)
        energy, grad = self.energy.value_and_grad(state.x)
        extra["energy"].copy_(energy)
        extra["grad"].copy_(grad)

    def restart(self) -> None:
        self._begin(draw=True)

    def replayed(self, num_steps: int) -> None:
        self.gradients += num_steps

    def snapshot(self) -> Any:
        return None if self._norm_sum is None else self._norm_sum.clone(), self.gradients, self._first_step

    def restore(self, snapshot: Any) -> None:
        if self._norm_sum is not None:
            self._norm_sum.copy_(snapshot[0])
        self.gradients, self._first_step = snapshot[1:]

    def reset_stats(self) -> None:
        if self._norm_sum is not None:
            self._norm_sum.zero_()
        self.gradients, self._first_step = 0, self.state.step

    def grad_norm(self) -> Tensor | None:
        if self._norm_sum is None:
            return None
        stopped = self.state.divergence_step if self.guard else None
        return mean_norm(self._norm_sum, self.gradients, self._first_step, stopped)

    def energy_now(self) -> Tensor:
        return self.state.extra["energy"]

    def exchangeable(self) -> tuple[Tensor, Tensor | None]:
        return self.state.extra["energy"], self.state.extra["grad"]

    def hamiltonian_now(self) -> Tensor:
        p = self.state.extra["momentum"]
        return self.energy_now().double() + 0.5 * event_norm(p, backend=self.backend).double().square()

    def renew(self) -> None:
        extra = self.state.extra
        if self.state.x.numel():
            energy, grad = self.energy.value_and_grad(self.state.x)
            if changed(energy.to(self.state.x.dtype), extra["energy"], grad, extra["grad"]):
                extra["energy"].copy_(energy)
                extra["grad"].copy_(grad)

    def info(self) -> StepInfo:
        diverged = self.state.diverged if self.guard else torch.zeros_like(self.energy_now(), dtype=torch.bool)
        return StepInfo(self.energy_now().clone(), self.grad_norm(), diverged)

    def _noise_std(self, age: int) -> Any:
        T = at_age(self.sampler.temperature, "temperature", age)
        if isinstance(T, Tensor):
            return self.spread * T.sqrt()
        return self.spread * math.sqrt(checks.number(T, "temperature", low=0.0))

    def advance(self, num_steps: int) -> None:
        state, extra = self.state, self.state.extra
        if state.x.numel() and num_steps:
            kicks, kept = 1, {name: extra[name] for name in ("energy", "grad")}
            first = 0 if self.rng is not None else state.step
            for k in range(num_steps):
                if self._bound is None or self.sampler.has_schedule():
                    noise_std = self._noise_std(state.age + k)
                    if not repeated(noise_std, self._bound_to):
                        self._bound, self._bound_to = self._bind(noise_std), noise_std
                move, look = self._bound
                if look is not None:
                    look(extra["grad"], extra["energy"] if self.guard else None, first + k)
                move(extra["grad"], kicks, first + k)
                extra["energy"], extra["grad"] = self._evaluate()
                self.gradients += 1
                kicks = 2
            self._last_kick()
            if self.rng is not None:  # a replay reads where the capture read
                for name, t in kept.items():
                    extra[name] = t.copy_(extra[name])
        if self.rng is not None:
            self.rng[1].add_(num_steps)
        state.step += num_steps
        state.age += num_steps

    def _bind(self, noise_std: Any) -> tuple[Callable[..., None], Callable[..., None] | None]:
        """B, A, O and A of a step, and the guard; their checks are made here, once."""
        state, p = self.state, self.state.extra["momentum"]
        move = baoab_steps(
            state.x, p, kick=self.half, drift=self.half, persistence=self.persistence, noise_std=noise_std, scale=self.scale,
            active=self._active, seed=state.seed if self.rng is None else 0, chain_offset=state.chain_offset, rng=self.rng,
            backend=self.backend,
        )  # fmt: skip
        looked: dict[str, Any] = {}
        if self.guard:
            looked = {"divergence_step": state.divergence_step, "active": self._active, "momentum": p,
                      "step_size": self.sampler.step_size, "noise_std": noise_std, "stretch": self._stretch,
                      "kinetic": True}  # fmt: skip
        elif self._norm_sum is None:
            return move, None
        return move, guard_steps(state.x, norm_sum=self._norm_sum, rng=self.rng, backend=self.backend, **looked)

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        state, extra = self.state, self.state.extra
        noise = [self._noise_std(state.age + k) for k in range(num_steps if self.sampler.has_schedule() else 1)]
        return {
            "transition": "baoab", "step_size": self.sampler.step_size, "noise_std": stacked(noise, state.x),
            "persistence": self.persistence, "momentum": extra["momentum"], "energy": extra["energy"], "grad": extra["grad"],
            "carried": True, "scale": self.scale, "divergence_step": state.divergence_step if self.guard else None,
            "norm_sum": self._norm_sum,
        }  # fmt: skip

    def chain_done(self, plan: dict[str, Any], num_steps: int) -> None:
        self.gradients += num_steps

    def _last_kick(self) -> None:
        extra = self.state.extra
        grad = extra["grad"]
        if self._active is not None:  # a frozen chain's momentum stays what it is
            grad = grad.masked_fill(~self._active.view(-1, *[1] * (grad.ndim - 1)), 0.0)
        leapfrog_(self.state.x, extra["momentum"], grad, kick=self.half, drift=0.0, scale=self.scale, backend=self.backend)
