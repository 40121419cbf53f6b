"""The common part of samplers that accept and reject: counters, temperature, step size and its adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import EnergyFunction
from ..engine.state import ChainState, StepInfo
from ..ops import checks
from ..ops.metropolis import COUNTERS
from ..ops.norm import event_norm
from .adaptation import Adaptation, Adapter
from .base import Sampler, Transition, at_age, changed, check_coefficient, is_schedule, repeated, stacked

_FROZEN = 1e30  # 1 / T of temperature 0: downhill moves alone


@dataclass(frozen=True, eq=False)
class AcceptRejectSampler(Sampler):
    """Fields and checks of the samplers that accept and reject."""

    has_trajectories = False  # of a length that can be adapted

    def _check(self, *coefficients: str) -> None:
        for name in (*coefficients, "temperature"):
            check_coefficient(getattr(self, name), name)
        adapt = getattr(self, "adapt", None)
        if adapt is not None:
            if not isinstance(adapt, Adaptation):
                raise TypeError(f"adapt must be an ebm_fast.Adaptation, got {type(adapt).__name__}")
            if hasattr(adapt, "max_leapfrog") and not self.has_trajectories:
                raise ValueError(f"ChEES adapts the trajectories of HMC, and {type(self).__name__} has none; use Adaptation()")
            if is_schedule(getattr(self, "step_size", None)):
                raise ValueError("adapt sets the step size during the warm-up, so step_size cannot be a schedule")

    def check_start(self, x: Any) -> None:
        checks.exact_state(x, "x0")

    def has_schedule(self) -> bool:
        return self.coefficients_move()

    def why_not_graph(self) -> str:
        if getattr(self, "leapfrog_jitter", False) or getattr(self, "step_jitter", 0.0):
            return "its jitter is drawn on the host, which a replay does not ask"
        return ""

    def coefficients_move(self) -> bool:
        """Whether step size or temperature change from step to step on the host."""
        return any(is_schedule(getattr(self, name, None)) for name in ("step_size", "temperature"))


def _refreshed(bound: Any, now: dict[str, Any], x: Tensor) -> bool:
    """Write the numbers of a step into the tensors that ops are bound to, where nothing else has changed; whether it did so."""
    for name, a in bound.items():
        b = now[name]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.dtype is not x.dtype or a.device != x.device or a.shape != b.shape or not a.is_contiguous():  # bound to a copy
                return False
        elif isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
            return False
    for name, a in bound.items():
        if a is not now[name] and isinstance(a, Tensor):
            a.copy_(now[name])
    return True


class AcceptReject(Transition):
    """Proposals that are accepted or rejected; energies, and gradients where there are, are carried along."""

    needs_grad = False
    reads_anew = True  # whether what `bind` makes reads the coefficients' tensors at each call
    carries_besides: frozenset[str] = frozenset()  # what the steps keep true beside energy and gradient

    def __init__(self, sampler: Any, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 rng: Tensor | None) -> None:  # fmt: skip
        energy.require_values(type(sampler).__name__)
        self.sampler, self.energy, self.state, self.backend, self.rng = sampler, energy, state, backend, rng
        x = state.x
        evaluated = frozenset({"energy", "grad"} if self.needs_grad else {"energy"})
        self.carries = evaluated | self.carries_besides
        self.drop_stale()
        self.proposal = torch.empty_like(x)
        self.counters = torch.zeros((x.shape[0], COUNTERS), dtype=torch.float64, device=x.device)
        if x.numel() == 0:
            state.extra.setdefault("energy", x.new_zeros(x.shape[0]))
            state.extra.setdefault("grad", torch.zeros_like(x))
        elif not evaluated <= state.extra.keys():
            e, g = self._evaluated()
            if g is not None:
                state.extra["grad"] = g.clone()
            state.extra["energy"] = e.clone()
        self.adapter: Adapter | None = None
        adapt = getattr(sampler, "adapt", None)
        if adapt is not None:
            self.adapter = adapt.bind(sampler, state)
            self.adapter.drop_foreign(state)
        self.proposals = 0
        self._norm_sum: Tensor | None = None
        self._coefficients: dict[str, Any] | None = None
        self._bound: Any = None
        self._bound_to: dict[str, Any] | None = None
        self._learns = False  # whether what is bound was made of a step size that is being learnt: nobody else's tensors

    @property
    def grad(self) -> Tensor:
        return self.state.extra["grad"]

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e, g = self.energy.value_and_grad(x)
        return e if e.dtype is x.dtype else e.to(x.dtype), g

    def _evaluated(self) -> tuple[Tensor, Tensor | None]:
        """What is carried, computed anew at the present x."""
        return self.value_and_grad(self.state.x) if self.needs_grad else (self.energy.value(self.state.x), None)

    def restart(self) -> None:
        if self.state.x.numel():
            self._carry(*self._evaluated())

    def _carry(self, energy: Tensor, grad: Tensor | None) -> None:
        self.state.extra["energy"].copy_(energy)
        if grad is not None:
            self.state.extra["grad"].copy_(grad)

    def replayed(self, num_steps: int) -> None:
        self.proposals += num_steps

    def track_gradients(self) -> None:
        if self.needs_grad:
            self._norm_sum = torch.zeros(self.state.x.shape[0], dtype=torch.float64, device=self.state.x.device)

    def looks_after_each_step(self) -> bool:
        return self._norm_sum is not None

    def _count(self, num_steps: int) -> None:
        self.proposals += num_steps
        if self._norm_sum is not None:
            self._norm_sum += event_norm(self.grad, backend=self.backend)

    def grad_norm(self) -> Tensor | None:
        """Mean of |dE/dx| at the states after each step since `reset_stats`; None unless asked for. (n,)"""
        return None if self._norm_sum is None else self._norm_sum / max(self.proposals, 1)

    def bound(self, coefficients: dict[str, Any]) -> Any:
        """What `bind` makes of the coefficients of a step, its ops and their checks; kept while the coefficients are."""
        if self._bound is None or (self._bound_to is not coefficients and not repeated(coefficients, self._bound_to)):
            learning = self.reads_anew and self.adapter is not None and self.adapter.settings.step_size and self.state.adapting
            fits = learning and self._learns and self._bound is not None
            if not (fits and _refreshed(self._bound_to, coefficients, self.state.x)):
                self._bound, self._bound_to, self._learns = self.bind(coefficients), coefficients, learning
        return self._bound

    def bind(self, c: dict[str, Any]) -> Any:
        raise NotImplementedError

    def stream(self) -> dict[str, Any]:
        """Where ops that are bound draw their numbers, at `place(k)`."""
        state = self.state
        return {"seed": state.seed if self.rng is None else 0, "chain_offset": state.chain_offset, "rng": self.rng,
                "backend": self.backend}  # fmt: skip

    def place(self, k: int) -> int:
        """The counter's step of the k-th step from here; where the device counts, what is added there."""
        return k if self.rng is not None else self.state.step + k

    def counter(self, k: int) -> dict[str, Any]:
        """Where the ops of the k-th step from here draw their numbers."""
        state = self.state
        if self.rng is not None:
            return {"seed": 0, "step": k, "chain_offset": state.chain_offset, "rng": self.rng, "backend": self.backend}
        return {"seed": state.seed, "step": state.step + k, "chain_offset": state.chain_offset, "backend": self.backend}

    def beta(self, age: int) -> Any:
        """1 / T at a step: a number or a tensor (n,)."""
        T = at_age(self.sampler.temperature, "temperature", age)
        if isinstance(T, Tensor):
            checks.coefficient(T, "temperature", self.state.x)
            return 1.0 / T
        T = checks.number(T, "temperature", low=0.0)
        return 1.0 / T if T else _FROZEN

    def step_size(self, age: int) -> Any:
        """The step size of a step: the adapted one, else the sampler's. A number or a tensor () or (n,)."""
        if self.adapter is not None and "step_size" in self.state.extra:
            return self.state.extra["step_size"]
        number, tensor = checks.coefficient(at_age(self.sampler.step_size, "step_size", age), "step_size", self.state.x)
        return number if tensor is None else tensor

    def scale(self) -> Tensor | None:
        """Square root of the diagonal inverse mass (*event): the adapted one, else the sampler's."""
        return None if self.adapter is None else self.state.extra.get("scale")

    def coefficients(self, age: int) -> dict[str, Any]:
        """What `derive` makes of step size and temperature; kept while neither changes."""
        moving = self.state.adapting or self.sampler.coefficients_move()
        if moving or self._coefficients is None:
            found = self.derive(self.step_size(age), self.beta(age))
            self._coefficients = None if moving else found
            return found
        return self._coefficients

    def coefficients_of(self, num_steps: int) -> list[dict[str, Any]]:
        """Those of the next steps: one for all of them while nothing changes."""
        age = self.state.age
        return [self.coefficients(age + k) for k in range(num_steps if self.sampler.coefficients_move() else 1)]

    def schedules(self, num_steps: int) -> dict[str, Any]:
        """Step size and inverse temperature of the next steps, as `ops.chain_` takes them."""
        steps = self.coefficients_of(num_steps)
        step_size, beta = (stacked([c[name] for c in steps], self.state.x) for name in ("drift", "beta"))
        return {"step_size": step_size, "beta": beta}

    def forget_coefficients(self) -> None:
        self._coefficients = self._bound = None

    def chain_done(self, plan: dict[str, Any], num_steps: int) -> None:
        self._count(num_steps)

    def derive(self, step_size: Any, beta: Any) -> dict[str, Any]:
        raise NotImplementedError

    def propose(self, k: int, age: int) -> None:
        """One proposal and its decision: the k-th from here."""
        raise NotImplementedError

    def advance(self, num_steps: int) -> None:
        state = self.state
        if state.x.numel():
            for k in range(num_steps):
                adapting = self.adapter is not None and state.warmup_from <= state.age + k < state.warmup_until
                if adapting:
                    assert self.adapter is not None
                    self.adapter.begin(state)
                self.propose(k, state.age + k)
                self._count(1)
                if adapting:
                    assert self.adapter is not None
                    self.adapter.update(self, state.age + k)
                    if state.age + k + 1 == state.warmup_until:
                        self.adapter.freeze(self)
                        self.forget_coefficients()
        if self.rng is not None:
            self.rng[1].add_(num_steps)
        state.step += num_steps
        state.age += num_steps

    def energy_now(self) -> Tensor:
        return self.state.extra["energy"]

    def renew(self) -> None:
        extra = self.state.extra
        if not self.state.x.numel():
            return
        energy, grad = self._evaluated()
        if changed(energy, extra["energy"], grad, extra.get("grad")):
            self._carry(energy, grad)

    def exchangeable(self) -> tuple[Tensor, Tensor | None]:
        return self.state.extra["energy"], self.state.extra.get("grad")

    def info(self) -> StepInfo:
        return StepInfo(self.energy_now().clone(), None, self.counters[:, 2] > 0, self.counters[:, 3].clone())

    def reset_stats(self) -> None:
        self.counters.zero_()
        self.proposals = 0
        if self._norm_sum is not None:
            self._norm_sum.zero_()

    def snapshot(self) -> Any:
        return self.counters.clone(), self.proposals, None if self._norm_sum is None else self._norm_sum.clone()

    def restore(self, snapshot: Any) -> None:
        self.counters.copy_(snapshot[0])
        self.proposals = snapshot[1]
        if self._norm_sum is not None:
            self._norm_sum.copy_(snapshot[2])

    def stats(self) -> dict[str, Any]:
        adapted = {} if self.adapter is None else self.adapter.report(self.state)
        return {
            "acceptance": self.counters[:, 0] / max(self.proposals, 1), "divergences": self.counters[:, 2].long(),
            "adapted": adapted,
        }  # fmt: skip
