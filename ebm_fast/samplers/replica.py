"""Replica exchange (parallel tempering) over any sampler with a temperature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import Energy, EnergyFunction
from ..engine.state import ChainState, StepInfo, no_divergence
from ..ops import checks
from ..ops.swap import swap_
from .base import Sampler, Transition, check_tempered, started


@dataclass(frozen=True, eq=False)
class ReplicaExchange(Sampler):
    """r replicas of every chain at inverse temperatures 1 = b_1 > ... > b_r; after every `swap_every` steps of the inner sampler,
    neighbours i, i + 1 change places with probability min(1, exp((b_i - b_{i+1}) (E_i - E_{i+1}))), even and odd pairs in turn.

    The hot replicas cross barriers and hand their states down. What is recorded, and `run.final`, are the replicas at b_1;
    `run.state.x` holds all, (n, r, *event). Replica j of chain i draws the random numbers of chain i r + j.

    Args:
        sampler: any sampler with a temperature: Langevin, MALA, HMC, random walks, underdamped dynamics, ... Its own temperature
            is that of b = 1; its step size (n,) is that of all replicas of a chain. Its `adapt` may adapt the step size, of each
            temperature by itself.
        betas: inverse temperatures, falling from 1; `ReplicaExchange.ladder(r, lowest)` makes a geometric one.
        swap_every: steps of the inner sampler between swaps.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Swendsen and Wang 1986; Geyer 1991; Syed et al. 2022 (even and odd in turn).
    """

    sampler: Any
    betas: Sequence[float]
    swap_every: int = 1

    def __post_init__(self) -> None:
        check_tempered(self.sampler)
        if not isinstance(self.betas, (tuple, list, Tensor)):
            raise TypeError(f"betas must be a sequence of inverse temperatures, got {type(self.betas).__name__}")
        if not isinstance(self.sampler.temperature, (int, float)):
            raise TypeError("the inner sampler's temperature must be a number: replicas have temperatures of their own")
        betas = self.betas.tolist() if isinstance(self.betas, Tensor) else list(self.betas)
        if len(betas) < 2 or any(checks.number(b, "betas", low=0.0) == 0.0 for b in betas):
            raise ValueError(f"betas must be two or more positive inverse temperatures, got {betas}")
        if betas[0] != 1.0 or any(b >= a for a, b in itertools.pairwise(betas)):
            raise ValueError(f"betas must fall from 1, got {betas}")
        object.__setattr__(self, "betas", tuple(betas))
        if type(self.swap_every) is not int or self.swap_every < 1:
            raise ValueError(f"swap_every must be an int of at least 1, got {self.swap_every!r}")
        adapt = getattr(self.sampler, "adapt", None)
        if getattr(self.sampler, "momentum", 0.0):
            raise ValueError("a heavy ball (momentum) does not sample at its temperature; use UnderdampedLangevin or GHMC")
        if self.sampler.temperature == 0:
            raise ValueError("the inner sampler's temperature must be above 0")
        if adapt is not None and (adapt.mass is not None or adapt.per_chain or hasattr(adapt, "max_leapfrog")):
            raise ValueError("replicas adapt one step size per temperature: give the inner sampler adapt=Adaptation()")

    @staticmethod
    def ladder(replicas: int, lowest: float) -> tuple[float, ...]:
        """Geometric inverse temperatures from 1 to `lowest`."""
        if type(replicas) is not int or replicas < 2:
            raise ValueError(f"replicas must be an int of at least 2, got {replicas!r}")
        if not 0.0 < checks.number(lowest, "lowest") < 1.0:
            raise ValueError(f"lowest must be between 0 and 1, got {lowest}")
        return tuple(lowest ** (j / (replicas - 1)) for j in range(replicas))

    def has_schedule(self) -> bool:
        return True  # the parity of the swaps changes

    def why_not_fused(self, x: Tensor) -> str:
        return self.sampler.why_not_fused(x[:, 0])

    def check_start(self, x: Any) -> None:
        checks.exact_state(x, "x0")

    def check_resumed(self, state: ChainState) -> None:
        if "labels" not in state.extra:
            raise ValueError("the state is of a sampler without replicas: start ReplicaExchange from x0=run.final")
        if state.x.shape[1] != len(self.betas):
            raise ValueError(f"the state holds {state.x.shape[1]} replicas a chain, the sampler has {len(self.betas)} betas")

    def check_ages(self, first: int, last: int) -> None:
        self.sampler.check_ages(first, last)

    def init(self, energy: Energy, x: Tensor, seed: int | None = None, *, warmup: int = 0, step: int = 0,
             chain_offset: int = 0) -> ChainState:  # fmt: skip
        """The state of chains whose replicas all start at x # (n, *event)."""
        x = x.detach().contiguous() if isinstance(x, Tensor) else x
        self.check_start(x)
        n, r = x.shape[0], len(self.betas)
        all_x = x.unsqueeze(1).expand(n, r, *x.shape[1:]).contiguous()
        extra = {"labels": torch.arange(r, device=x.device).repeat(n, 1)}
        return started(x, all_x, seed, warmup, step, chain_offset, extra)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return ReplicaTransition(self, energy, state, backend=backend, guard=guard, track=track)


class ReplicaTransition(Transition):
    """The inner transition on # (n r, *event), swaps between."""

    def __init__(self, sampler: ReplicaExchange, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool,
                 track: bool) -> None:  # fmt: skip
        energy.require_values(type(sampler).__name__)
        self.sampler, self.state, self.backend = sampler, state, backend
        sampler.check_resumed(state)
        self.n, self.r = state.x.shape[:2]
        checks.counter(state.seed, state.step, state.chain_offset * self.r, None, state.x.view(-1, *state.x.shape[2:]))
        betas = torch.tensor(sampler.betas, dtype=torch.float64, device=state.x.device)
        T = sampler.sampler.temperature
        self.betas = betas / T
        condition = {
            k: v.repeat_interleave(self.r, 0) if isinstance(v, Tensor) and v.ndim and v.shape[0] == self.n else v
            for k, v in energy.condition.items()
        }
        energy = EnergyFunction(energy.energy, condition)
        step_size = getattr(sampler.sampler, "step_size", None)
        own = {}
        if isinstance(step_size, Tensor) and step_size.ndim:  # one a chain, for all its replicas
            own = {"step_size": step_size.repeat_interleave(self.r)}
        inner_sampler = replace(sampler.sampler, temperature=(T / betas).to(state.x.dtype).repeat(self.n), **own)
        object.__setattr__(inner_sampler, "groups", self.r)
        if "replica_divergence" not in state.extra:
            state.extra["replica_divergence"] = no_divergence(state.x.view(-1, *state.x.shape[2:]))
        self.inner_state = ChainState(
            state.x.view(-1, *state.x.shape[2:]), state.seed, state.step, state.age, state.chain_offset * self.r,
            state.warmup_from, state.warmup_until, state.extra["replica_divergence"], state.extra,
        )  # fmt: skip
        self.inner = inner_sampler.transition(energy, self.inner_state, backend=backend, guard=guard, track=track, rng=None)
        self.counters = torch.zeros((self.n, self.r - 1, 2), dtype=torch.float64, device=state.x.device)
        self.tried = [0, 0]

    def advance(self, num_steps: int) -> None:
        state, every = self.state, self.sampler.swap_every
        self.inner_state.warmup_from, self.inner_state.warmup_until = state.warmup_from, state.warmup_until
        left = num_steps
        while left:
            count = min(left, every - state.age % every)
            self.inner.advance(count)
            state.step, state.age = self.inner_state.step, self.inner_state.age
            left -= count
            if state.age % every == 0 and state.x.numel():
                parity = (state.age // every) % 2
                energy, grad = self.inner.exchangeable()
                swap_(state.x, energy.view(self.n, self.r), self.betas, parity=parity,
                      grad=None if grad is None else grad.view(state.x.shape), labels=state.extra["labels"],
                      counters=self.counters, seed=state.seed, step=state.step - 1, chain_offset=state.chain_offset,
                      backend=self.backend)  # fmt: skip
                self.inner.exchanged()
                self.tried[parity] += 1
        if state.divergence_step is not None:
            frozen = state.extra["replica_divergence"].view(self.n, self.r)
            first = frozen.masked_fill(frozen < 0, torch.iinfo(torch.int64).max).amin(1)
            state.divergence_step.copy_(torch.where((frozen >= 0).any(1), first, -1))

    def _coldest(self, per_replica: Tensor) -> Tensor:
        return per_replica.view(self.n, self.r)[:, 0]

    def position(self) -> Tensor:
        return self.state.x[:, 0]

    def energy_now(self) -> Tensor:
        return self._coldest(self.inner.energy_now())

    def renew(self) -> None:
        self.inner.renew()

    def info(self) -> StepInfo:
        info = self.inner.info()
        return StepInfo(*(None if t is None else self._coldest(t) for t in (info.energy, info.grad_norm, info.diverged,
                                                                            info.acceptance)))  # type: ignore[arg-type]  # fmt: skip

    def track_gradients(self) -> None:
        self.inner.track_gradients()

    def snapshot(self) -> Any:
        return self.inner.snapshot(), self.counters.clone(), list(self.tried)

    def restore(self, snapshot: Any) -> None:
        self.inner.restore(snapshot[0])
        self.counters.copy_(snapshot[1])
        self.tried = list(snapshot[2])

    def reset_stats(self) -> None:
        self.inner.reset_stats()
        self.counters.zero_()
        self.tried = [0, 0]

    def grad_norm(self) -> Tensor | None:
        norm = self.inner.grad_norm()
        return None if norm is None else self._coldest(norm)

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = {k: self._coldest(v) if isinstance(v, Tensor) else v for k, v in self.inner.stats().items()}
        if found.get("adapted"):
            found["adapted"] = {k: v.view(self.n, self.r)[0] for k, v in found["adapted"].items()} if self.n else {}
        tried = [self.tried[j % 2] or math.nan for j in range(self.r - 1)]
        swaps = self.counters[:, :, 0] / torch.tensor(tried, dtype=torch.float64, device=self.counters.device)
        return {**found, "swap_acceptance": swaps}
