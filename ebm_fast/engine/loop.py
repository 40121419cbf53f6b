"""The loop of a run: chunks that fit the clock, rows kept on the way, copies to fall back on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .fused import FusedTransition
from .keep import Kept, Moments, Pace, first_guess
from .state import ChainState


class Transition(Protocol):
    """A sampler bound to an energy and a state that it advances in place."""

    state: ChainState

    def advance(self, num_steps: int) -> None: ...
    def position(self) -> Tensor: ...
    def energy_now(self) -> Tensor: ...
    def hamiltonian_now(self) -> Tensor | None: ...
    def reset_stats(self) -> None: ...
    def grad_norm(self) -> Tensor | None: ...
    def renew(self) -> None: ...
    def track_gradients(self) -> None: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def stats(self) -> dict[str, Any]: ...


class Loop:
    """Warm-up and recorded steps of one run.

    A chunk of steps that is interrupted leaves x half-way, so the run then ends at the last copy of a whole one. A run that is to
    stop at a divergence goes back to that copy too, and takes its steps again up to the one that diverged: where it ends does
    not depend on the chunks, and no step waits to be looked at.

    Args:
        make: binds sampler and energy to a state.
        steps_at_once: steps of a chunk; 0 for as many as the clock allows.
        bar: a progress bar with `update`, or None.
        stop: end the run at the first step in which a chain diverges.
    """

    def __init__(self, make: Callable[[ChainState], Transition], transition: Transition, kept: Kept, average: Moments | None, *,
                 thin: int, steps_at_once: int, bar: Any, stop: bool) -> None:  # fmt: skip
        self.make, self.transition, self.kept, self.average = make, transition, kept, average
        self.thin, self.bar, self.stop = thin, bar, stop
        self.diverged_at: int | None = None
        """Counter of the step at which the run stopped."""
        self._steps_at_once = steps_at_once
        native = isinstance(transition, FusedTransition)
        self._pace = Pace(first_guess(self.state.x) if native else 1)
        # At the end of each chunk: the clock would see nothing but launches, and an interrupt come after all of them.
        self._waits = native and self.state.x.is_cuda
        self._begin = self._recorded_from = self.state.step
        # Two copies take turns, that an interrupt while one is written finds the other whole.
        self._whole: tuple[ChainState, Any] = self.state.clone(), self._kept_stats()
        self._spare: ChainState | None = None  # short runs never copy again

    @property
    def state(self) -> ChainState:
        return self.transition.state

    @property
    def done(self) -> int:
        """Steps taken after the warm-up."""
        return max(self.state.step - self._recorded_from, 0)

    def warm_up(self, num_steps: int) -> None:
        self._recorded_from = self.state.step + num_steps
        self._take(self._recorded_from, lambda left: self.transition.advance(self._chunk(left)))
        self.transition.reset_stats()
        self._copy()

    def record(self, num_steps: int) -> None:
        if self.diverged_at is None:
            self._take(self._recorded_from + num_steps, self._record)

    def fall_back(self) -> None:
        """To state and statistics of the last whole chunk."""
        self.state.become(self._whole[0])
        self._restore_stats()

    def _restore_stats(self) -> None:
        counted, averaged = self._whole[1]
        self.transition.restore(counted)
        if self.average is not None:
            self.average.restore(averaged)

    def _take(self, end: int, advance: Callable[[int], None]) -> None:
        """Steps up to the counter `end`, or up to the first in which a chain diverges."""
        while (left := end - self.state.step) > 0:
            before = self.state.step
            advance(left)
            if self._waits:
                torch.cuda.current_stream(self.state.x.device).synchronize()
            self._pace.took(self.state.step - before)
            if self.bar is not None:
                self.bar.update(self.state.step - before)
            at = self._divergence()
            if at is not None:
                self.diverged_at, end = at, at + 1
                self._go_back(end)
            elif self._pace.due():
                self._copy()

    def _chunk(self, left: int) -> int:
        return min(left, self._steps_at_once or self._pace.steps)

    def _record(self, left: int) -> None:
        """One chunk, at most up to the end of a row where rows are written from here."""
        transition, average, done = self.transition, self.average, self.done
        count = self._chunk(left)
        if isinstance(transition, FusedTransition):
            transition.record(done, count, self.thin, self.kept, average)
            return
        count = min(count, self.thin - done % self.thin)
        if average is None:
            transition.advance(count)
        else:
            for _ in range(count):
                transition.advance(1)
                average.update(transition.position())
        if (done + count) % self.thin == 0:
            self.kept.row(done // self.thin)

    def _divergence(self) -> int | None:
        """Counter of the first step of this run in which a chain diverged, where that ends it."""
        at = self.state.extra.get("replica_divergence", self.state.divergence_step)  # of replicas, each one's own
        if not self.stop or at is None:
            return None
        new = at[at >= self._begin]
        return int(new.min()) if new.numel() else None

    def _go_back(self, end: int) -> None:
        """To the last copy before the counter `end`, unless the chain is just there."""
        if self.state.step <= end:
            return
        if self.bar is not None:
            self.bar.update(self._whole[0].step - self.state.step)
        self.transition = self.kept.transition = self.make(self._whole[0].clone())
        self._restore_stats()

    def _kept_stats(self) -> Any:
        return self.transition.snapshot(), None if self.average is None else self.average.snapshot()

    def _copy(self) -> None:
        copy = self.state.clone() if self._spare is None else self._spare.become(self.state)
        self._whole, self._spare = (copy, self._kept_stats()), self._whole[0]
