"""Strategy `graph`: K steps, energy and gradient included, captured in one CUDA graph and replayed.

Seed and step live in a device tensor that the graph itself advances, so that a replay continues the chain. Parameters that are
updated in place are seen; a change of shapes, of the sampler or of where a parameter lives captures anew.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..ops.noise import signed64
from .energy import Energy, EnergyFunction
from .state import ChainState

FAILED = object()
_PLAIN = (int, float, str, bool, Tensor)
_lock = threading.RLock()
_MOST_GRAPHS = 8  # per energy; each keeps its activations alive
_captured: weakref.WeakKeyDictionary[Any, OrderedDict[tuple, Captured]] = weakref.WeakKeyDictionary()
_uncapturable: weakref.WeakSet[Any] = weakref.WeakSet()


def worked_before(energy: Energy) -> bool:
    """False once a capture of this energy has failed."""
    return energy not in _uncapturable


@contextlib.contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """A capture must not read casts of weights that autocast cached earlier and frees at the end of its block."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class Recorder:
    """How the work of a transition is warmed up, captured and replayed on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._done = torch.cuda.Event()

    def warm(self, work: Callable[[], None]) -> None:
        """Run it on a side stream: libraries create their handles and workspaces there."""
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                work()
        finally:  # also where the energy raises: memory that it gave back is used again on this stream
            current.wait_stream(stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record it without running it; returns what replays it."""
        graph = torch.cuda.CUDAGraph()
        # A stream of its own, since torch's shared one belongs to the device that captured first; thread-local,
        # since a data loader's pinning thread may use CUDA meanwhile.
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.device(self.device), _no_autocast_cache(), torch.cuda.graph(
            graph, stream=stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay

    def begin(self) -> None:
        """Wait for the graph's last use: another stream may still run it."""
        torch.cuda.current_stream(self.device).wait_event(self._done)

    def end(self) -> None:
        self._done.record(torch.cuda.current_stream(self.device))


class GraphTransition:
    """A transition whose advances by `chunk` steps are replayed; others run eagerly.

    With `restarts` each of them begins a chain anew at state.x: what the sampler carries (energy, gradient, momentum) is computed
    inside the capture, from the x, seed and step that it finds there.
    """

    def __init__(self, inner: Any, chunk: int, restarts: bool = False) -> None:
        self.inner, self.chunk, self.restarts = inner, chunk, restarts
        self.state: ChainState = inner.state
        self.reset_stats, self.grad_norm, self.energy_now = inner.reset_stats, inner.grad_norm, inner.energy_now
        self.position, self.hamiltonian_now, self.stats = inner.position, inner.hamiltonian_now, inner.stats
        self.renew, self.snapshot, self.restore = inner.renew, inner.snapshot, inner.restore
        self.track_gradients = inner.track_gradients
        self.recorder = Recorder(self.state.x.device)
        self._replay: Callable[[], None] | None = None
        self.warm = False

    def _work(self) -> None:
        if self.restarts:
            self.inner.restart()
        self.inner.advance(self.chunk)

    def advance(self, num_steps: int) -> None:
        if num_steps != self.chunk or self.state.adapting:
            self.inner.advance(num_steps)
        elif not self.warm:
            self.recorder.warm(self._work)
            self.warm = True
        else:
            if self._replay is None:
                self._replay = self.recorder.capture(self._work)  # recorded, not run; the host's counters move as if it had
            else:
                self.state.step += num_steps
                self.state.age += num_steps
                self.inner.replayed(num_steps)
            self._replay()


class Captured:
    """The static tensors of one graph for `run_`: x, the condition, and [seed, step]."""

    def __init__(self, energy: Energy, sampler: Any, x: Tensor, num_steps: int, condition: Mapping[str, Any], backend: str | None,
                 track: bool) -> None:  # fmt: skip
        self.x = x.clone()
        self.condition = {k: v.clone() if isinstance(v, Tensor) else v for k, v in condition.items()}
        self.rng = torch.zeros(2, dtype=torch.int64, device=x.device)
        self.state = ChainState(self.x, 0)
        inner = sampler.transition(
            EnergyFunction(_unowned(energy), self.condition), self.state, backend=backend, guard=False, track=track, rng=self.rng
        )
        _check_counters(inner, sampler, self.rng)
        if track:
            inner.track_gradients()
        self.transition = GraphTransition(inner, num_steps, restarts=True)

    def run(self, state: ChainState, num_steps: int, condition: Mapping[str, Any], track: bool) -> Tensor | None:
        self.transition.recorder.begin()
        self.x.copy_(state.x)
        for name, value in condition.items():
            if isinstance(value, Tensor):
                self.condition[name].copy_(value)
        self.rng[0].fill_(signed64(state.seed))
        self.rng[1].fill_(state.step)
        self.state.age = 0
        self.state.chain_offset = state.chain_offset
        self.transition.reset_stats()
        self.transition.advance(num_steps)
        state.x.copy_(self.x)
        norm = self.transition.grad_norm() if track else None
        norm = None if norm is None else norm.clone()
        self.transition.recorder.end()
        return norm


def why_not(sampler: Any) -> str:
    """Why the steps of a sampler cannot be replayed; empty if they can."""
    reason = getattr(sampler, "why_not_graph", None)
    return f"{type(sampler).__name__} does not say whether its steps can be replayed" if reason is None else reason()


def _check_counters(inner: Any, sampler: Any, rng: Tensor) -> None:
    """A transition that reads the host's counters would draw the same numbers in every replay."""
    if getattr(inner, "rng", None) is not rng:
        raise TypeError(
            f"strategy='graph' needs a transition that draws from rng, [seed, step]; that of {type(sampler).__name__} does not"
        )


def _unowned(energy: Energy) -> Energy:
    """The energy through a weak reference: a cached graph must not keep alive the module it is cached under."""
    reference = weakref.ref(energy)

    def unowned(x: Tensor, /, **condition: Any) -> Tensor:  # a condition may be named x
        return reference()(x, **condition)  # type: ignore[misc]

    if hasattr(energy, "energy_and_grad"):
        unowned.energy_and_grad = lambda x, /, **condition: reference().energy_and_grad(x, **condition)  # type: ignore
    return unowned


def _fingerprint(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", value.data_ptr(), tuple(value.shape), value.dtype, value.device)
    return value if isinstance(value, (int, float, str, bool, tuple, type(None))) else id(value)


def _settings(module: torch.nn.Module | None) -> tuple:
    """What else decides what a module computes: its submodules' modes, and their numbers, strings and loose tensors."""
    if module is None:
        return ()
    return tuple(
        (part.training, tuple((k, _fingerprint(v)) for k, v in vars(part).items() if isinstance(v, _PLAIN)))
        for part in module.modules()
    )


def _key(energy: Energy, sampler: Any, state: ChainState, num_steps: int, condition: Mapping[str, Any], backend: str | None,
         track: bool) -> tuple:  # fmt: skip
    module = energy if isinstance(energy, torch.nn.Module) else None
    tensors = [] if module is None else [*module.parameters(), *module.buffers()]
    return (
        tuple(state.x.shape), state.x.dtype, state.x.device, num_steps, backend, track, state.chain_offset,
        type(sampler), tuple(_fingerprint(getattr(sampler, f.name)) for f in fields(sampler)),
        tuple((k, (v.shape, v.dtype) if isinstance(v, Tensor) else _fingerprint(v)) for k, v in sorted(condition.items())),
        tuple(t.data_ptr() for t in tensors), _settings(module),
        torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"),
    )  # fmt: skip


def run(energy: Energy, sampler: Any, state: ChainState, num_steps: int, condition: Mapping[str, Any] | None,
        backend: str | None, track: bool, forced: bool) -> Any:  # fmt: skip
    """num_steps steps on state.x by a cached graph; FAILED (after one warning) where capture fails and was not forced."""
    try:
        weakref.ref(energy), hash(energy)
    except TypeError:
        raise TypeError(
            f"strategy='graph' needs an energy that can be hashed and weakly referenced, such as a module or a function, got "
            f"{type(energy).__name__}; use strategy='step'"
        ) from None
    condition = dict(condition or {})
    with _lock:
        return _run(energy, sampler, state, num_steps, condition, backend, track, forced)


def _run(energy: Energy, sampler: Any, state: ChainState, num_steps: int, condition: dict[str, Any], backend: str | None,
         track: bool, forced: bool) -> Any:  # fmt: skip
    key = _key(energy, sampler, state, num_steps, condition, backend, track)
    graphs = _captured.setdefault(energy, OrderedDict())
    captured = graphs.get(key)
    try:
        if captured is None:
            captured = graphs[key] = Captured(energy, sampler, state.x, num_steps, condition, backend, track)
            while len(graphs) > _MOST_GRAPHS:
                graphs.popitem(last=False)
        graphs.move_to_end(key)
        return captured.run(state, num_steps, condition, track)
    except RuntimeError as error:  # state.x is as it was: the work is done on another tensor
        graphs.pop(key, None)
        if captured is None or not captured.transition.warm:
            raise  # an error of the energy's own, in steps that were not captured
        if forced:
            raise RuntimeError(f"strategy='graph' could not capture this energy ({error}); use strategy='step'") from error
        _uncapturable.add(energy)
        warnings.warn(
            f"this energy cannot be captured in a CUDA graph, so its chains run step by step: {error}",
            RuntimeWarning, stacklevel=4,
        )
        return FAILED


def chunked(energy: Energy, sampler: Any, state: ChainState, condition: Mapping[str, Any] | None, backend: str | None,
            guard: bool, chunk: int) -> GraphTransition:  # fmt: skip
    """A transition for `sample` that replays chunks of `chunk` steps on the run's own state."""
    if sampler.has_schedule():
        raise ValueError("strategy='graph' replays the same steps and cannot follow a schedule; use strategy='step'")
    rng = torch.tensor([signed64(state.seed), state.step], dtype=torch.int64, device=state.x.device)
    inner = sampler.transition(
        EnergyFunction(energy, condition), state, backend=backend, guard=guard, track=True, rng=rng
    )
    _check_counters(inner, sampler, rng)
    return GraphTransition(inner, chunk)
