"""Warm-up adaptation: step size by dual averaging, mass matrix by Welford's moments across chains, trajectory length by ChEES."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..engine.state import ChainState
from ..ops import checks
from ..ops.adapt import adapt_steps
from .base import kind_of

# Hoffman and Gelman's gamma = 0.05 and mu = log 10 e (2014) suit the noisy acceptance of one chain. The mean over many chains is
# a steep function of log e almost without noise, which that gain overshoots tenfold each way, and the average of such iterates
# comes out too small (acceptance 0.91 for 0.8).
_SHRINKAGE_OF_ONE, _SHRINKAGE_OF_MANY = 0.05, 0.2
_LEAST = 0.01  # acceptance that a chain standing still counts for in the harmonic mean
_LEARNING = ("dual_averaging", "dual_count", "mass_mean", "mass_squares", "mass_count", "chees",
             "chees_before")  # of use during the warm-up alone  # fmt: skip


@dataclass(frozen=True)
class Adaptation:
    """log e <- mu - sqrt(t) / gamma * mean_{s <= t} (a_target - a_s): the step size that reaches an acceptance; and the mass.

    Runs during the warm-up alone and is frozen afterwards, with the weighted average of log e. Chains share what they learn: the
    acceptance and the variance of all chains of a run set one step size and one mass matrix, so chains then depend on each other
    through the warm-up. With per_chain=True each chain finds its own step size, and, without a mass, stays what it is in
    any batch.

    Until the last window of the mass a_s is the harmonic mean over chains, no acceptance counted as less than 0.01: chains that
    started where the energy is steep stand still at the step size that suits the rest, and a few of them make the steps small
    until they have come down. From there on it is the plain mean.

    Args:
        target_accept: acceptance probability to reach; None takes the sampler's own (0.8 HMC, 0.574 MALA, 0.234 random walk).
        step_size: whether the step size is adapted.
        mass: None, "diagonal" or "dense": the inverse mass is set to the chains' (co)variance in windows that double, as Stan's;
            with many chains, each step adds a draw of every chain.
        per_chain: step size for every chain by itself.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Nesterov 2009; Hoffman and Gelman 2014, algorithm 5; Hoffman, Radul and Sountsov 2021 (harmonic mean); Stan
    reference manual, HMC algorithm parameters.
    """

    target_accept: float | None = None
    step_size: bool = True
    mass: str | None = None
    per_chain: bool = False

    def __post_init__(self) -> None:
        if self.target_accept is not None and not 0.0 < checks.number(self.target_accept, "target_accept") < 1.0:
            raise ValueError(f"target_accept must be between 0 and 1, got {self.target_accept}")
        if self.mass not in (None, "diagonal", "dense"):
            raise ValueError(f"mass must be None, 'diagonal' or 'dense', got {self.mass!r}")

    def bind(self, sampler: Any, state: ChainState) -> Adapter:
        """What adapts the chains of a state; its numbers live in `state.extra`."""
        return Adapter(self, sampler, state)


@lru_cache(maxsize=8)
def windows(start: int, stop: int) -> tuple[int, tuple[int, ...]]:
    """Age of the first mass window, and the ages after which the mass is set.

    An opening of 75 steps, windows of 25, 50, 100, ..., and 50 steps for the step size alone; in proportion (15 %, 75 %, 10 %)
    where the warm-up is shorter than 150.
    """
    total = stop - start
    opening, closing, width = (75, 50, 25) if total >= 150 else (int(0.15 * total), int(0.1 * total), int(0.75 * total))
    ends, at, last = [], start + opening, stop - closing
    while width > 0 and at < last:
        end = at + width
        if end + 2 * width > last:
            end = last
        ends.append(end)
        at, width = end, 2 * width
    return start + opening, tuple(ends)


class Adapter:
    """The adaptation of one run. Everything it knows is in `state.extra`, so that a warm-up resumes exactly."""

    needs_proposals = False  # whether it looks at where trajectories end, beyond acceptance and states

    def __init__(self, settings: Adaptation, sampler: Any, state: ChainState) -> None:
        self.settings, self.sampler = settings, sampler
        self._bound: dict[bool, Callable[[float, float], None]] = {}  # by whether the mass learns too
        self.kind = kind_of(sampler)
        self.target = settings.target_accept or sampler.target_accept
        n = state.x.shape[0]
        one = settings.per_chain or n == 1
        self.shrinkage, self.boldness = (_SHRINKAGE_OF_ONE, math.log(10.0)) if one else (_SHRINKAGE_OF_MANY, 0.0)
        self.groups = n if settings.per_chain else getattr(sampler, "groups", 1)
        if settings.mass is not None and self.groups != 1 and not settings.per_chain:
            raise ValueError("a mass matrix cannot be learnt from chains of several temperatures; give it to the sampler")
        if settings.mass == "dense" and not hasattr(sampler, "inverse_mass"):
            raise ValueError(f"{type(sampler).__name__} takes no dense mass matrix; use mass='diagonal'")
        apart = isinstance(sampler.step_size, Tensor) and sampler.step_size.ndim and not settings.per_chain
        if settings.step_size and apart and self.groups == 1:
            raise ValueError("step_size differs between chains; use adapt=Adaptation(per_chain=True) to adapt each")

    def drop_foreign(self, state: ChainState) -> None:
        """Forget what another sampler's warm-up settled on: its step size means something else."""
        if "adapted_for" in state.extra and int(state.extra["adapted_for"]) != self.kind:
            for name in ("adapted_for", "step_size", "scale", "inverse_mass", "trajectory_length", *_LEARNING):
                state.extra.pop(name, None)

    def begin(self, state: ChainState) -> None:
        """Start of a warm-up, from the step size at hand; nothing if this warm-up has begun."""
        extra, x, n = state.extra, state.x, state.x.shape[0]
        if "adapted_for" not in extra:
            extra["adapted_for"] = torch.tensor(self.kind)
        if self.settings.step_size and ("dual_averaging" not in extra or extra["dual_averaging"].shape[1] != self.groups):
            step = torch.as_tensor(extra.get("step_size", self.sampler.step_size), dtype=torch.float64, device=x.device)
            if step.ndim and self.groups == 1:  # of chains that had one each
                step = step.log().mean().exp()
            self._begin(extra, step.expand(n if step.ndim else self.groups)[: self.groups].clone(), x, self.boldness)
        if self.settings.mass is not None and ("mass_mean" not in extra or extra["mass_squares"].shape != self._shape(x)):
            self._forget_moments(extra, x)

    def _begin(self, extra: dict[str, Tensor], step: Tensor, x: Tensor, boldness: float) -> None:
        """Dual averaging from a step size: rows log e, its average, the mean error, mu; and the count."""
        log = step.clamp(min=1e-30).log()
        extra["dual_averaging"] = torch.stack((log, log, torch.zeros_like(log), log + boldness))
        extra["dual_count"] = torch.zeros((), dtype=torch.float64, device=x.device)
        self._publish(extra, log, x)

    def _publish(self, extra: dict[str, Tensor], log_step: Tensor, x: Tensor) -> None:
        step = log_step.exp().to(x.dtype)
        extra["step_size"] = step[0].clone() if self.groups == 1 else step.repeat(x.shape[0] // self.groups)
        self._bound.clear()

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the squares that the mass is made of."""
        event = x.shape[1:]
        return (event.numel(),) * 2 if self.settings.mass == "dense" else event

    def _forget_moments(self, extra: dict[str, Tensor], x: Tensor) -> None:
        extra["mass_mean"] = torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device)
        extra["mass_squares"] = torch.zeros(self._shape(x), dtype=torch.float64, device=x.device)
        extra["mass_count"] = torch.zeros((), dtype=torch.float64, device=x.device)
        self._bound.clear()

    def update(self, transition: Any, age: int) -> None:
        """Learn from the proposal that was just decided, the step at `age`."""
        state = transition.state
        first, ends = windows(state.warmup_from, state.warmup_until)
        last = ends[-1] if ends else state.warmup_from
        settling = ends[-2] if len(ends) > 1 else last
        gathers = self.settings.mass is not None and first <= age < last
        self._learn(transition, age, age >= settling, gathers)
        if self.settings.step_size and age + 1 == settling and self.settings.mass is None:
            self._begin(state.extra, state.extra["dual_averaging"][0].exp(), state.x, 0.0)
        if gathers and age + 1 in ends:
            self._set_mass(state, transition)

    def _learn(self, transition: Any, age: int, settling: bool, gathers: bool) -> None:
        state = transition.state
        if gathers and self.settings.mass == "dense":
            self._gather_dense(state)
            gathers = False
        if not (self.settings.step_size or gathers):
            return
        if gathers not in self._bound:
            self._bound[gathers] = adapt_steps(state.x, transition.counters, backend=transition.backend, target=self.target,
                                               shrinkage=self.shrinkage, **self._tensors(transition, gathers))  # fmt: skip
        self._bound[gathers](self.least(settling, state.x.shape[0]), self._fraction(age))

    def _tensors(self, transition: Any, gathers: bool) -> dict[str, Any]:
        """What `adapt_` learns from and writes."""
        extra, found = transition.state.extra, {}
        if self.settings.step_size:
            found = {"average": extra["dual_averaging"], "average_count": extra["dual_count"], "step_size": extra["step_size"]}
        if gathers:
            found |= {"mean": extra["mass_mean"], "squares": extra["mass_squares"], "count": extra["mass_count"]}
        return found

    def least(self, settling: bool, chains: int) -> float:
        """What an acceptance counts as at least in the harmonic mean over a group of chains; 0 for the mean."""
        return 0.0 if settling or chains == self.groups else _LEAST

    def _fraction(self, age: int) -> float:
        """Of the trajectory length that the proposal had."""
        return 1.0

    def _gather_dense(self, state: ChainState) -> None:
        """Chan's update of mean and squares by the n states of this step."""
        extra, n = state.extra, state.x.shape[0]
        x = state.x.double()
        mean = x.mean(0)
        flat = (x - mean).view(n, -1)
        before = extra["mass_count"]
        total = before + n
        apart = mean - extra["mass_mean"]
        gap = apart.view(-1)
        extra["mass_squares"] += flat.T @ flat + torch.outer(gap, gap) * (before * n / total)
        extra["mass_mean"] += apart * (n / total)
        extra["mass_count"] = total

    def _set_mass(self, state: ChainState, transition: Any) -> None:
        """Inverse mass = regularised (co)variance, and a fresh search for the step size in the new geometry. Variances are drawn
        to a small number as Stan draws them, covariances to those of independent coordinates, whatever the unit of each."""
        extra, x = state.extra, state.x
        count = extra["mass_count"]
        covariance = extra["mass_squares"] / (count - 1.0)
        weight = count / (count + 5.0)
        if self.settings.mass == "dense":
            variances = covariance.diagonal()
            alone = torch.where(variances > 0.0, variances, 1e-3).diag()
            extra["inverse_mass"] = (weight * covariance + (1.0 - weight) * alone).to(x.dtype)
            extra.pop("scale", None)
        else:
            extra.pop("inverse_mass", None)
            extra["scale"] = (weight * covariance + 1e-3 * (1.0 - weight)).sqrt().to(x.dtype)
        transition.new_mass()
        self._forget_moments(extra, x)
        if self.settings.step_size:
            # from the step size at hand, and not from ten times it: what follows may be few steps
            self._begin(extra, extra["dual_averaging"][0].exp(), x, 0.0)

    def freeze(self, transition: Any) -> None:
        """End of the warm-up: the averaged step size, for good."""
        extra = transition.state.extra
        if self.settings.step_size:
            self._publish(extra, extra["dual_averaging"][1], transition.state.x)
        for name in _LEARNING:
            extra.pop(name, None)

    def report(self, state: ChainState) -> dict[str, Tensor]:
        """What the warm-up settled on."""
        return {name: state.extra[name].clone() for name in ("step_size", "scale", "inverse_mass", "trajectory_length")
                if name in state.extra}  # fmt: skip
