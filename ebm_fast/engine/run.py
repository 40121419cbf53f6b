"""`sample` and `run_`: K steps of a sampler under the strategy that fits."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops import checks
from ..ops.backend import wish
from ..ops.noise import fresh_seed
from . import fused, graph
from .compiled import CompiledEnergy
from .energy import Energy, EnergyFunction, check_energy
from .keep import Kept, Moments
from .loop import Loop, Transition
from .state import ChainState, Interrupted, Run, RunStats, StepInfo, no_divergence

STRATEGIES = ("auto", "fused", "step", "reference", "graph", "compiled")
POLICIES = ("freeze", "stop", "ignore")


class Sampler(Protocol):
    """A frozen set of hyper-parameters."""

    def init(self, energy: Energy, x: Tensor, seed: int | None = None, *, warmup: int = 0) -> ChainState: ...
    def has_schedule(self) -> bool: ...
    def step(self, energy: Energy, state: ChainState) -> tuple[ChainState, StepInfo]: ...
    def transition(
        self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool, rng: Tensor | None
    ) -> Transition: ...


def pick_strategy(strategy: str, backend: str | None, energy: Energy, sampler: Sampler, x: Tensor,
                  condition: Mapping[str, Any] | None,
                  learnt: Mapping[str, Tensor] | None = None) -> tuple[str, str | None, Any]:  # fmt: skip
    """(strategy, backend of its ops, the energy's descriptor where `fused`): `fused` where it can, `graph` for modules on CUDA,
    `step` otherwise; forced ones are honoured or refused. learnt: what an earlier warm-up left in the state."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    check_energy(energy)
    asked = wish(backend)
    if strategy == "fused" or (strategy == "auto" and hasattr(energy, "descriptor")):
        reason, descriptor = fused.plan(energy, sampler, x, condition, backend, learnt)
        if not reason and (strategy == "fused" or fused.pays(descriptor, x)):
            return "fused", backend, descriptor
        if strategy == "fused":
            raise ValueError(f"strategy='fused' cannot run this chain: {reason}")
    if strategy == "reference":
        if asked not in ("auto", "reference"):
            raise ValueError(f"strategy='reference' runs on backend 'reference', got backend={asked!r}")
        return "reference", "reference", None
    if strategy == "graph" and not x.is_cuda:
        raise ValueError(f"strategy='graph' needs x on a CUDA device, got {x.device}; use strategy='step'")
    if strategy == "graph" and graph.why_not(sampler):
        raise ValueError(f"strategy='graph' cannot run this chain: {graph.why_not(sampler)}; use strategy='step'")
    if strategy == "auto":
        capturable = x.is_cuda and isinstance(energy, torch.nn.Module) and asked != "reference" and not graph.why_not(sampler)
        strategy = "graph" if capturable and graph.worked_before(energy) else "step"
    return strategy, backend, None


def run_(
    energy: Energy,
    sampler: Sampler,
    x: Tensor,  # (n, *event)
    num_steps: int,
    *,
    seed: int,
    step: int = 0,
    chain_offset: int = 0,
    condition: Mapping[str, Any] | None = None,
    strategy: str = "auto",
    backend: str | None = None,
    grad_norm: bool = False,
) -> Tensor | None:
    """Advance x by num_steps steps in place, with no allocation per step of ours and no host synchronisation.

    The noise of step k has the counter `step + k`; divergence is not looked for. Returns the mean gradient norm along the
    path, (n,), if `grad_norm` and the sampler has gradients, else None. The engine under `langevin_` and the training objectives.
    """
    check_alone(sampler)
    checks.state(x, "x")
    num_steps = check_count(num_steps, "num_steps")
    checks.counter(seed, step, chain_offset, None, x)
    if step + num_steps >= 2**56:
        checks.counter(seed, step + num_steps, chain_offset, None, x)
    if not x.numel() or not num_steps:
        return x.new_zeros(x.shape[0]) if grad_norm else None
    if hasattr(sampler, "check_ages") and sampler.has_schedule():
        sampler.check_ages(0, num_steps)
    forced = strategy == "graph"
    strategy, backend, descriptor = pick_strategy(strategy, backend, energy, sampler, x, condition)
    state = ChainState(x, seed, step, chain_offset=chain_offset)
    if strategy == "graph":
        norm = graph.run(energy, sampler, state, num_steps, condition, backend, grad_norm, forced)
        if norm is not graph.FAILED:
            return norm
    transition = _bind(strategy, sampler, energy, condition, state, backend, descriptor, guard=False, track=grad_norm)
    if grad_norm and hasattr(transition, "track_gradients"):
        transition.track_gradients()
    transition.advance(num_steps)
    return transition.grad_norm() if grad_norm else None


def _bind(strategy: str, sampler: Sampler, energy: Energy, condition: Mapping[str, Any] | None, state: ChainState,
          backend: str | None, descriptor: Any, *, guard: bool, track: bool) -> Transition:  # fmt: skip
    function = (CompiledEnergy if strategy == "compiled" else EnergyFunction)(energy, condition)
    if strategy == "fused":
        return fused.transition(function, sampler, state, descriptor, backend=backend, guard=guard, track=track)
    return sampler.transition(function, state, backend=backend, guard=guard, track=track, rng=None)


def check_sampler(sampler: Any, name: str = "sampler") -> None:
    """Something with `init` and `transition`."""
    if not (hasattr(sampler, "init") and hasattr(sampler, "transition")) or isinstance(sampler, type):
        raise TypeError(
            f"{name} must be a sampler such as ebm_fast.Langevin(step_size=0.01), with init and transition as in "
            f"ebm_fast.samplers.Sampler, got {sampler!r}"
        )


def check_alone(sampler: Any, name: str = "sampler") -> None:
    """A sampler whose chains are x # (n, *event) alone, as in `run_` and the objectives: replicas are a matter of `sample`."""
    check_sampler(sampler, name)
    if getattr(sampler, "has_replicas", False):
        raise TypeError(
            f"{name}: expected one that moves states alone, such as Langevin, MALA or HMC, got {type(sampler).__name__}, whose "
            "replicas only ebm_fast.sample carries from step to step"
        )


def check_count(value: Any, name: str, low: int = 0) -> int:
    """An int of at least `low`, also one of NumPy's."""
    if type(value) is not int:
        if isinstance(value, (bool, Tensor)) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        value = operator.index(value)
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return value


def _progress(total: int, progress: bool | None) -> Any:
    """A tqdm bar with ETA: at once if asked for; by default on a terminal, once the run has taken two seconds."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        if progress:
            raise ImportError("progress=True needs tqdm: pip install 'ebm_fast[train]'") from None
        return None
    return tqdm(total=total, unit="step", delay=0 if progress else 2, dynamic_ncols=True, leave=bool(progress))


def _start(energy: Energy, sampler: Sampler, x0: Any, resume: Any, seed: int | None, chain_offset: int, step: int,
           generator: torch.Generator | None, on_divergence: str) -> ChainState:  # fmt: skip
    if resume is not None:
        if x0 is not None or seed is not None or step or chain_offset:
            raise ValueError("resume continues a chain with its own state and counters; leave x0, seed, step, chain_offset out")
        if not isinstance(resume, ChainState):
            raise TypeError(f"resume must be a ChainState (run.state), got {type(resume).__name__}")
        checks.state(resume.x, "resume.x")
        checks.counter(resume.seed, resume.step, resume.chain_offset, None, resume.x)
        sampler.check_resumed(resume) if hasattr(sampler, "check_resumed") else None
        return resume.clone()
    if x0 is None:
        raise ValueError("x0 must be given, a tensor of shape (n, *event), or resume=run.state")
    if isinstance(x0, Tensor):
        sampler.check_start(x0.detach().contiguous()) if hasattr(sampler, "check_start") else None
        x0 = x0.detach().clone(memory_format=torch.contiguous_format)
    checks.state(x0, "x0")
    seed = fresh_seed(generator) if seed is None else seed
    checks.counter(seed, step, chain_offset, None, x0)
    if on_divergence != "ignore" and not bool(torch.isfinite(x0).all()):
        raise ValueError("x0 holds NaN or infinite numbers")
    state = sampler.init(energy, x0, seed)
    state.step, state.chain_offset = step, chain_offset
    return state


def sample(
    energy: Energy,
    sampler: Sampler,
    x0: Tensor | None = None,  # (n, *event)
    *,
    num_steps: int,
    warmup: int = 0,
    thin: int = 1,
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    condition: Mapping[str, Any] | None = None,
    resume: ChainState | None = None,
    record: bool = True,
    record_energy: bool | None = None,
    moments: bool = False,
    on_divergence: str = "freeze",
    strategy: str = "auto",
    backend: str | None = None,
    generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> Run:
    """x_{t+1} ~ K(x_t, .) for warmup + num_steps steps of n chains; keeps every `thin`-th state after the warm-up.

    Args:
        energy: callable (n, *event) -> (n,), p(x) proportional to exp(-energy(x) / T).
        sampler: such as `ebm_fast.Langevin(step_size=0.01)`.
        x0: initial states (n, *event), floating point; not changed.
        num_steps: steps after the warm-up; num_steps // thin states are kept.
        warmup: steps that are discarded, in which a sampler with `adapt` adapts itself; it is frozen afterwards. A resumed run
            first finishes the warm-up that it was interrupted in; `warmup` may then be left out.
        seed: 64-bit seed; None draws one from torch's generator (or `generator`).
        step: index of the first step in the noise's counter.
        chain_offset: global index of x0[0]: chain i of a batch split over calls, processes or machines stays the same.
        condition: keyword tensors passed on to the energy, such as dict(y=labels).
        resume: `run.state` of an earlier run, in place of x0 and seed: continues that chain exactly.
        record: keep the samples; with False only final state and statistics, and memory does not grow with num_steps.
        record_energy: keep energy and Hamiltonian at each kept sample; None keeps them where samples are recorded.
        moments: keep streaming mean and variance of every step after the warm-up, also where nothing is recorded.
        on_divergence: what happens to a chain whose energy or gradient is not finite, or whose next state could leave the range
            of its dtype: "freeze" (it stays where it is, the others go on), "stop" (the run ends with the first step in which a
            chain diverges; those that a resumed run brings along do not count), "ignore" (nothing is looked for, NaN spreads).
        strategy: "auto", "fused" (the whole chain in native code, for energies with a descriptor), "step" (a loop over fused
            updates), "graph" (CUDA graph), "compiled" (energy and gradient by torch.compile, on request alone: the first call
            compiles for seconds) or "reference" (plain PyTorch).
        backend: see `ebm_fast.use_backend`.
        progress: True or False; None shows a bar on a terminal once the run has taken two seconds.

    Returns:
        Run with samples (num_kept, n, *event), final (n, *event), stats, state and strategy.

    Raises:
        TypeError, ValueError: a bad argument, or an energy of wrong shape or without a gradient.
        Interrupted: on Ctrl-C; a KeyboardInterrupt that carries the run up to a fifth of a second before.
    """
    check_sampler(sampler)
    num_steps, warmup = check_count(num_steps, "num_steps"), check_count(warmup, "warmup")
    thin = check_count(thin, "thin", 1)
    if on_divergence not in POLICIES:
        raise ValueError(f"on_divergence must be one of {', '.join(POLICIES)}, got {on_divergence!r}")
    state = _start(energy, sampler, x0, resume, seed, chain_offset, step, generator, on_divergence)
    warmup = _plan_warmup(state, warmup, resume is not None)
    if not warmup and resume is None and getattr(sampler, "adapt", None) is not None:
        warnings.warn("the sampler adapts itself during the warm-up, and warmup=0: nothing is adapted", UserWarning, stacklevel=2)
    checks.counter(state.seed, state.step + warmup + num_steps, state.chain_offset, None, state.x)
    if hasattr(sampler, "check_ages"):
        sampler.check_ages(state.age, state.age + warmup + num_steps)
    guard = on_divergence != "ignore"
    if state.divergence_step is None:
        state.divergence_step = no_divergence(state.x)
    name, backend, descriptor = pick_strategy(strategy, backend, energy, sampler, state.x, condition, state.extra)
    chunked = name == "graph" and strategy == "graph"
    name = "step" if name == "graph" and not chunked else name

    def bound(state: ChainState) -> Transition:
        if chunked:
            return graph.chunked(energy, sampler, state, condition, backend, guard, thin)
        return _bind(name, sampler, energy, condition, state, backend, descriptor, guard=guard, track=True)

    transition = bound(state)
    first_step, stale = state.step, _check_energies(transition, state, resume, on_divergence, warmup + num_steps)
    kept = Kept(transition, num_steps // thin, record, record if record_energy is None else record_energy)
    average = Moments(transition.position(), backend) if moments else None
    bar = _progress(warmup + num_steps, progress)
    loop = Loop(bound, transition, kept, average, thin=thin, steps_at_once=thin if chunked else 0, bar=bar,
                stop=on_divergence == "stop")  # fmt: skip

    def result() -> Run:
        at, transition, steps = loop.state, loop.transition, loop.done
        samples, energy, hamiltonian = kept.until(steps // thin)
        assert at.divergence_step is not None
        mean, variance = (None, None) if average is None else average.result()
        stats = RunStats(
            grad_norm=transition.grad_norm(), divergence_step=at.divergence_step.clone(), mean=mean, variance=variance,
            energy=energy, hamiltonian=hamiltonian, **transition.stats(),
        )  # fmt: skip
        return Run(samples, transition.position().clone(), stats, at.clone(), name, steps)

    try:
        if warmup:
            loop.warm_up(warmup)
        loop.record(num_steps)
    except KeyboardInterrupt:
        loop.fall_back()
        if stale and loop.state.step == first_step:
            loop.state.forget_energy()
        raise Interrupted(result()) from None
    finally:
        if bar is not None:
            bar.close()
    _warn(loop, num_steps, on_divergence)
    return result()


def _warn(loop: Loop, num_steps: int, on_divergence: str) -> None:
    """Of chains that diverged."""
    state = loop.state
    if loop.diverged_at is not None:
        warnings.warn(
            f"the run stopped after {loop.done} of {num_steps} steps: chains {_first(state)} diverged (on_divergence='stop')",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip
    elif on_divergence == "freeze" and bool(state.diverged.any()):
        warnings.warn(
            f"{int(state.diverged.sum())} of {state.x.shape[0]} chains left the range of finite numbers and were frozen: "
            f"chains {_first(state)}, at the steps in run.stats.divergence_step; try a smaller step size",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def _plan_warmup(state: ChainState, warmup: int, resumed: bool) -> int:
    """Steps of warm-up to take, entered into the state; a resumed state first finishes its own."""
    left = max(state.warmup_until - state.age, 0) if resumed else 0
    if left:
        if warmup not in (0, left):
            raise ValueError(
                f"resume was interrupted with {left} steps of its warm-up left, which the run finishes first; leave warmup out, "
                f"got warmup={warmup}"
            )
        return left
    if warmup:
        state.warmup_from, state.warmup_until = state.age, state.age + warmup
    return warmup


def _check_energies(transition: Transition, state: ChainState, resume: Any, on_divergence: str, num_steps: int) -> bool:
    """A sampler that compares energies cannot start where there is none; one that is resumed may find another energy. Whether
    what it carries is left as it is, since native code evaluates it at its first step."""
    if resume is not None:
        if num_steps and getattr(transition, "evaluates_anew", False):
            return True
        transition.renew()
    elif "energy" in state.extra and on_divergence != "ignore":
        bad = ~torch.isfinite(transition.energy_now())
        if bool(bad.any()):
            chains = _some(torch.nonzero(bad).flatten() + state.chain_offset)
            raise ValueError(f"energy is NaN or infinite at x0 of chains {chains}")
    return False


def _first(state: ChainState, most: int = 8) -> str:
    return _some(torch.nonzero(state.diverged).flatten() + state.chain_offset, most)


def _some(indices: Tensor, most: int = 8) -> str:
    chains = indices.tolist()
    return ", ".join(map(str, chains[:most])) + (", ..." if len(chains) > most else "")
