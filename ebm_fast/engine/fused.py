"""The strategy `fused`: whole chains in one native call, where the energy has a descriptor and the sampler a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops import user_energy
from ..ops.backend import why_not as why_not_backend
from ..ops.backend import wish
from ..ops.chain import chain_, chain_steps
from .energy import Energy, EnergyFunction
from .keep import Kept, Moments, Pace, first_guess
from .state import ChainState, StepInfo

# What a descriptor promises to be equal to: a subclass that redefines one of these without it means another energy.
_DEFINING = frozenset((
    "forward", "__call__", "energy_and_grad", "grad", "_energy", "_both", "_gradient", "_constants", "_arrange",
    "_arrange_slowly", "_act", "_rounded", "_plain", "_rows",
))  # fmt: skip
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _described(energy: Any) -> tuple[str, Any]:
    """(why an energy's descriptor cannot be used, empty if it can; the descriptor)."""
    if not callable(getattr(energy, "descriptor", None)):
        return f"the energy has no descriptor() for the native engine: {type(energy).__name__}", None
    for cls in type(energy).__mro__:
        names = vars(cls)
        if "descriptor" in names or "_pack" in names:
            break
        if not _DEFINING.isdisjoint(names):
            own = min(_DEFINING.intersection(names))
            return f"{type(energy).__name__} defines {own}() anew and not its descriptor", None
    if isinstance(energy, torch.nn.Module) and any(getattr(m, name) for m in energy.modules() for name in _HOOKS):
        return "the energy has hooks, which the native engine would not call", None
    patched = _DEFINING.intersection(getattr(energy, "__dict__", ()))
    if patched and "descriptor" not in vars(energy):
        return f"{min(patched)}() is defined anew on this instance, and its descriptor is not", None
    try:
        return "", energy.descriptor()
    except ValueError as error:
        return str(error), None


def why_not(energy: Energy, sampler: Any, x: Tensor, condition: Mapping[str, Any] | None, backend: str | None) -> str:
    """Why this chain cannot be run whole by native code; empty if it can."""
    return plan(energy, sampler, x, condition, backend)[0]


def plan(energy: Energy, sampler: Any, x: Tensor, condition: Mapping[str, Any] | None, backend: str | None,
         learnt: Mapping[str, Tensor] | None = None) -> tuple[str, Any]:  # fmt: skip
    """(why this chain cannot be run whole by native code, empty if it can; the energy's descriptor, read once for the run)."""
    reason, descriptor = _described(energy)
    if learnt is not None and "inverse_mass" in learnt and getattr(sampler, "adapt", None) is not None:
        reason = reason or "the state brings a dense mass matrix, which has no whole-chain form"
    return reason or _unfit(descriptor.kind, sampler, x, condition, backend), descriptor


def _unfit(kind: str, sampler: Any, x: Tensor, condition: Mapping[str, Any] | None, backend: str | None) -> str:
    if condition:
        return "the energy is called with a condition"
    if x.dtype != torch.float32:
        return f"the native engine computes in float32, x has dtype {str(x.dtype).removeprefix('torch.')}"
    unfit = getattr(sampler, "why_not_fused", None)
    if kind.startswith(user_energy.PREFIX):
        reason = user_energy.why_not(x.device, backend)
        return reason or (f"{type(sampler).__name__} has no whole-chain form" if unfit is None else unfit(x))
    asked, device = wish(backend), x.device.type
    if device not in ("cpu", "cuda") or asked not in ("auto", device):
        return f"there is no whole-chain code of backend {asked!r} on {device}"
    if reason := why_not_backend(device):
        return reason
    return f"{type(sampler).__name__} has no whole-chain form" if unfit is None else unfit(x)


_PRODUCTS = ("gaussian_dense", "logistic_regression", "mlp")  # energies that are products with matrices


def pays(descriptor: Any, x: Tensor) -> bool:
    """Whether whole chains are the faster way for a run like this, by measurement (docs/performance.md). On the CPU torch is
    ahead where an energy's many parameters are read for a few long chains, whose tile leaves most lanes and threads empty, and
    where a matrix outgrows the caches, which a tile of chains reads anew in each step."""
    if x.device.type != "cpu":
        return True
    numbers = descriptor.parameters.numel()
    if x.numel() < 1024 * x.shape[0]:
        return x.shape[0] >= 8 or numbers < 2**17 or descriptor.kind not in _PRODUCTS
    if descriptor.kind in _PRODUCTS:
        return x.shape[0] >= 4 and numbers <= 2**21
    return descriptor.kind != "mixture" or x.shape[0] > 1 or numbers <= 2**17


def transition(energy: EnergyFunction, sampler: Any, state: ChainState, descriptor: Any, *, backend: str | None, guard: bool,
               track: bool) -> Any:  # fmt: skip
    """The sampler's own transition, whose steps native code takes. Call it where `plan` has no objection."""
    steps = sampler.transition(energy, state, backend=backend, guard=guard, track=track, rng=None)
    if hasattr(steps, "inner"):  # replicas: the swaps stay, the steps between them are fused
        steps.inner = FusedTransition(steps.inner, descriptor, backend)
        return steps
    return FusedTransition(steps, descriptor, backend)


def _same(plan: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether what is bound to the second does what the first asks for: tensors are read anew at each step."""
    return plan.keys() == before.keys() and all(
        a is b or (not isinstance(a, Tensor) and type(a) is type(b) and a == b) for a, b in zip(plan.values(), before.values())
    )


class FusedTransition:
    """Advances the state of a sampler's step-by-step transition by `chain_`; all else is that transition's.

    The two share all memory: state, carried energies and gradients, counters. Steps that adapt are taken one by one.
    """

    def __init__(self, steps: Any, descriptor: Any, backend: str | None) -> None:
        self.steps, self.descriptor, self.backend = steps, descriptor, backend
        self._bound: Callable[[int, int], None]
        self._bound_to: dict[str, Any] = {}
        self.native = False  # whether energy and gradient that are carried were computed by native code

    @property
    def state(self) -> ChainState:
        return self.steps.state

    def advance(self, num_steps: int) -> None:
        state, adapter = self.state, getattr(self.steps, "adapter", None)
        if self.steps.looks_after_each_step():
            for _ in range(num_steps):
                self.run(1)
            return
        while num_steps:
            if adapter is None or not state.x.numel() or state.age >= state.warmup_until:
                self.run(num_steps)
                return
            if state.age < state.warmup_from:
                count = min(num_steps, state.warmup_from - state.age)
                self.run(count)
                num_steps -= count
                continue
            adapter.begin(state)
            if state.x.numel():
                self._step()
            adapter.update(self.steps, state.age - 1)
            if state.age == state.warmup_until:
                adapter.freeze(self.steps)
                self.steps.forget_coefficients()
            num_steps -= 1

    @property
    def evaluates_anew(self) -> bool:
        """Whether its first steps take no energy or gradient that is carried."""
        return not self.native

    def run(self, num_steps: int) -> None:
        """num_steps steps that adapt nothing, in calls of at most about a fifth of a second: the chain is the same. Nobody waits
        for a GPU."""
        pace = Pace(first_guess(self.state.x))
        while num_steps:
            count = min(num_steps, pace.steps, self._most())
            self._call(count)
            num_steps -= count
            if num_steps and not self.state.x.is_cuda:
                pace.took(count)

    def _most(self) -> int:
        """Steps of one call, that the schedules written out for it stay small."""
        return max(1, 2**20 // max(self.state.x.shape[0], 1)) if self.steps.sampler.has_schedule() else 2**62

    def _plan(self, num_steps: int) -> dict[str, Any]:
        plan: dict[str, Any] = self.steps.chain_plan(num_steps)
        if plan.get("carried") and not self.native:
            # Energy and gradient that torch computed for the start may depend on the batch in the last place.
            plan["carried"] = False
        self.native = True
        return plan

    def _call(self, num_steps: int, **recorded: Any) -> None:
        state = self.state
        if state.x.numel() and num_steps:
            plan = self._plan(num_steps)
            chain_(state.x, self.descriptor, steps=num_steps, seed=state.seed, step=state.step,
                   chain_offset=state.chain_offset, backend=self.backend, **plan, **recorded)  # fmt: skip
            self.steps.chain_done(plan, num_steps)
        state.step += num_steps
        state.age += num_steps

    def _step(self) -> None:
        """One step, with arguments that are checked when they are others than the step before had."""
        state, plan = self.state, self._plan(1)
        leapfrogs = plan.pop("leapfrogs", 1)
        if not _same(plan, self._bound_to):
            self._bound_to = plan
            self._bound = chain_steps(state.x, self.descriptor, seed=state.seed, chain_offset=state.chain_offset,
                                      backend=self.backend, **plan)  # fmt: skip
        self._bound(state.step, leapfrogs)
        self.steps.chain_done(plan, 1)
        state.step += 1
        state.age += 1

    def record(self, done: int, count: int, thin: int, kept: Kept, average: Moments | None) -> int:
        """At most `count` steps from the `done`-th on, in one call that adapts nothing: whole rows of `thin` steps each, or a
        part of one. Returns how many."""
        count = min(count, self._most(), count if average is None else average.room())
        row, begun = divmod(done, thin)
        if begun or count < thin or row >= kept.rows:
            count = min(count, thin - begun)
            rows, every = (1, count) if begun + count == thin else (0, count + 1)
        else:
            rows = min(count // thin, kept.rows - row)
            count, every = rows * thin, thin
        recorded: dict[str, Any] = kept.native(row, rows) if rows else {}
        if average is not None:
            recorded.update(mean=average.mean, squares=average.squares, count=average.count)
            average.count += count
        self._call(count, thin=every, **recorded)
        return count

    def position(self) -> Tensor:
        return self.steps.position()

    def energy_now(self) -> Tensor:
        return self.steps.energy_now()

    def exchangeable(self) -> tuple[Tensor, Tensor | None]:
        return self.steps.exchangeable()

    def exchanged(self) -> None:
        self.steps.exchanged()

    def hamiltonian_now(self) -> Tensor | None:
        return self.steps.hamiltonian_now()

    def info(self) -> StepInfo:
        return self.steps.info()

    def reset_stats(self) -> None:
        self.steps.reset_stats()

    def track_gradients(self) -> None:
        self.steps.track_gradients()

    def grad_norm(self) -> Tensor | None:
        return self.steps.grad_norm()

    def renew(self) -> None:
        self.steps.renew()

    def snapshot(self) -> Any:
        return self.steps.snapshot()

    def restore(self, snapshot: Any) -> None:
        self.steps.restore(snapshot)

    def stats(self) -> dict[str, Any]:
        return self.steps.stats()
