"""Hamiltonian Monte Carlo, its one-step form MALA, and its form with persistent momentum (GHMC)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.energy import EnergyFunction
from ..engine.state import ChainState
from ..ops import checks
from ..ops.leapfrog import leapfrog_steps
from ..ops.metropolis import metropolis_steps
from ..ops.noise import normal_
from ..ops.proposal import propose_steps
from .accept import _FROZEN, AcceptReject, AcceptRejectSampler
from .adaptation import Adaptation
from .base import Transition, check_positive, claim_momentum, stacked
from .chees import ChEES, halton
from .jitter import uniform_numbers

Coefficient = float | Tensor | Sequence[float] | Callable[[int], float | Tensor]
MAX_ERROR = 1000.0  # energy error of a divergence, as in Stan


def _why_not_fused(sampler: Any, x: Tensor) -> str:
    inverse, event = sampler.inverse_mass, x.shape[1:]
    dense = inverse is not None and (inverse.shape != event or tuple(inverse.shape) == (event.numel(),) * 2)
    if dense or (sampler.adapt is not None and sampler.adapt.mass == "dense"):
        return "a dense mass matrix has no whole-chain form"
    return ""


def _check_temperature(temperature: Any) -> None:
    zero = bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else not callable(temperature) and temperature == 0
    if zero:
        raise ValueError("temperature must be above 0 for a sampler with a momentum; Langevin and random walks can freeze")


@dataclass(frozen=True, eq=False)
class HMC(AcceptRejectSampler):
    """L leapfrog steps of size e on H(x, p) = E(x) / T + p M^-1 p / 2 from p ~ N(0, M);  accepted with probability
    min(1, exp(H - H')).

    A proposal costs L gradients: energy and gradient of the current state are carried. A proposal that is not finite is rejected
    and counted as a divergence, as is one whose energy error exceeds `max_error`.

    Args:
        step_size: e: a number, a tensor () or (n,), a tuple (one per proposal) or a callable from the index of the proposal.
        num_leapfrog: L >= 1.
        inverse_mass: M^-1, an estimate of the target's (co)variance: a tensor like an event (diagonal) or (d, d), d the
            number of elements of an event (dense); None for 1.
        temperature: T > 0, as step_size.
        step_jitter: j in [0, 1): each proposal's step size is e (1 + j (2 u - 1)), u uniform and shared by all chains.
        leapfrog_jitter: each proposal takes a number of steps drawn uniformly from 1 ... L, shared by all chains: trajectories of
            one length can be periods of the target, on which a chain stands still: turn it on unless you have tuned L by hand,
            or use `ChEES`.
        max_error: energy error of a divergence.
        adapt: `Adaptation` (step size, mass) or `ChEES` (step size, trajectory length) during the warm-up.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Duane et al. 1987; Neal 2011, algorithm of section 5.3.2.
    """

    step_size: Coefficient
    num_leapfrog: int = 10
    inverse_mass: Tensor | None = None
    temperature: Coefficient = 1.0
    step_jitter: float = 0.0
    leapfrog_jitter: bool = False
    max_error: float = MAX_ERROR
    adapt: Adaptation | None = None
    target_accept = 0.8
    has_trajectories = True

    def __post_init__(self) -> None:
        self._check("step_size")
        if type(self.num_leapfrog) is not int or self.num_leapfrog < 1:
            raise ValueError(f"num_leapfrog must be an int of at least 1, got {self.num_leapfrog!r}")
        if not 0.0 <= checks.number(self.step_jitter, "step_jitter") < 1.0:
            raise ValueError(f"step_jitter must be in [0, 1), got {self.step_jitter}")
        checks.number(self.max_error, "max_error", low=0.0, infinite=True)
        check_positive(self.inverse_mass, "inverse_mass")
        _check_temperature(self.temperature)
        if self.leapfrog_jitter and isinstance(self.adapt, ChEES):
            raise ValueError("ChEES varies the number of leapfrog steps by itself; leave leapfrog_jitter out")

    def has_schedule(self) -> bool:
        return super().has_schedule() or self.leapfrog_jitter or isinstance(self.adapt, ChEES)

    def coefficients_move(self) -> bool:
        return super().coefficients_move() or self.step_jitter > 0.0

    def why_not_fused(self, x: Tensor) -> str:
        return _why_not_fused(self, x)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return HMCTransition(self, energy, state, backend=backend, rng=rng)


@dataclass(frozen=True, eq=False)
class MALA(AcceptRejectSampler):
    """x' = x - s P grad E(x) / T + sqrt(2 s P) z;  accepted by the Metropolis-Hastings ratio.

    The Metropolis-adjusted Langevin algorithm: one leapfrog step of size sqrt(2 s) with mass P^-1, one gradient a proposal.
    At T = 1 `Langevin` with the same step size proposes the same and always accepts; at another T, with the step size s / T.

    Args:
        step_size: s: a number, a tensor () or (n,), a tuple (one per step) or a callable from the index of the step.
        preconditioner: P: a tensor like an event (diagonal) or (d, d) (dense), an estimate of the target's (co)variance;
            None for 1.
        temperature: T > 0, as step_size.
        max_error: energy error from which a rejected proposal counts as divergent.
        adapt: `Adaptation` during the warm-up; what it learns about the mass is P.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Besag 1994; Roberts and Tweedie 1996; Roberts and Rosenthal 1998 (acceptance 0.574).
    """

    step_size: Coefficient
    preconditioner: Tensor | None = None
    temperature: Coefficient = 1.0
    max_error: float = MAX_ERROR
    adapt: Adaptation | None = None
    target_accept = 0.574
    num_leapfrog = 1
    leapfrog_jitter = False
    step_jitter = 0.0

    def __post_init__(self) -> None:
        self._check("step_size")
        check_positive(self.preconditioner, "preconditioner")
        _check_temperature(self.temperature)
        checks.number(self.max_error, "max_error", low=0.0, infinite=True)

    @property
    def inverse_mass(self) -> Tensor | None:
        return self.preconditioner

    def why_not_fused(self, x: Tensor) -> str:
        return _why_not_fused(self, x)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return MALATransition(self, energy, state, backend=backend, rng=rng)


@dataclass(frozen=True, eq=False)
class GHMC(AcceptRejectSampler):
    """p <- c p + sqrt(1 - c^2) z with c = exp(-friction e);  then L leapfrog steps, accepted as in HMC;  p <- -p where rejected.

    Generalised HMC: the Metropolised form of underdamped Langevin dynamics (L = 1), exact at any step size.

    Args:
        step_size: e: a number, a tensor () or (n,), a tuple (one per step) or a callable from the index of the step.
        friction: gamma >= 0, per unit of time; 0 never forgets the momentum, large values give HMC.
        num_leapfrog: L >= 1.
        inverse_mass: M^-1, a tensor like an event (diagonal); None for 1.
        temperature: T > 0: a number, a tensor (n,), a tuple or a callable.
        max_error: energy error of a divergence.
        adapt: `Adaptation` of step size and diagonal mass during the warm-up.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Horowitz 1991; Ottobre et al. 2016.
    """

    step_size: Coefficient
    friction: float = 1.0
    num_leapfrog: int = 1
    inverse_mass: Tensor | None = None
    temperature: Coefficient = 1.0
    max_error: float = MAX_ERROR
    adapt: Adaptation | None = None
    target_accept = 0.9
    leapfrog_jitter = False
    step_jitter = 0.0

    def __post_init__(self) -> None:
        self._check("step_size")
        checks.number(self.friction, "friction", low=0.0)
        if type(self.num_leapfrog) is not int or self.num_leapfrog < 1:
            raise ValueError(f"num_leapfrog must be an int of at least 1, got {self.num_leapfrog!r}")
        check_positive(self.inverse_mass, "inverse_mass")
        _check_temperature(self.temperature)
        if self.adapt is not None and self.adapt.mass == "dense":
            raise ValueError("GHMC takes a diagonal mass: adapt=Adaptation(mass='diagonal')")

    def why_not_fused(self, x: Tensor) -> str:
        return _why_not_fused(self, x)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return GHMCTransition(self, energy, state, backend=backend, rng=rng)


class HMCTransition(AcceptReject):
    """Trajectories of the whitened momentum w = M^-1/2 p (diagonal mass) or of the velocity v = M^-1 p (dense)."""

    needs_grad = True

    def __init__(self, sampler: Any, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 rng: Tensor | None) -> None:  # fmt: skip
        super().__init__(sampler, energy, state, backend=backend, rng=rng)
        self.momentum = torch.empty_like(state.x)
        self.kinetic = torch.zeros(state.x.shape[0], dtype=torch.float64, device=state.x.device)
        self.new_mass()

    def new_mass(self) -> None:
        """Read the mass: the adapted one, else the sampler's."""
        extra, x, given = self.state.extra, self.state.x, self.sampler.inverse_mass
        event, d = tuple(x.shape[1:]), x[0].numel() if x.shape[0] else math.prod(x.shape[1:])
        self._bound, before = None, getattr(self, "_dense", None)
        self._dense: tuple[Tensor, Tensor, Tensor] | None = None  # M^-1 = R R', R', (R^-1)'
        self._scale: Tensor | None = None
        adapted = extra if self.adapter is not None else {}
        if "scale" in adapted:
            self._scale = adapted["scale"]
            return
        inverse = adapted.get("inverse_mass", given)
        if inverse is None:
            return
        inverse = inverse.detach().to(x.device, x.dtype).contiguous()
        if tuple(inverse.shape) == event and not (inverse.ndim == 2 and tuple(inverse.shape) == (d, d)):
            self._scale = inverse.sqrt()
        elif tuple(inverse.shape) == (d, d):
            root, failed = torch.linalg.cholesky_ex(inverse.double())
            if "inverse_mass" not in adapted and (bool(failed) or not torch.allclose(inverse, inverse.T, rtol=1e-4)):
                raise ValueError("inverse_mass must be symmetric and positive definite")
            if "inverse_mass" in adapted:  # one that rounding has spoiled: the mass stays what it was
                last = (torch.eye(d, dtype=x.dtype, device=x.device),) * 2 if before is None else before[:2]
                inverse = extra["inverse_mass"] = torch.where(failed == 0, inverse, last[0])
                root = torch.where(failed == 0, root, last[1].T.double())
            back = torch.linalg.solve_triangular(root, torch.eye(d, dtype=root.dtype, device=x.device), upper=False)
            self._dense = (inverse, root.T.contiguous().to(x.dtype), back.T.contiguous().to(x.dtype))
            self._kick = x.new_empty((x.shape[0], d))
        else:
            raise ValueError(
                f"inverse_mass must have the shape {event} of an event (diagonal) or {(d, d)} (dense), got {tuple(inverse.shape)}"
            )

    def scale(self) -> Tensor | None:
        return self._scale

    def beta(self, age: int) -> Any:
        beta = super().beta(age)
        if isinstance(beta, float) and beta >= _FROZEN:
            raise ValueError("temperature must be above 0 for a sampler with a momentum; Langevin and random walks can freeze")
        return beta

    def drift(self, step_size: Any) -> Any:
        """Size of a leapfrog step."""
        return step_size

    def derive(self, step_size: Any, beta: Any) -> dict[str, Any]:
        e = self.drift(step_size)
        return {"half": 0.5 * beta * e, "kick": beta * e, "drift": e, "beta": beta}

    def coefficients(self, age: int) -> dict[str, Any]:
        if not self.sampler.step_jitter:
            return super().coefficients(age)
        return self.derive(self.step_size(age) * self._stretched(age, 1)[0], self.beta(age))

    def _stretched(self, age: int, count: int) -> list[float]:
        """What jitter multiplies the step sizes of the proposals from `age` on by."""
        numbers, jitter = self._uniform(age, count, 1), self.sampler.step_jitter
        return [1.0 + jitter * (2.0 * u - 1.0) for u in numbers]

    def _uniform(self, age: int, count: int, element: int) -> list[float]:
        return uniform_numbers(self.state.seed, self.state.step + age - self.state.age, count, "jitter", element)

    def schedules(self, num_steps: int) -> dict[str, Any]:
        jitter, moving = self.sampler.step_jitter, AcceptRejectSampler.coefficients_move(self.sampler) or self.state.adapting
        if num_steps == 1 and not jitter:
            return {"step_size": self.drift(self.step_size(self.state.age)), "beta": self.beta(self.state.age)}
        if num_steps == 1 or not jitter or moving:
            return super().schedules(num_steps)
        # All at once: on a GPU an op a proposal would take longer than the proposal.
        age, x = self.state.age, self.state.x
        size, stretched = self.step_size(age), torch.tensor(self._stretched(age, num_steps), dtype=torch.float64)
        if isinstance(size, Tensor):
            sizes = size.view(1, -1) * stretched.to(size.device, size.dtype)[:, None]
        else:
            sizes = (size * stretched).to(x.device, torch.float32)[:, None]
        return {"step_size": sizes, "beta": self.beta(age)}

    def num_leapfrog(self, age: int) -> int:
        """Leapfrog steps of the proposal at `age`."""
        return self.lengths(age, 1)[0]

    def lengths(self, age: int, count: int) -> list[int]:
        """Those of the proposals from `age` on, which all have the step size of the first."""
        if isinstance(self.sampler, HMC) and isinstance(self.sampler.adapt, ChEES):
            ratio, most = self._trajectory_in_steps(age), self.sampler.adapt.max_leapfrog
            if count == 1:  # in the warm-up, where NumPy's code is out of the cache
                return [max(1, min(math.ceil(halton(age)[0] * ratio), most))]
            return np.clip(np.ceil(np.array(halton(age, count)) * ratio), 1, most).astype(int).tolist()
        L = self.sampler.num_leapfrog
        if not self.sampler.leapfrog_jitter:
            return [L] * count
        return [min(1 + int(u * L), L) for u in self._uniform(age, count, 0)]

    def _trajectory_in_steps(self, age: int) -> float:
        """Trajectory length over step size: read from the device while both move, once afterwards."""
        adapting = self.state.warmup_from <= age < self.state.warmup_until
        if adapting or self._ratio is None:
            extra = self.state.extra
            if "trajectory_length" not in extra:
                return float(self.sampler.num_leapfrog)
            length, step = extra["trajectory_length"], extra["step_size"]
            at_hand = length.is_cpu and not step.ndim  # else one number is waited for, and not two
            ratio = float(length) / float(step) if at_hand else float(length / step.double().mean())
            self._ratio = None if adapting else ratio
            return ratio
        return self._ratio

    _ratio: float | None = None

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        extra = self.state.extra
        varies = self.sampler.leapfrog_jitter or isinstance(getattr(self.sampler, "adapt", None), ChEES)
        lengths = self.lengths(self.state.age, num_steps if varies else 1)
        ends = {"proposal": self.proposal, "momentum": self.momentum} if self._shows_ends() else {}
        return {
            "transition": "hmc", **ends, **self.schedules(num_steps), "leapfrogs": lengths if len(lengths) > 1 else lengths[0],
            "max_error": self.sampler.max_error, "scale": self._scale, "energy": extra["energy"], "grad": extra["grad"],
            "carried": True, "counters": self.counters,
        }  # fmt: skip

    def _shows_ends(self) -> bool:
        """Whether the warm-up looks at where trajectories end: at `proposal` and `momentum`."""
        return self.adapter is not None and self.adapter.needs_proposals and self.state.adapting

    def along(self, grad: Tensor) -> Tensor:
        """What kicks: g, or M^-1 g of a dense mass, where a velocity is kicked. # (n, *event)"""
        if self._dense is None:
            return grad
        return torch.mm(grad.view(grad.shape[0], -1), self._dense[0], out=self._kick).view(grad.shape)

    def bind(self, c: dict[str, Any]) -> Any:
        """Start, a step, the last kick where the decision does not make it (else None), decision."""
        x, q, p, scale, extra, stream = self.state.x, self.proposal, self.momentum, self._scale, self.state.extra, self.stream()
        _, factor, inverse_factor = self._dense or (None, None, None)
        dense = factor is not None
        whole = dense or self._shows_ends()  # the last half kick by itself
        start = propose_steps(x, proposal=q, momentum=p, scale=scale, factor=factor, kinetic=self.kinetic, kick=c["half"],
                              drift=c["drift"], **stream)  # fmt: skip
        leap = leapfrog_steps(q, p, kick=c["kick"], drift=c["drift"], scale=scale, backend=self.backend)
        end = leapfrog_steps(q, p, kick=c["half"], drift=0.0, scale=scale, backend=self.backend) if whole else None
        decide = metropolis_steps(x, q, extra["energy"], grad=extra["grad"], momentum=p, kinetic=self.kinetic, scale=scale,
                                  inverse_factor=inverse_factor, counters=self.counters, kick=0.0 if whole else c["half"],
                                  beta=c["beta"], max_error=self.sampler.max_error, **stream)  # fmt: skip
        return start, leap, end, decide

    def propose(self, k: int, age: int) -> None:
        start, leap, end, decide = self.bound(self.coefficients(age))
        q, step = self.proposal, self.place(k)
        start(self.along(self.state.extra["grad"]), step)
        for _ in range(self.num_leapfrog(age) - 1):
            leap(self.along(self.energy.gradient(q)))
        energy, end_grad = self.value_and_grad(q)
        if end is not None:
            end(self.along(end_grad))
        decide(energy, end_grad, step)

    def hamiltonian_now(self) -> Tensor | None:
        return self.counters[:, 4]


class MALATransition(HMCTransition):
    """Step size s is a leapfrog step of sqrt(2 s)."""

    def drift(self, step_size: Any) -> Any:
        # x - s g / T: the kick's half step times the drift is s beta
        return (2.0 * step_size).sqrt() if isinstance(step_size, Tensor) else math.sqrt(2.0 * step_size)


class GHMCTransition(HMCTransition):
    reads_anew = False  # sqrt(1 - c^2) is made once

    def __init__(self, sampler: Any, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 rng: Tensor | None) -> None:  # fmt: skip
        super().__init__(sampler, energy, state, backend=backend, rng=rng)
        if self._dense is not None:
            raise ValueError("GHMC takes a diagonal inverse_mass, a tensor like an event")
        claim_momentum(state, sampler)
        if "momentum" not in state.extra:
            start = torch.empty_like(state.x)
            state.extra["momentum"] = normal_(start, purpose="initial_momentum", **self.counter(0)) if start.numel() else start
        self.momentum = state.extra["momentum"]
        self._before = torch.empty_like(state.x)

    def restart(self) -> None:
        super().restart()
        if self.momentum.numel():
            normal_(self.momentum, purpose="initial_momentum", **self.counter(0))

    def bind(self, c: dict[str, Any]) -> Any:
        """Refreshment, first kick and drift, a step, decision."""
        x, q, p, scale, extra, stream = self.state.x, self.proposal, self.momentum, self._scale, self.state.extra, self.stream()
        return (
            propose_steps(x, momentum=p, kinetic=self.kinetic, persistence=c["persistence"], **stream),
            leapfrog_steps(q, p, kick=c["half"], drift=c["drift"], scale=scale, backend=self.backend),
            leapfrog_steps(q, p, kick=c["kick"], drift=c["drift"], scale=scale, backend=self.backend),
            metropolis_steps(x, q, extra["energy"], grad=extra["grad"], momentum=p, momentum_before=self._before,
                             kinetic=self.kinetic, scale=scale, counters=self.counters, kick=c["half"], beta=c["beta"],
                             max_error=self.sampler.max_error, **stream),
        )  # fmt: skip

    def propose(self, k: int, age: int) -> None:
        refresh, start, leap, decide = self.bound(self.coefficients(age))
        q, step = self.proposal, self.place(k)
        refresh(None, step)
        self._before.copy_(self.momentum)
        q.copy_(self.state.x)
        start(self.state.extra["grad"])
        for _ in range(self.sampler.num_leapfrog - 1):
            leap(self.energy.gradient(q))
        energy, end_grad = self.value_and_grad(q)
        decide(energy, end_grad, step)

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        persistence = stacked([c["persistence"] for c in self.coefficients_of(num_steps)], self.state.x)
        return {**super().chain_plan(num_steps), "flip": True, "persistence": persistence, "momentum": self.momentum}

    def derive(self, step_size: Any, beta: Any) -> dict[str, Any]:
        rate = -self.sampler.friction * step_size
        persistence = rate.exp() if isinstance(rate, Tensor) else math.exp(rate)
        return {**super().derive(step_size, beta), "persistence": persistence}
