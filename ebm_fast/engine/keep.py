"""What a run keeps of its chain on the way, and how often it looks at the clock."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ..ops.moments import moments_

TRUSTED = 0.005  # seconds that a chunk must have lasted for the next to be scaled to INTERVAL at once
INTERVAL = 0.2  # seconds between two looks at the keyboard, and between two copies of the state for an interrupted run


class Pace:
    """How many steps to take at once, so that they last about INTERVAL; `due` once that much time has passed."""

    def __init__(self, steps: int = 1) -> None:
        self.steps = max(steps, 1)
        self._looked = self._copied = time.perf_counter()

    def took(self, count: int) -> None:
        """`count` steps were taken since the last look."""
        now = time.perf_counter()
        lasted = now - self._looked
        within = int(INTERVAL * count / max(lasted, 1e-6))
        most = 2 * max(self.steps, count) if lasted < TRUSTED else within
        self.steps, self._looked = max(1, min(most, within)), now

    def due(self) -> bool:
        """Whether INTERVAL has passed since this last said so."""
        if self._looked - self._copied < INTERVAL:
            return False
        self._copied = self._looked
        return True


def first_guess(x: Tensor) -> int:
    """Steps of native code that certainly last less than INTERVAL. x # (n, *event)

    Of a GPU more, since a launch costs as much as a hundred steps, but not more than a slow energy takes in INTERVAL.
    """
    most = min(2**28 // max(x.numel(), 1), 1000) if x.is_cuda else 2**16 // max(x.numel(), 1)
    return max(1, most)


class Kept:
    """The recorded rows: samples # (rows, n, *event), energies and Hamiltonians # (rows, n)."""

    def __init__(self, transition: Any, rows: int, samples: bool, energies: bool) -> None:
        self.transition, self.rows, self.wants_energies = transition, rows, energies
        at = transition.position()
        self.samples: Tensor | None = at.new_empty((rows, *at.shape)) if samples else None
        self.energies: Tensor | None = None
        self.hamiltonians: Tensor | None = None

    def row(self, row: int) -> None:
        """Record the present state."""
        transition = self.transition
        if self.samples is not None:
            self.samples[row].copy_(transition.position())
        if self.wants_energies:
            now = transition.energy_now()
            self.energies = now.new_empty((self.rows, now.shape[0])) if self.energies is None else self.energies
            self.energies[row].copy_(now)
            total = transition.hamiltonian_now()
            if total is not None:
                self.hamiltonians = total.new_empty(self.energies.shape) if self.hamiltonians is None else self.hamiltonians
                self.hamiltonians[row].copy_(total)

    def native(self, first: int, rows: int) -> dict[str, Tensor]:
        """Where `ops.chain_` is to write `rows` rows from row `first` on."""
        if self.wants_energies and self.energies is None:
            x = self.transition.state.x
            self.energies = x.new_empty((self.rows, x.shape[0]))
            if self.transition.hamiltonian_now() is not None:
                self.hamiltonians = torch.empty_like(self.energies, dtype=torch.float64)
        whole = {"samples": self.samples, "energies": self.energies, "hamiltonians": self.hamiltonians}
        return {name: t[first : first + rows] for name, t in whole.items() if t is not None}

    def until(self, rows: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The first `rows` rows of samples, energies, Hamiltonians."""
        if self.wants_energies and self.energies is None:
            at = self.transition.position()
            self.energies = at.new_empty((0, at.shape[0]))
        samples, energies, hamiltonians = (
            None if t is None else t[:rows] for t in (self.samples, self.energies, self.hamiltonians)
        )
        return samples, energies, hamiltonians


class Moments:
    """Streaming mean and variance of what a transition records: over BLOCK steps in the states' dtype, and over the blocks in
    float64. Sums in float32 alone would lose a hundredth of the variance in ten million steps.

    Source of the merge: Chan, Golub and LeVeque 1979.
    """

    BLOCK = 2**14

    def __init__(self, x: Tensor, backend: str | None) -> None:
        x = x.float() if x.itemsize < 4 else x
        self.mean, self.squares = torch.zeros_like(x), torch.zeros_like(x)  # of the block
        self.count = 0
        self._total_mean, self._total_squares = torch.zeros_like(x, dtype=torch.float64), torch.zeros_like(x, dtype=torch.float64)
        self._total, self._backend = 0, backend

    def room(self) -> int:
        """Steps until the block is full; an empty one is begun where it is."""
        if self.count >= self.BLOCK:
            self._merge()
        return self.BLOCK - self.count

    def _merge(self) -> None:
        both = self._total + self.count
        off = self.mean - self._total_mean
        self._total_mean += off * (self.count / both)
        self._total_squares += self.squares + off.square_() * (self._total * self.count / both)
        self._total, self.count = both, 0
        self.mean.zero_(), self.squares.zero_()

    def update(self, x: Tensor) -> None:
        self.room()
        self.count += 1
        moments_(x.to(self.mean.dtype).contiguous(), self.mean, self.squares, count=self.count, backend=self._backend)

    def snapshot(self) -> tuple[Any, ...]:
        tensors = (self.mean, self.squares, self._total_mean, self._total_squares)
        return *(t.clone() for t in tensors), self.count, self._total

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        for mine, kept in zip((self.mean, self.squares, self._total_mean, self._total_squares), snapshot):
            mine.copy_(kept)
        self.count, self._total = snapshot[4:]

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of all steps so far, in the states' dtype."""
        if self.count:
            self._merge()
        dtype = self.mean.dtype
        return self._total_mean.to(dtype), (self._total_squares / max(self._total - 1, 1)).to(dtype)
