"""Annealing: Langevin dynamics along a ladder of noise levels, and any sampler along a schedule of temperatures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import Energy, EnergyFunction
from ..engine.state import ChainState
from ..ops import checks
from .base import Sampler, Transition, check_coefficient, check_schedules, check_tempered, is_schedule
from .langevin import Langevin, LangevinTransition


@dataclass(frozen=True, eq=False)
class AnnealedLangevin(Sampler):
    """T steps of x <- x - s_i grad E(x, sigma_i) + sqrt(2 s_i) z at each level i <= L, s_i = step_size (sigma_i / sigma_L)^2;
    with `denoise`, finally x <- x - sigma_L^2 grad E(x, sigma_L).

    Annealed Langevin dynamics: the energy is conditional on the level, E(x, sigma=...) of the data blurred by noise of that
    standard deviation, and the last and smallest level is nearly the data's. In Song and Ermon's notation s_i = alpha_i / 2.

    Args:
        sigmas: noise levels from the largest to the smallest.
        step_size: s_L, the step size at the smallest level: a number, or a tensor () or (n,).
        steps_per_level: T. A whole run is `sampler.num_steps` = L T steps.
        denoise: whether the last step removes the noise that is left (Tweedie's formula).
        temperature: as `Langevin`.

    The energy is called as energy(x, sigma=sigma) with sigma # (n,).

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range, or the chain is older than the ladder is long.

    Source: Song and Ermon 2019, algorithm 1; Jolicoeur-Martineau et al. 2021 (denoising).
    """

    sigmas: Sequence[float]
    step_size: float | Tensor
    steps_per_level: int = 100
    denoise: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        levels = self.sigmas.tolist() if isinstance(self.sigmas, Tensor) else list(self.sigmas)
        if not levels or any(checks.number(s, "sigmas", low=0.0) == 0.0 for s in levels):
            raise ValueError(f"sigmas must be positive noise levels from large to small, got {levels}")
        if any(b > a for a, b in itertools.pairwise(levels)):
            raise ValueError(f"sigmas must fall from level to level, got {levels}")
        object.__setattr__(self, "sigmas", tuple(levels))
        if is_schedule(self.step_size):
            raise TypeError("step_size must be a number or a tensor () or (n,): along the levels it follows sigma^2 by itself")
        check_coefficient(self.step_size, "step_size")
        checks.number(self.temperature, "temperature", low=0.0)
        if type(self.steps_per_level) is not int or self.steps_per_level < 1:
            raise ValueError(f"steps_per_level must be an int of at least 1, got {self.steps_per_level!r}")

    @property
    def num_steps(self) -> int:
        """Length of the whole ladder."""
        return len(self.sigmas) * self.steps_per_level

    def has_schedule(self) -> bool:
        return True

    def check_ages(self, first: int, last: int) -> None:
        if first < last > self.num_steps:
            raise ValueError(
                f"the ladder has {self.num_steps} steps, and the run goes from step {first} to step {last}, its warm-up "
                "included: warmup + num_steps must be sampler.num_steps at most"
            )

    def level(self, age: int) -> float:
        """sigma of a step."""
        if age >= self.num_steps:
            raise ValueError(f"the ladder has {self.num_steps} steps, the chain is at step {age + 1}: num_steps is too large")
        return self.sigmas[age // self.steps_per_level]

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return AnnealedTransition(self, energy, state, backend=backend, guard=guard, track=track)


class AnnealedTransition(LangevinTransition):
    def __init__(self, ladder: AnnealedLangevin, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool,
                 track: bool) -> None:  # fmt: skip
        self.ladder = ladder
        smallest = ladder.sigmas[-1]
        sampler = Langevin(
            step_size=lambda age: ladder.step_size * (ladder.level(age) / smallest) ** 2, temperature=ladder.temperature
        )
        self._sigma = state.x.new_empty(state.x.shape[:1], dtype=torch.float32 if state.x.itemsize < 4 else None)
        energy = EnergyFunction(energy.energy, {**energy.condition, "sigma": self._sigma})
        super().__init__(sampler, energy, state, backend=backend, guard=guard, track=track, rng=None)
        self._level: float | None = None

    def _enter(self, sigma: float) -> None:
        if sigma != self._level:
            self._level = sigma
            self._sigma.fill_(sigma)
            self._evaluated = None

    def _coefficients(self, k: int) -> tuple[Any, Any]:
        self._enter(self.ladder.level(self.state.age + k))
        return super()._coefficients(k)

    def energy_now(self) -> Tensor:
        """E at the level of the step that was taken last."""
        self._enter(self.ladder.level(min(max(self.state.age - 1, 0), self.ladder.num_steps - 1)))
        return super().energy_now()

    def advance(self, num_steps: int) -> None:
        super().advance(num_steps)
        if self.ladder.denoise and self.state.age == self.ladder.num_steps and self.state.x.numel():
            x = self.state.x
            grad = self.energy.value_and_grad(x)[1]
            cleaned = x - self.ladder.sigmas[-1] ** 2 * grad
            if self.guard:
                cleaned = cleaned.where(torch.isfinite(cleaned), x)
            x.copy_(cleaned)
            self._evaluated = None


@dataclass(frozen=True, eq=False)
class SimulatedAnnealing(Sampler):
    """Any sampler at inverse temperature beta_t in step t: p_t(x) proportional to exp(-beta_t E(x)), which concentrates on the
    minima of E as beta grows. With Langevin the noise is sqrt(2 s / beta_t).

    Args:
        sampler: any sampler with a temperature.
        betas: beta_t > 0: a tuple (one per step) or a callable from the index of the step;
            `SimulatedAnnealing.geometric` makes one.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Kirkpatrick, Gelatt and Vecchi 1983; Gelfand and Mitter 1991 (Langevin).
    """

    sampler: Any
    betas: Sequence[float] | Callable[[int], float]

    def __post_init__(self) -> None:
        check_tempered(self.sampler)
        if not callable(self.betas):
            if not isinstance(self.betas, (tuple, list, Tensor)):
                raise TypeError(f"betas must be a tuple, one per step, or a callable, got {type(self.betas).__name__}")
            if isinstance(self.betas, Tensor):
                object.__setattr__(self, "betas", tuple(self.betas.tolist()))
            if not len(self.betas) or any(checks.number(b, "betas", low=0.0) == 0.0 for b in self.betas):
                raise ValueError("betas must be positive inverse temperatures, one per step")
            object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "_cooled", self._cool())

    @classmethod
    def geometric(cls, sampler: Any, num_steps: int, beta_start: float, beta_end: float) -> SimulatedAnnealing:
        """beta_t = beta_start (beta_end / beta_start)^(t / (num_steps - 1))."""
        for value, name in ((beta_start, "beta_start"), (beta_end, "beta_end")):
            if checks.number(value, name, low=0.0) == 0.0:
                raise ValueError(f"{name} must be positive")
        ratio = beta_end / beta_start
        return cls(sampler, tuple(beta_start * ratio ** (t / max(num_steps - 1, 1)) for t in range(num_steps)))

    def _inner(self) -> Any:
        return self._cooled  # type: ignore[attr-defined]

    def _cool(self) -> Any:
        betas = self.betas
        if callable(betas):
            function = betas

            def temperature(age: int) -> float:
                beta = checks.number(function(age), "betas", low=0.0)
                if beta == 0.0:
                    raise ValueError(f"betas must be positive, the callable returned 0 at step {age}")
                return 1.0 / beta

            return replace(self.sampler, temperature=temperature)
        return replace(self.sampler, temperature=tuple(1.0 / b for b in betas))

    def has_schedule(self) -> bool:
        return True

    def check_start(self, x: Any) -> None:
        self.sampler.check_start(x)

    def check_resumed(self, state: ChainState) -> None:
        self._inner().check_resumed(state)

    def check_ages(self, first: int, last: int) -> None:
        check_schedules(self, ("betas",), first, last)
        self.sampler.check_ages(first, last)

    def why_not_fused(self, x: Tensor) -> str:
        return self._inner().why_not_fused(x)

    def why_not_graph(self) -> str:
        return self._inner().why_not_graph()

    def init(self, energy: Energy, x: Tensor, seed: int | None = None, *, warmup: int = 0, step: int = 0,
             chain_offset: int = 0) -> ChainState:  # fmt: skip
        return self._inner().init(energy, x, seed, warmup=warmup, step=step, chain_offset=chain_offset)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return self._inner().transition(energy, state, backend=backend, guard=guard, track=track, rng=rng)
