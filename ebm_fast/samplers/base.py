"""What samplers and their transitions have in common."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import Energy, EnergyFunction
from ..engine.state import ChainState, StepInfo, no_divergence
from ..ops import checks
from ..ops.noise import fresh_seed


def at_age(value: Any, name: str, age: int) -> Any:
    """The value of a constant or of a schedule (a callable or a tuple) at step `age`; what a callable returns is checked here,
    for native code would not look at it."""
    if callable(value):
        found = value(age)
        return found if isinstance(found, Tensor) else checks.number(found, name, low=0.0)
    if isinstance(value, (tuple, list)):
        if age >= len(value):
            raise ValueError(f"{name} is a schedule of {len(value)} steps, the chain is at step {age + 1}")
        return value[age]
    return value


def check_positive(value: Any, name: str) -> None:
    """None, or a floating-point tensor of positive numbers (of a square matrix, which may be dense, its diagonal)."""
    if value is None:
        return
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {type(value).__name__}")
    looked_at = value.diagonal() if value.ndim == 2 and value.shape[0] == value.shape[1] else value
    if looked_at.numel() and not bool((looked_at > 0).all()):
        raise ValueError(f"{name} must be positive everywhere, its smallest number is {float(looked_at.min())}")


def check_event(value: Tensor | None, name: str, x: Tensor) -> None:
    """value # (*event)"""
    if value is not None and value.shape != x.shape[1:]:
        raise ValueError(f"{name} must have the shape {tuple(x.shape[1:])} of an event, got {tuple(value.shape)}")


def check_tempered(sampler: Any) -> None:
    """A sampler whose temperature means something."""
    if isinstance(sampler, type) or not hasattr(sampler, "temperature"):
        raise TypeError(f"sampler must be a sampler with a temperature, got {sampler!r}")
    if hasattr(sampler, "sigmas"):
        raise TypeError("AnnealedLangevin anneals by itself, along its noise levels; it cannot be tempered")
    if getattr(sampler, "noise_std", None) is not None:
        raise ValueError("noise_std sets the noise by itself, so the temperature has no effect; leave it out to temper a chain")


def check_schedules(sampler: Any, names: tuple[str, ...], first: int, last: int) -> None:
    """Raises ValueError unless the schedules given as tuples reach from step `first` to before step `last`."""
    for name in names:
        value = getattr(sampler, name, None)
        if isinstance(value, (tuple, list)) and first < last and len(value) < last:
            raise ValueError(
                f"{name} is a schedule of {len(value)} steps, and the run goes from step {first} to step {last}, its warm-up "
                "included"
            )


def is_schedule(value: Any) -> bool:
    return callable(value) or isinstance(value, (tuple, list))


def check_coefficient(value: Any, name: str) -> None:
    """A number >= 0, a tensor, a callable, or a tuple of numbers."""
    if isinstance(value, Tensor):
        if value.numel() and not bool((value >= 0).all()):
            raise ValueError(f"{name} must be at least 0 everywhere, the tensor's smallest number is {float(value.min())}")
        return
    if callable(value):
        return
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError(f"{name} is an empty schedule")
        for entry in value:
            checks.number(entry, name, low=0.0)
        return
    checks.number(value, name, low=0.0)


def stacked(values: list[Any], x: Tensor) -> Any:
    """Coefficients of successive steps as `ops.chain_` takes them: a number or tensor, or float32 (steps, 1) or (steps, n)."""
    if len(values) == 1:
        return values[0]
    if not any(isinstance(v, Tensor) for v in values):
        return torch.tensor(values, dtype=torch.float32, device=x.device)[:, None]
    rows = [torch.as_tensor(v, dtype=torch.float32, device=x.device).expand(x.shape[0]) for v in values]
    return torch.stack(rows)


def repeated(now: Any, before: Any) -> bool:
    """Whether two coefficients, or two mappings of them, are the same numbers; tensors never are, which the device may change."""
    if type(now) is dict:
        return type(before) is dict and now.keys() == before.keys() and all(repeated(now[name], before[name]) for name in now)
    return type(now) is type(before) and type(now) in (float, int) and now == before


def changed(energy: Tensor, carried: Tensor, grad: Tensor | None = None, carried_grad: Tensor | None = None) -> bool:
    """Whether what was carried along is of another energy function, beyond the rounding of two ways to compute one."""
    other = ((energy - carried).abs() > 1e-5 * carried.abs().clamp(min=1.0)).any()
    if grad is not None and carried_grad is not None:
        n = grad.shape[0]
        apart, size = (grad - carried_grad).reshape(n, -1).abs().amax(1), carried_grad.reshape(n, -1).abs().amax(1)
        other = other | (apart > 1e-4 * size + 1e-6).any()
    return bool(other)


def kind_of(sampler: Any) -> int:
    """A number for the kind of a sampler, by which a state remembers whose its parts are."""
    return zlib.crc32(type(sampler).__name__.encode())


def claim_momentum(state: ChainState, sampler: Any) -> None:
    """Drop a momentum that another kind of sampler left: it may be of another temperature."""
    kind = kind_of(sampler)
    if int(state.extra.get("momentum_of", kind)) != kind:
        state.extra.pop("momentum", None)
    state.extra["momentum_of"] = torch.tensor(kind)


def started(x: Tensor, all_x: Tensor, seed: int | None, warmup: int, step: int, chain_offset: int,
            extra: dict[str, Tensor] | None = None) -> ChainState:  # fmt: skip
    """The state of chains that begin at x # (n, *event), in the form all_x that the sampler keeps them in."""
    if type(warmup) is not int or warmup < 0:
        raise ValueError(f"warmup must be an int of at least 0, got {warmup!r}")
    seed = fresh_seed() if seed is None else seed
    checks.counter(seed, step, chain_offset, None, x)
    return ChainState(all_x, seed, step, chain_offset=chain_offset, warmup_until=warmup, divergence_step=no_divergence(all_x),
                      extra={} if extra is None else extra)  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    """Equality by value, of tensors too: shape, dtype, device and every number."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.device == b.device
        return alike and torch.equal(a, b)
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        return all(map(_same, a, b))
    return bool(a == b)


def _hashable(value: Any) -> Any:
    """What equal values have in common, and can be hashed."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else type(value)


class Sampler:
    """`init` and `step` of every sampler, on its own `transition`; equality and hash of its fields by value."""

    has_replicas = False
    """Whether its state holds more than one state a chain."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return hash((type(self), *(_hashable(getattr(self, f.name)) for f in fields(self))))  # type: ignore[arg-type]

    def init(self, energy: Energy, x: Tensor, seed: int | None = None, *, warmup: int = 0, step: int = 0,
             chain_offset: int = 0) -> ChainState:  # fmt: skip
        """The state of chains that start at a copy of x # (n, *event); the first `warmup` steps adapt a sampler that can. `step`
        and `chain_offset` as in `sample`."""
        if isinstance(x, Tensor):
            x = x.detach().clone(memory_format=torch.contiguous_format)
        self.check_start(x)
        return started(x, x, seed, warmup, step, chain_offset)

    def check_start(self, x: Any) -> None:
        """Raises TypeError or ValueError for a start that this sampler cannot work on."""
        checks.state(x, "x0")

    def check_resumed(self, state: ChainState) -> None:
        """Raises ValueError for a state that this sampler cannot go on from."""
        if "labels" in state.extra:
            raise ValueError(
                f"the state holds replicas of a ReplicaExchange, {tuple(state.x.shape)}: go on with one, or start "
                f"{type(self).__name__} from x0=run.final"
            )

    def check_ages(self, first: int, last: int) -> None:
        """Raises ValueError where a schedule ends before a run from step `first` to before step `last` does."""
        check_schedules(self, ("step_size", "noise_std", "temperature"), first, last)

    def has_schedule(self) -> bool:
        """Whether a coefficient changes from step to step on the host."""
        return False

    def step(self, energy: Energy, state: ChainState, *,
             condition: Mapping[str, Any] | None = None) -> tuple[ChainState, StepInfo]:  # fmt: skip
        """One step, as a pure function: (next state, what the step saw); `condition` as in `sample`.

        The state carries energy and gradient from step to step: between steps that change the energy's parameters or the
        condition call `state.forget_energy()`.
        """
        self.check_resumed(state)
        state = state.clone()
        transition = self.transition(EnergyFunction(energy, condition), state, backend=None, guard=True, track=True, rng=None)
        transition.advance(1)
        return state, transition.info()

    def why_not_fused(self, x: Tensor) -> str:
        """Why native code cannot run whole chains of this sampler on float32 x; empty if its transition has a `chain_plan`."""
        return f"{type(self).__name__} has no whole-chain form"

    def why_not_graph(self) -> str:
        """Why a CUDA graph cannot replay steps of this sampler; empty if all that its transition reads lies on the device."""
        return f"the steps of {type(self).__name__} follow counters of the host, which a replay does not move"

    def transition(
        self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool, rng: Tensor | None
    ) -> Transition:
        """This sampler bound to an energy and a state that it advances in place."""
        raise NotImplementedError


class Transition:
    """A sampler bound to an energy and a state that it advances in place.

    `guard` looks for divergence, `track` keeps gradient norms, `rng` [seed, step] replaces the host's counters in a CUDA graph.
    """

    state: ChainState
    carries: frozenset[str] = frozenset()  # of what state.extra may hold about the present x, what the steps keep true

    def drop_stale(self) -> None:
        """Forget what an earlier sampler carried about its x and this one will not keep true."""
        for name in ("energy", "grad", "log_proposal"):
            if name in self.state.extra and name not in self.carries:
                del self.state.extra[name]

    def snapshot(self) -> Any:
        """The statistics so far, for `restore`: those of a run that is interrupted end where its last whole step ended."""

    def restore(self, snapshot: Any) -> None:
        """Back to the statistics of a snapshot."""

    def advance(self, num_steps: int) -> None:
        """num_steps steps."""
        raise NotImplementedError

    def restart(self) -> None:
        """Begin a chain anew at the present x: what is carried beside it is computed and drawn again, into the same memory."""
        raise NotImplementedError

    def replayed(self, num_steps: int) -> None:
        """A CUDA graph has taken num_steps steps: bring up to date what the host counts, beside state.step and state.age."""

    def looks_after_each_step(self) -> bool:
        """Whether whole chains in native code must stop after each step, for `chain_done` to look at the state."""
        return False

    def track_gradients(self) -> None:
        """Keep gradient norms from here on, where there are gradients; what `track` asks of those that always do."""

    def energy_now(self) -> Tensor:
        """E at the present state. (n,)"""
        raise NotImplementedError

    def info(self) -> StepInfo:
        """What the last step saw."""
        raise NotImplementedError

    def position(self) -> Tensor:
        """What is recorded of the present state: (n, *event)."""
        return self.state.x

    def hamiltonian_now(self) -> Tensor | None:
        """E / T plus kinetic energy at the present state, (n,) float64; None without a momentum."""
        return None

    def reset_stats(self) -> None:
        """Forget the statistics so far."""

    def grad_norm(self) -> Tensor | None:
        """Mean of |dE/dx| over the gradients since `reset_stats`. (n,)"""
        return None

    def renew(self) -> None:
        """Of a resumed chain: compute anew what it carries of the energy, if the energy is another one now."""

    def stats(self) -> dict[str, Any]:
        """Further fields of `RunStats`, since `reset_stats`."""
        return {}

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        """The next num_steps steps, which adapt nothing, as arguments of `ops.chain_`; of samplers without `why_not_fused`."""
        raise NotImplementedError

    def chain_done(self, plan: dict[str, Any], num_steps: int) -> None:
        """`ops.chain_` has taken the steps of a plan; state.step and state.age have not moved yet."""
        raise NotImplementedError

    def exchangeable(self) -> tuple[Tensor, Tensor | None]:
        """Energy (n,) and gradient (n, *event) at the present state, in the memory that the next step reads."""
        raise NotImplementedError

    def exchanged(self) -> None:
        """States have changed places, and what is `exchangeable` with them: bring up to date what else depends on them."""
