"""What a chain carries from step to step, what a step reports, and what a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class ChainState:
    """All that a chain needs to go on exactly: the state and the counters of its random numbers.

    Attributes:
        x: (n, *event); with replicas (n, r, *event).
        seed: 64-bit key of the noise.
        step: index of the next step in the noise's counter.
        age: number of steps since `init`, the index into schedules.
        chain_offset: global index of chain 0.
        warmup_from, warmup_until: ages between which the sampler adapts itself.
        divergence_step: (n,) int64, step at which a chain diverged and was frozen, -1 if none.
        extra: what else the sampler carries, by name: "energy", "grad", "velocity", "momentum", "step_size", "scale", ...
    """

    x: Tensor
    seed: int
    step: int = 0
    age: int = 0
    chain_offset: int = 0
    warmup_from: int = 0
    warmup_until: int = 0
    divergence_step: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def diverged(self) -> Tensor:
        """(n,) bool, chains that diverged; of a state whose run looks for divergence."""
        assert self.divergence_step is not None
        return self.divergence_step >= 0

    @property
    def adapting(self) -> bool:
        """Whether the next step belongs to the warm-up."""
        return self.warmup_from <= self.age < self.warmup_until

    def clone(self) -> ChainState:
        """An independent copy."""
        divergence = None if self.divergence_step is None else self.divergence_step.clone()
        return replace(
            self, x=self.x.clone(), divergence_step=divergence, extra={name: t.clone() for name, t in self.extra.items()}
        )

    def become(self, other: ChainState) -> ChainState:
        """Take over other's values, into the memory of this copy of it; returns self."""
        self.x.copy_(other.x)
        if other.divergence_step is None or self.divergence_step is None:
            self.divergence_step = None if other.divergence_step is None else other.divergence_step.clone()
        else:
            self.divergence_step.copy_(other.divergence_step)
        for name in self.extra.keys() - other.extra.keys():
            del self.extra[name]
        for name, t in other.extra.items():
            if name in self.extra and self.extra[name].shape == t.shape:
                self.extra[name].copy_(t)
            else:
                self.extra[name] = t.clone()
        for name in ("seed", "step", "age", "chain_offset", "warmup_from", "warmup_until"):
            setattr(self, name, getattr(other, name))
        return self

    def forget_energy(self) -> ChainState:
        """Drop the energy and gradient that samplers carry, after the energy itself has changed (and log q, whose model may be
        learnt too); returns self."""
        for name in ("energy", "grad", "log_proposal"):
            self.extra.pop(name, None)
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
    """What one step saw. All # (n,)

    Attributes:
        energy: E at the state that the step ended in, for samplers that accept and reject; else where the gradient was taken.
        grad_norm: |dE/dx| where the gradient was taken; None for samplers that take none or do not keep it.
        diverged: chains that are frozen (samplers without accept and reject) or whose proposal diverged.
        acceptance: acceptance probability of the proposal; None where every step is accepted.
    """

    energy: Tensor
    grad_norm: Tensor | None
    diverged: Tensor
    acceptance: Tensor | None = None


@dataclass(frozen=True)
class RunStats:
    """Per-chain statistics of a run after its warm-up, on the chains' device.

    Attributes:
        energy: (num_kept, n), energy of each kept sample; None if not recorded.
        grad_norm: (n,), mean of |dE/dx| over the gradients taken (the gradient strength along the path); None for samplers that
            accept and reject.
        divergence_step: (n,) int64, step at which a chain was frozen because it was not finite or about to leave the range of
            its dtype, -1 if it never was. Samplers that accept and reject freeze none: they reject and count.
        acceptance: (n,), mean acceptance probability; None for samplers that accept every step.
        divergences: (n,) int64, proposals that were not finite or whose energy error exceeded `max_error`; None likewise.
        hamiltonian: (num_kept, n) float64, E / T plus kinetic energy at each kept sample, for E-BFMI; None without a momentum.
            (Of underdamped dynamics, whose momenta have variance T: E plus kinetic energy.)
        mean, variance: (n, *event), streaming moments over every step; None unless asked for by `moments=True`.
        swap_acceptance: (n, r - 1), of the pairs of neighbouring temperatures; None without replicas.
        adapted: what the warm-up settled on: "step_size", "scale", "inverse_mass", "trajectory_length"; empty without adaptation.
    """

    energy: Tensor | None
    grad_norm: Tensor | None
    divergence_step: Tensor
    acceptance: Tensor | None = None
    divergences: Tensor | None = None
    hamiltonian: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    swap_acceptance: Tensor | None = None
    adapted: dict[str, Tensor] = field(default_factory=dict)

    @property
    def diverged(self) -> Tensor:
        """(n,) bool, chains that were frozen."""
        return self.divergence_step >= 0


@dataclass(frozen=True)
class Run:
    """Result of `ebm_fast.sample`.

    Attributes:
        samples: (num_kept, n, *event), or None with record=False.
        final: (n, *event), the last state.
        stats: per-chain statistics.
        state: the chain's state; `sample(energy, sampler, resume=run.state)` goes on exactly from here.
        strategy: which strategy ran: "fused", "step", "graph", "compiled" or "reference".
        num_steps: steps taken after warm-up (fewer than asked if the run stopped at a divergence).
    """

    samples: Tensor | None
    final: Tensor
    stats: RunStats
    state: ChainState
    strategy: str
    num_steps: int

    def summary(self) -> Any:
        """Mean, sd, quantiles, MCSE, bulk and tail ESS and R-hat of every element, as a table: `diagnostics.summary`."""
        from ..diagnostics import summary

        return summary(self)

    def to_numpy(self) -> dict[str, Any]:
        """Samples, final state and statistics as NumPy arrays by name. See `diagnostics.to_numpy`."""
        from ..diagnostics import to_numpy

        return to_numpy(self)

    def to_arviz(self) -> Any:
        """The run as ArviZ's InferenceData (DataTree from ArviZ 1.0 on). See `diagnostics.to_arviz`."""
        from ..diagnostics import to_arviz

        return to_arviz(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `.run` holds what was done so far, exactly resumable."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"interrupted after {run.num_steps} steps; the partial run is in .run")
        self.run = run


def no_divergence(x: Tensor) -> Tensor:
    """(n,) of -1."""
    return torch.full(x.shape[:1], -1, dtype=torch.int64, device=x.device)
