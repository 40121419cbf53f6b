"""Langevin dynamics: unadjusted, short-run, noise-free, heavy-ball, with every option that EBM trainers use."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import Energy, EnergyFunction
from ..engine.run import run_
from ..engine.state import ChainState, StepInfo, no_divergence
from ..ops import checks
from ..ops.guard import guard_, guard_steps
from ..ops.langevin import langevin_step_, langevin_steps
from ..ops.noise import fresh_seed
from .base import (
    Sampler,
    Transition,
    at_age,
    check_coefficient,
    check_event,
    check_positive,
    is_schedule,
    repeated,
    stacked,
)

Coefficient = float | Tensor | Sequence[float] | Callable[[int], float | Tensor]

def mean_norm(norm_sum: Tensor, gradients: int, first_step: int, divergence_step: Tensor | None) -> Tensor:
    """Mean gradient norm over `gradients` steps from `first_step` on, for a frozen chain over those before it was. (n,)"""
    if divergence_step is None:
        return norm_sum / max(gradients, 1)
    taken = (divergence_step - first_step).masked_fill_(divergence_step < 0, gradients)
    return norm_sum / taken.clamp_(1, max(gradients, 1))


@dataclass(frozen=True, eq=False)
class Langevin(Sampler):
    """x <- x - s grad E(x) + n z, n = sqrt(2 s T): the unadjusted Langevin algorithm (overdamped, Euler-Maruyama).

    With order="gradient", each step is: gradient at x, gradient step, [clamp], noise, [clamp]. With order="noise":
    noise, [clamp], gradient at the noised point, gradient step, [clamp]. `noise_std` decouples the noise from the step,
    as short-run EBM practice does; noise_std=0 is gradient descent; `momentum` adds v <- m v - s g, x <- x + v + n z.

    Args:
        step_size: s >= 0: a number; a tensor () or (n,) (per chain); a tuple of numbers (one per step); or a callable
            from the index of the step in the chain (0, 1, ...) to a number or tensor.
        noise_std: n likewise; None couples it to step size and temperature.
        temperature: T >= 0: a number, a tensor (n,), a tuple or a callable as above; ignored where noise_std is given.
        order: "gradient" or "noise".
        clamp: (low, high) bounds on the state, None for an open end.
        clamp_after: "last" (at the end of the step, whatever its order), "step" (after the gradient step), "noise", or "both".
        grad_clip: elementwise bound on the gradient.
        grad_clip_norm: bound on each chain's gradient norm.
        momentum: m of the heavy ball.
        prior_precision: p of an added prior energy p |x|^2 / 2, outside of clipping.
        preconditioner: diagonal P (*event): P s in place of s and sqrt(P) n in place of n, the same target reached sooner.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Parisi 1981, Roberts and Tweedie 1996; orders and options: Du and Mordatch 2019, Nijkamp et al. 2019, Grathwohl et
    al. 2020. docs/conventions.md maps their step sizes onto this one.
    """

    step_size: Coefficient
    noise_std: Coefficient | None = None
    temperature: float | Tensor | Sequence[float] | Callable[[int], float] = 1.0
    order: str = "gradient"
    clamp: tuple[float | None, float | None] | None = None
    clamp_after: str = "last"
    grad_clip: float | None = None
    grad_clip_norm: float | None = None
    momentum: float = 0.0
    prior_precision: float = 0.0
    preconditioner: Tensor | None = None

    def __post_init__(self) -> None:
        check_coefficient(self.step_size, "step_size")
        if self.noise_std is not None:
            check_coefficient(self.noise_std, "noise_std")
        check_coefficient(self.temperature, "temperature")
        if self.order not in ("gradient", "noise"):
            raise ValueError(f"order must be 'gradient' or 'noise', got {self.order!r}")
        if self.clamp is not None:
            checks.bounds(self.clamp, "clamp")
        if self.clamp_after not in ("last", "step", "noise", "both"):
            raise ValueError(f"clamp_after must be 'last', 'step', 'noise' or 'both', got {self.clamp_after!r}")
        for name in ("grad_clip", "grad_clip_norm"):
            if getattr(self, name) is not None:
                checks.number(getattr(self, name), name, low=0.0, infinite=name == "grad_clip")
        if self.grad_clip is not None and self.grad_clip_norm is not None:
            raise ValueError("give grad_clip (elementwise) or grad_clip_norm (per chain), not both")
        checks.number(self.momentum, "momentum")
        checks.number(self.prior_precision, "prior_precision")
        check_positive(self.preconditioner, "preconditioner")

    def has_schedule(self) -> bool:
        return any(is_schedule(c) for c in (self.step_size, self.noise_std, self.temperature))

    def why_not_fused(self, x: Tensor) -> str:
        return ""

    def why_not_graph(self) -> str:
        return ""

    @functools.cached_property
    def _passes(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What a pass clamps: both moves, the noise alone, the step alone, each after its own move; and what the guard's bound on
        the next state depends on beside the numbers of the step."""
        after = self.clamp_after
        if after == "last":
            after = "noise" if self.order == "gradient" else "step"
        clamps: list[dict[str, Any]] = [{}, {}, {}]
        if self.clamp is not None:
            clamps = [{"clamp": self.clamp, "clamp_after": after}, {"clamp": self.clamp} if after != "step" else {},
                      {"clamp": self.clamp, "clamp_after": "step"} if after != "noise" else {}]  # fmt: skip
        reach: dict[str, Any] = {"heavy_ball": self.momentum, "prior_precision": self.prior_precision}
        if self.grad_clip is not None:
            reach["grad_clip"] = self.grad_clip
        elif self.grad_clip_norm is not None:
            reach["grad_clip_norm"] = self.grad_clip_norm
        return clamps[0], clamps[1], clamps[2], reach

    def transition(
        self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool, rng: Tensor | None
    ) -> LangevinTransition:
        return LangevinTransition(self, energy, state, backend=backend, guard=guard, track=track, rng=rng)


class LangevinTransition(Transition):
    """Langevin steps in place; one gradient a step, one pass of the fused op a step where nothing is recorded between."""

    def __init__(self, sampler: Langevin, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool,
                 track: bool, rng: Tensor | None) -> None:  # fmt: skip
        self.sampler, self.energy, self.state = sampler, energy, state
        self.backend, self.guard, self.track, self.rng = backend, guard, track, rng
        self.drop_stale()
        if sampler.momentum and "velocity" not in state.extra:
            state.extra["velocity"] = torch.zeros_like(state.x)
        if guard and state.divergence_step is None:
            state.divergence_step = no_divergence(state.x)
        self.scale: Tensor | None = None
        self._arithmetic = torch.float64 if state.x.dtype == torch.float64 else torch.float32
        check_event(sampler.preconditioner, "preconditioner", state.x)
        self.clamp, self.clamp_noise, self.clamp_step, self._reach = sampler._passes
        if sampler.preconditioner is not None:
            self.scale = sampler.preconditioner.detach().to(state.x.device, self._arithmetic).sqrt()
            self._reach = {**self._reach, "stretch": self.scale.max()}
        self.last_energy = state.x.new_empty(0)
        self._evaluated: tuple[Tensor, Tensor] | None = None
        self._bound: Any = None
        self._last: Any = None  # coefficients of the last step of a schedule
        self._norm_sum = torch.zeros(state.x.shape[0], dtype=torch.float64, device=state.x.device) if track else None
        self._active = ~state.diverged if guard else None
        self.reset_stats()

    def restart(self) -> None:
        self._evaluated = None
        if "velocity" in self.state.extra:
            self.state.extra["velocity"].zero_()

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
        """Mean of |dE/dx| over the gradients since `reset_stats`, for a frozen chain over those before. (n,)"""
        if self._norm_sum is None:
            return None
        stopped = self.state.divergence_step if self.guard else None
        return mean_norm(self._norm_sum, self.gradients, self._first_step, stopped).to(self._arithmetic)

    def info(self) -> StepInfo:
        return StepInfo(self.last_energy, self.grad_norm(), self.state.diverged)

    def exchangeable(self) -> tuple[Tensor, Tensor | None]:
        energy = self.energy_now()
        if energy.dtype is not self.state.x.dtype:
            energy = energy.to(self.state.x.dtype)
            self._evaluated = None if self._evaluated is None else (energy, self._evaluated[1])
        return energy, None if self._evaluated is None else self._evaluated[1]

    def energy_now(self) -> Tensor:
        """E at the present state; in the gradient-first order the gradient comes along and serves the next step."""
        if self.state.x.numel() == 0:
            return self.state.x.new_zeros(self.state.x.shape[:1], dtype=self._arithmetic)
        if self.sampler.order == "noise" or self.rng is not None:
            return self.energy.value_and_grad(self.state.x)[0]
        if self._evaluated is None:
            self._evaluated = self.energy.value_and_grad(self.state.x)
        return self._evaluated[0]

    def advance(self, num_steps: int) -> None:
        state = self.state
        if self.rng is not None:
            self._evaluated = None  # a captured graph must compute all it reads
        if state.x.numel() and num_steps:
            (self._gradient_first if self.sampler.order == "gradient" else self._noise_first)(num_steps)
        if self.rng is not None:
            self.rng[1].add_(num_steps)
        state.step += num_steps
        state.age += num_steps

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        state, sampler, x = self.state, self.sampler, self.state.x
        steps = [self._coefficients(k) for k in range(num_steps if sampler.has_schedule() else 1)]
        open_end, after = (-math.inf, math.inf), self.clamp.get("clamp_after", "")
        bounds = open_end if sampler.clamp is None else checks.bounds(sampler.clamp, "clamp")
        plan: dict[str, Any] = {
            "transition": "langevin", "step_size": stacked([s for s, _ in steps], x),
            "noise_std": stacked([n for _, n in steps], x), "noise_first": sampler.order == "noise", "scale": self.scale,
            "momentum": state.extra["velocity"] if sampler.momentum else None, "heavy_ball": sampler.momentum,
            "prior_precision": sampler.prior_precision,
            "grad_clip": math.inf if sampler.grad_clip is None else sampler.grad_clip,
            "grad_clip_norm": math.inf if sampler.grad_clip_norm is None else sampler.grad_clip_norm,
            "step_bounds": bounds if after in ("step", "both") else open_end,
            "noise_bounds": bounds if after in ("noise", "both") else open_end,
            "divergence_step": state.divergence_step if self.guard else None,
            "norm_sum": self._norm_sum,
        }  # fmt: skip
        if sampler.order == "gradient" and (self.track or self.guard):
            known = self._evaluated
            energy, grad = known or (x.new_empty(x.shape[0]), torch.empty_like(x))
            plan.update(energy=energy, grad=grad, carried=known is not None)
        return plan

    def chain_done(self, plan: dict[str, Any], num_steps: int) -> None:
        self.gradients += num_steps
        self._evaluated = (plan["energy"], plan["grad"]) if "energy" in plan else None

    def _coefficients(self, k: int) -> tuple[Any, Any]:
        """Step size and noise of the k-th step from here."""
        sampler, age = self.sampler, self.state.age + k
        step_size = at_age(sampler.step_size, "step_size", age)
        if isinstance(step_size, Tensor):
            checks.coefficient(step_size, "step_size", self.state.x)
        if sampler.noise_std is not None:
            return step_size, at_age(sampler.noise_std, "noise_std", age)
        temperature = at_age(sampler.temperature, "temperature", age)
        if isinstance(temperature, Tensor):
            checks.coefficient(temperature, "temperature", self.state.x)
        else:
            temperature = checks.number(temperature, "temperature", low=0.0)
        if isinstance(step_size, Tensor) or isinstance(temperature, Tensor):
            wanted = torch.float64 if self.state.x.dtype == torch.float64 else torch.float32
            product = step_size * temperature if isinstance(temperature, Tensor) else step_size.to(wanted) * temperature
            return step_size, (2.0 * product.to(wanted)).sqrt()
        return step_size, math.sqrt(2.0 * checks.number(step_size, "step_size", low=0.0) * temperature)

    def _update(self, grad: Tensor | None, step_size: Any, noise_std: Any, k: int, **clamp: Any) -> None:
        """One pass of the fused op; the noise is that of the k-th step from here."""
        state, sampler = self.state, self.sampler
        langevin_step_(
            state.x, grad, step_size=step_size, noise_std=noise_std, grad_clip=sampler.grad_clip,
            grad_clip_norm=sampler.grad_clip_norm, prior_precision=sampler.prior_precision, velocity=state.extra.get("velocity"),
            momentum=sampler.momentum, active=self._active,
            seed=0 if self.rng is not None else state.seed, step=k if self.rng is not None else state.step + k,
            chain_offset=state.chain_offset, scale=self.scale, rng=self.rng, backend=self.backend, **clamp,
        )  # fmt: skip

    def _evaluate(self, step_size: Any, noise_std: Any, k: int) -> Tensor:
        """The gradient at x; keeps its norm and marks chains that cannot go on."""
        energy, grad = self._evaluated or self.energy.value_and_grad(self.state.x)
        self._evaluated = None
        self.last_energy = energy
        self.gradients += 1
        if self.track or self.guard:
            state = self.state
            looked: dict[str, Any] = {}
            if self.guard:
                looked = {"energy": energy.to(self._arithmetic), "divergence_step": state.divergence_step,
                          "momentum": state.extra.get("velocity"), "step_size": step_size, "noise_std": noise_std,
                          **self._reach}  # fmt: skip
            guard_(state.x, grad, active=self._active, norm_sum=self._norm_sum,
                   step=k if self.rng is not None else state.step + k, rng=self.rng, backend=self.backend,
                   **looked)  # fmt: skip
        return grad

    def _unchanging(self, num_steps: int) -> bool:
        """Takes the steps if they differ in their gradient and noise alone: their ops are then bound, and checked, once."""
        if self.rng is not None or self.sampler.has_schedule():
            return False
        state, ahead = self.state, int(self.sampler.order == "noise")
        if self._bound is None:
            self._bound = self._bind(*self._coefficients(0))
        noise, update, last, look = self._bound
        if ahead:  # noise of step k + 1 rides on the gradient step of step k
            noise(None, state.step)
        end = state.step + num_steps
        for step in range(state.step, end):
            self._bound_step(last if ahead and step + 1 == end else update, look, step, step + ahead)
        return True

    def _bound_step(self, update: Any, look: Any, step: int, noise_of: int) -> None:
        energy, grad = self._evaluated or self.energy.value_and_grad(self.state.x)
        self._evaluated, self.last_energy = None, energy
        self.gradients += 1
        if look is not None:
            look(grad, energy if energy.dtype is self._arithmetic else energy.to(self._arithmetic), step)
        update(grad, noise_of)

    def _bind(self, step_size: Any, noise_std: Any) -> tuple[Any, ...]:
        """Passes of noise alone, of a step, and of a step without noise; and the guard."""
        state, sampler, velocity = self.state, self.sampler, self.state.extra.get("velocity")

        def passes(noise_std: Any, **clamp: Any) -> Callable[[Tensor | None, int], None]:
            return langevin_steps(
                state.x, step_size=step_size, noise_std=noise_std, grad_clip=sampler.grad_clip,
                grad_clip_norm=sampler.grad_clip_norm, prior_precision=sampler.prior_precision, velocity=velocity,
                momentum=sampler.momentum, active=self._active, norm_sum=None if self.guard else self._norm_sum, seed=state.seed,
                chain_offset=state.chain_offset, scale=self.scale, backend=self.backend, **clamp,
            )  # fmt: skip

        update, look = passes(noise_std, **self.clamp), None
        if self.guard:
            look = guard_steps(state.x, divergence_step=state.divergence_step, active=self._active, norm_sum=self._norm_sum,
                               momentum=velocity, step_size=step_size, noise_std=noise_std, backend=self.backend,
                               **self._reach)  # fmt: skip
        if sampler.order == "gradient":
            return None, update, None, look
        return passes(noise_std, **self.clamp_noise), update, passes(0.0, **self.clamp_step), look

    def _gradient_first(self, num_steps: int) -> None:
        if self._unchanging(num_steps):
            return
        for k in range(num_steps):
            step_size, noise_std = self._coefficients(k)
            if self._again(step_size, noise_std):
                _, update, _, look = self._bound
                step = self.state.step + k
                self._bound_step(update, look, step, step)
                continue
            grad = self._evaluate(step_size, noise_std, k)
            self._update(grad, step_size, noise_std, k, **self.clamp)

    def _again(self, step_size: Any, noise_std: Any) -> bool:
        """Whether a schedule's step has the coefficients of the one before, and its ops are bound (which takes long)."""
        if self.rng is not None:
            return False
        now = {"step_size": step_size, "noise_std": noise_std}
        if not repeated(now, self._last):
            self._last, self._bound = now, None
            return False
        if self._bound is None:
            self._bound = self._bind(step_size, noise_std)
        return True

    def _noise_first(self, num_steps: int) -> None:
        # Noise of step k+1 rides on the gradient step of step k. A 16-bit state would be rounded once less than where
        # a record lies between the two, so there the passes stay apart and the chain is the same either way.
        fuse = self.state.x.itemsize >= 4
        if fuse and self._unchanging(num_steps):
            return
        following = self._coefficients(0)
        self._update(None, *following, 0, **self.clamp_noise)
        for k in range(num_steps):
            step_size, noise_std = following
            grad = self._evaluate(step_size, noise_std, k)
            if k + 1 == num_steps:
                self._update(grad, step_size, 0.0, k, **self.clamp_step)
                return
            following = self._coefficients(k + 1)
            if fuse:
                self._update(grad, step_size, following[1], k + 1, **self.clamp)
            else:
                self._update(grad, step_size, 0.0, k, **self.clamp_step)
                self._update(None, *following, k + 1, **self.clamp_noise)


_NUMBERS = frozenset((float, int, type(None)))
_made_before = functools.lru_cache(maxsize=64, typed=True)(Langevin)  # checking eleven arguments costs a third of a short call


def langevin_(
    x: Tensor,  # (n, *event)
    energy: Energy,
    *,
    num_steps: int,
    step_size: Coefficient,
    noise_std: Coefficient | None = None,
    temperature: float | Sequence[float] | Callable[[int], float] = 1.0,
    order: str = "gradient",
    clamp: tuple[float | None, float | None] | None = None,
    clamp_after: str = "last",
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    momentum: float = 0.0,
    prior_precision: float = 0.0,
    preconditioner: Tensor | None = None,  # (*event)
    condition: Mapping[str, Any] | None = None,
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    generator: torch.Generator | None = None,
    strategy: str = "auto",
    backend: str | None = None,
) -> Tensor:
    """x <- x - s grad E(x) + n z, num_steps times, in place: the inner loop of an EBM trainer as one call.

    Takes the arguments of `Langevin` and those of `sample` that make sense here. Allocates nothing of its own per step, never
    waits for the device, leaves parameter gradients alone, and looks for no divergence (`sample` does). Call it outside of
    torch.compile; the energy itself may be compiled.

    Args:
        x: (n, *event), contiguous, without grad; overwritten.
        energy: callable (n, *event) -> (n,).
        num_steps: K.
        seed, step: counter of the noise; None draws a seed from torch's generator (or `generator`). A trainer that
            fixes `seed` passes step = iteration * num_steps.

    Returns:
        x.

    Example: IGEBM's loop is `langevin_(x, energy, num_steps=60, step_size=10.0, noise_std=0.005, order="noise",
    grad_clip=0.01, clamp=(0, 1))`.
    """
    ends = clamp if type(clamp) is tuple else ()
    numbers = (step_size, noise_std, temperature, grad_clip, grad_clip_norm, momentum, prior_precision, *ends)
    plain = preconditioner is None and type(order) is type(clamp_after) is str and (clamp is None or type(clamp) is tuple)
    make = _made_before if plain and _NUMBERS.issuperset(map(type, numbers)) else Langevin
    sampler = make(step_size, noise_std, temperature, order, clamp, clamp_after, grad_clip, grad_clip_norm, momentum,
                   prior_precision, preconditioner)  # fmt: skip
    seed = fresh_seed(generator) if seed is None else seed
    run_(energy, sampler, x, num_steps, seed=seed, step=step, chain_offset=chain_offset, condition=condition, strategy=strategy,
         backend=backend)  # fmt: skip
    return x
