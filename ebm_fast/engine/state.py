"""What a chain carries from step to step, what a step reports, and what a run returns."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

_TENSORS = ("x", "velocity", "divergence_step")


@dataclass
class ChainState:
    """All that a chain needs to go on exactly: the state and the counters of its random numbers.

    Attributes:
        x: (n, *event).
        seed: 64-bit key of the noise.
        step: index of the next step in the noise's counter.
        age: number of steps since `init`, the index into schedules.
        chain_offset: global index of chain 0.
        velocity: (n, *event), the heavy ball's state, if the sampler has one.
        divergence_step: (n,) int64, step at which a chain diverged and was frozen, -1 if none.
    """

    x: Tensor
    seed: int
    step: int = 0
    age: int = 0
    chain_offset: int = 0
    velocity: Tensor | None = None
    divergence_step: Tensor | None = None

    @property
    def diverged(self) -> Tensor:
        """(n,) bool, chains that diverged; of a state whose run looks for divergence."""
        assert self.divergence_step is not None
        return self.divergence_step >= 0

    def clone(self) -> ChainState:
        """An independent copy."""
        tensors = {k: t.clone() for k in _TENSORS if (t := getattr(self, k)) is not None}
        return replace(self, **tensors)

    def become(self, other: ChainState) -> ChainState:
        """Take over other's values, into the memory of this copy of it; returns self."""
        for name in _TENSORS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None or theirs is None:
                setattr(self, name, None if theirs is None else theirs.clone())
            else:
                mine.copy_(theirs)
        self.seed, self.step, self.age, self.chain_offset = other.seed, other.step, other.age, other.chain_offset
        return self

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, ready for `ebm_fast.training.save_checkpoint`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> ChainState:
        """The state that `state_dict` described; ValueError if a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if set(state) != names:
            raise ValueError(f"a chain state has the fields {sorted(names)}, got {sorted(state)}")
        return cls(**state)


@dataclass(frozen=True)
class StepInfo:
    """What one step saw: energy and gradient norm where the gradient was taken, and which chains are frozen. All # (n,)"""

    energy: Tensor
    grad_norm: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class RunStats:
    """Per-chain statistics of a run, on the chains' device.

    Attributes:
        energy: (num_kept, n), energy of each kept sample; None if not recorded.
        grad_norm: (n,), mean of |dE/dx| over the gradients taken after warm-up (the gradient strength along the path).
        divergence_step: (n,) int64, step at which a chain became non-finite or was about to, -1 if it never did.
        acceptance: (n,), mean acceptance probability; None for samplers that accept every step.
    """

    energy: Tensor | None
    grad_norm: Tensor
    divergence_step: Tensor
    acceptance: Tensor | None = None

    @property
    def diverged(self) -> Tensor:
        """(n,) bool, chains that diverged."""
        return self.divergence_step >= 0


@dataclass(frozen=True)
class Run:
    """Result of `ebm_fast.sample`.

    Attributes:
        samples: (num_kept, n, *event), or None with record=False.
        final: (n, *event), the last state.
        stats: per-chain statistics.
        state: the chain's state; `sample(energy, sampler, resume=run.state)` goes on exactly from here.
        strategy: which strategy ran: "step", "graph" or "reference".
        num_steps: steps taken after warm-up (fewer than asked if the run stopped at a divergence).
    """

    samples: Tensor | None
    final: Tensor
    stats: RunStats
    state: ChainState
    strategy: str
    num_steps: int


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `.run` holds what was done so far, exactly resumable."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"interrupted after {run.num_steps} steps; the partial run is in .run")
        self.run = run


def no_divergence(x: Tensor) -> Tensor:
    """(n,) of -1."""
    return torch.full(x.shape[:1], -1, dtype=torch.int64, device=x.device)
