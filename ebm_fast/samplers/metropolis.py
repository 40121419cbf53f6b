"""Metropolis-Hastings: random walk, any proposal, independence sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.energy import EnergyFunction
from ..engine.state import ChainState
from ..ops.metropolis import metropolis_, metropolis_steps
from ..ops.noise import normal_, uniform_
from ..ops.proposal import propose_steps
from .accept import AcceptReject, AcceptRejectSampler
from .adaptation import Adaptation
from .base import Transition, changed, check_event, check_positive

Coefficient = float | Tensor | Sequence[float] | Callable[[int], float | Tensor]


@dataclass(frozen=True, eq=False)
class RandomWalkMetropolis(AcceptRejectSampler):
    """x' = x + tau sigma z;  accepted with probability min(1, exp((E(x) - E(x')) / T)).

    Needs no gradient. For Gaussian-like targets of d dimensions tau = 2.4 / sqrt(d) in units of the target's spread is best, with
    an acceptance of 0.234 (0.44 for d = 1).

    Args:
        step_size: tau >= 0: a number, a tensor () or (n,), a tuple (one per step) or a callable from the index of the step.
        temperature: T >= 0 likewise.
        scale: sigma (*event), spreads of the elements; None for 1.
        adapt: `Adaptation` of step size and scale during the warm-up.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Metropolis et al. 1953; Roberts, Gelman and Gilks 1997.
    """

    step_size: Coefficient
    temperature: Coefficient = 1.0
    scale: Tensor | None = None
    adapt: Adaptation | None = None
    target_accept = 0.234

    def __post_init__(self) -> None:
        self._check("step_size")
        check_positive(self.scale, "scale")

    def why_not_fused(self, x: Tensor) -> str:
        return ""

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return RandomWalkTransition(self, energy, state, backend=backend, rng=rng)


class RandomWalkTransition(AcceptReject):
    def __init__(self, sampler: RandomWalkMetropolis, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 rng: Tensor | None) -> None:  # fmt: skip
        super().__init__(sampler, energy, state, backend=backend, rng=rng)
        check_event(sampler.scale, "scale", state.x)
        self._given = None if sampler.scale is None else sampler.scale.detach().to(state.x.device, state.x.dtype).contiguous()

    def derive(self, step_size: Any, beta: Any) -> dict[str, Any]:
        return {"drift": step_size, "beta": beta}

    def chain_plan(self, num_steps: int) -> dict[str, Any]:
        return {
            "transition": "random_walk", **self.schedules(num_steps), "scale": self.scale(),
            "energy": self.state.extra["energy"], "carried": True, "counters": self.counters,
        }  # fmt: skip

    def new_mass(self) -> None:
        self._bound = None

    def scale(self) -> Tensor | None:
        adapted = super().scale()
        return self._given if adapted is None else adapted

    def bind(self, c: dict[str, Any]) -> Any:
        x, q, stream = self.state.x, self.proposal, self.stream()
        return (
            propose_steps(x, proposal=q, drift=c["drift"], scale=self.scale(), purpose="proposal", **stream),
            metropolis_steps(x, q, self.state.extra["energy"], beta=c["beta"], counters=self.counters, **stream),
        )

    def propose(self, k: int, age: int) -> None:
        move, decide = self.bound(self.coefficients(age))
        move(None, self.place(k))
        decide(self.energy.value(self.proposal), None, self.place(k))


class ProposalNoise:
    """Counter-based random numbers of one step for a proposal of your own: `normal()` and `uniform()`, each once a step.

    They depend on seed, step and chain alone, so that chains stay what they are in any batch and resume exactly.
    """

    def __init__(self, x: Tensor, counter: dict[str, Any]) -> None:
        self._x, self._counter = x, counter
        self._drawn: set[str] = set()

    def _draw(self, name: str, shape: tuple[int, ...] | None, purpose: str, fill: Callable[..., Tensor]) -> Tensor:
        if name in self._drawn:
            raise RuntimeError(
                f"noise.{name}() gives the numbers of this step once; ask for all at once, as in noise.{name}(2, 3) for a tensor "
                f"(n, 2, 3)"
            )
        self._drawn.add(name)
        event = tuple(self._x.shape[1:]) if shape is None else shape
        return fill(self._x.new_empty((self._x.shape[0], *event)), purpose=purpose, **self._counter)

    def normal(self, *shape: int) -> Tensor:
        """Standard normals (n, *shape), or like x without a shape."""
        return self._draw("normal", shape or None, "proposal", normal_)

    def uniform(self, *shape: int) -> Tensor:
        """Uniforms in (0, 1] (n, *shape), or like x without a shape."""
        return self._draw("uniform", shape or None, "proposal_uniform", uniform_)


Proposal = Callable[[Tensor, ProposalNoise], "Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True, eq=False)
class MetropolisHastings(AcceptRejectSampler):
    """x' ~ q(. | x);  accepted with probability min(1, exp((E(x) - E(x')) / T) q(x | x') / q(x' | x)).

    Args:
        propose: function (x, noise) -> x' for a symmetric proposal, or -> (x', log q(x | x') - log q(x' | x)), the latter (n,).
            `noise.normal()` and `noise.uniform()` are the step's random numbers, see `ProposalNoise`.
        temperature: T >= 0: a number, a tensor (n,), a tuple (one per step) or a callable from the index of the step.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, or the proposal returns wrong shapes.

    Source: Hastings 1970.

    Example: a multiplicative random walk on x > 0 is
    `MetropolisHastings(lambda x, noise: (x * (y := 0.3 * noise.normal()).exp(), y.sum(-1)))`.
    """

    propose: Proposal
    temperature: Coefficient = 1.0

    def __post_init__(self) -> None:
        if not callable(self.propose):
            raise TypeError(f"propose must be a function (x, noise) -> x' or (x', log ratio), got {type(self.propose).__name__}")
        self._check()

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return MetropolisHastingsTransition(self, energy, state, backend=backend, rng=rng)


class MetropolisHastingsTransition(AcceptReject):
    def step_size(self, age: int) -> Any:
        return 0.0

    def derive(self, step_size: Any, beta: Any) -> dict[str, Any]:
        return {"beta": beta}

    def propose(self, k: int, age: int) -> None:
        state, counter = self.state, self.counter(k)
        version = None if state.x.is_inference() else state.x._version
        with torch.no_grad():
            answer = self.sampler.propose(state.x, ProposalNoise(state.x, counter))
        proposal, ratio = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        n = state.x.shape[0]
        if not isinstance(proposal, Tensor) or proposal.shape != state.x.shape or proposal.dtype != state.x.dtype:
            got = f"{tuple(proposal.shape)}, {proposal.dtype}" if isinstance(proposal, Tensor) else type(proposal).__name__
            raise ValueError(f"propose must return x' of shape {tuple(state.x.shape)}, {state.x.dtype}, got {got}")
        if ratio is not None and (not isinstance(ratio, Tensor) or ratio.shape != (n,)):
            got = str(tuple(ratio.shape)) if isinstance(ratio, Tensor) else type(ratio).__name__
            raise ValueError(f"propose must return the log ratio with shape ({n},), one number per chain, got {got}")
        if proposal.data_ptr() == state.x.data_ptr() or (version is not None and state.x._version != version):
            raise ValueError("propose changed x in place; return a new tensor")
        self.decide(proposal.contiguous(), None if ratio is None else ratio.double().contiguous(), age, counter)

    def decide(self, proposal: Tensor, log_ratio: Tensor | None, age: int, counter: dict[str, Any]) -> None:
        state = self.state
        metropolis_(state.x, proposal, state.extra["energy"], self.energy.value(proposal), beta=self.coefficients(age)["beta"],
                    log_ratio=log_ratio, counters=self.counters, **counter)  # fmt: skip


@dataclass(frozen=True, eq=False)
class IndependenceMetropolis(AcceptRejectSampler):
    """x' ~ q, whatever x is;  accepted with probability min(1, exp((E(x) - E(x')) / T) q(x) / q(x')).

    Good where q is close to the target and has heavier tails; the acceptance is then near 1 and successive states nearly
    independent. A step evaluates E and log q once: those of the present state are carried.

    Args:
        draw: function noise -> x' (n, *event), from `noise.normal()` and `noise.uniform()`, see `ProposalNoise`.
        log_prob: function x -> log q(x), (n,), up to a constant.
        temperature: as `MetropolisHastings`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, or the functions return wrong shapes.

    Source: Hastings 1970; Tierney 1994.
    """

    draw: Callable[[ProposalNoise], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    temperature: Coefficient = 1.0

    def __post_init__(self) -> None:
        for name in ("draw", "log_prob"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {type(getattr(self, name)).__name__}")
        self._check()

    @classmethod
    def gaussian(cls, mean: Tensor | float, std: Tensor | float, temperature: Coefficient = 1.0) -> IndependenceMetropolis:
        """q = N(mean, std^2), elementwise; mean and std are numbers or tensors like an event."""
        if bool((torch.as_tensor(std) <= 0).any()):
            raise ValueError(f"std must be positive, got {std}")

        def log_prob(x: Tensor) -> Tensor:
            check_event(mean if isinstance(mean, Tensor) and mean.ndim else None, "mean", x)
            check_event(std if isinstance(std, Tensor) and std.ndim else None, "std", x)
            return -0.5 * ((x - mean) / std).square().reshape(x.shape[0], -1).sum(1)

        return cls(lambda noise: noise.normal() * std + mean, log_prob, temperature)

    def transition(self, energy: EnergyFunction, state: ChainState, *, backend: str | None, guard: bool, track: bool,
                   rng: Tensor | None) -> Transition:  # fmt: skip
        return IndependenceTransition(self, energy, state, backend=backend, rng=rng)


class IndependenceTransition(MetropolisHastingsTransition):
    """log q of the present state is carried along: a step evaluates q once, and E once."""

    carries_besides = frozenset({"log_proposal"})

    def __init__(self, sampler: IndependenceMetropolis, energy: EnergyFunction, state: ChainState, *, backend: str | None,
                 rng: Tensor | None) -> None:  # fmt: skip
        super().__init__(sampler, energy, state, backend=backend, rng=rng)
        if "log_proposal" not in state.extra:
            x = state.x
            state.extra["log_proposal"] = self._log_prob(x) if x.numel() else x.new_zeros(x.shape[0], dtype=torch.float64)

    def _log_prob(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.sampler.log_prob(x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            got = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"log_prob must return shape ({x.shape[0]},), one number per chain, got {got}")
        return value.detach().to(torch.float64, copy=True)

    def restart(self) -> None:
        super().restart()
        if self.state.x.numel():
            self.exchanged()

    def renew(self) -> None:
        super().renew()
        if self.state.x.numel():
            known, anew = self.state.extra["log_proposal"], self._log_prob(self.state.x)
            if changed(anew, known):
                known.copy_(anew)

    def exchanged(self) -> None:
        self.state.extra["log_proposal"].copy_(self._log_prob(self.state.x))

    def propose(self, k: int, age: int) -> None:
        x, known, counter = self.state.x, self.state.extra["log_proposal"], self.counter(k)
        with torch.no_grad():
            proposal = self.sampler.draw(ProposalNoise(x, counter))
        if not isinstance(proposal, Tensor) or proposal.shape != x.shape or proposal.dtype != x.dtype:
            got = f"{tuple(proposal.shape)}, {proposal.dtype}" if isinstance(proposal, Tensor) else type(proposal).__name__
            raise ValueError(f"draw must return states of shape {tuple(x.shape)}, {x.dtype}, got {got}")
        offered, before = self._log_prob(proposal), self.counters[:, 1].clone()
        self.decide(proposal.contiguous(), known - offered, age, counter)
        torch.where(self.counters[:, 1] > before, offered, known, out=known)
