"""BlackJAX's functional face: `kernel = hmc(logdensity_fn, ...)`, `kernel.init(position)`, `kernel.step(key, state)`.

Batches take the place of `jax.vmap`: positions are (n, *event), and a log density gives (n,). BlackJAX itself is not needed;
names are those of BlackJAX 1.x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..energies import from_log_prob
from ..engine import ChainState, EnergyFunction, Run, sample
from ..engine.run import check_count
from ..ops import bits_, checks
from ..samplers import HMC, MALA, Adaptation

LogDensity = Callable[[Tensor], Tensor]


class Key(NamedTuple):
    """What a step draws its numbers from: a seed of 64 bits and the index of a step, as in docs/random_numbers.md.

    A key is used once, and a step is a function of key and state alone. An int stands for Key(int).
    """

    seed: int
    step: int = 0


class HMCState(NamedTuple):
    """A batch of chains."""

    position: Tensor  # (n, *event)
    logdensity: Tensor  # (n,)
    logdensity_grad: Tensor  # (n, *event)


MALAState = HMCState


class HMCInfo(NamedTuple):
    """What a step saw. `energy` is -logdensity plus kinetic energy at the state that the step ended in."""

    acceptance_rate: Tensor  # (n,)
    is_accepted: Tensor  # (n,) bool
    is_divergent: Tensor  # (n,) bool
    energy: Tensor  # (n,)
    num_integration_steps: int


class MALAInfo(NamedTuple):
    """What a step saw."""

    acceptance_rate: Tensor  # (n,)
    is_accepted: Tensor  # (n,) bool


class AdaptationResults(NamedTuple):
    """The chains at the end of a warm-up, and what it settled on, by the names of the kernel's arguments."""

    state: HMCState
    parameters: dict[str, Any]


def split(key: int | Key, num: int = 2) -> list[Key]:
    """`num` keys whose seeds are unrelated: 64 bits each of purpose "key", a function of `key` and their place alone."""
    key = _key(key)
    words = bits_(torch.empty(check_count(num, "num", 1), 2, dtype=torch.int32), seed=key.seed, step=key.step, purpose="key")
    return [Key(low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32) for low, high in words.tolist()]


def steps(key: int | Key, num: int) -> Iterator[Key]:
    """Keys of `num` successive steps of one chain: a loop over them is `ebm_fast.sample(seed=key)`, bit for bit."""
    key = _key(key)
    return (Key(key.seed, key.step + t) for t in range(check_count(num, "num")))


def _key(key: Any) -> Key:
    if isinstance(key, bool) or not isinstance(key, int | Key):
        raise TypeError(f"key must be an int or a Key of split() or steps(), got {type(key).__name__}")
    key = Key(key) if isinstance(key, int) else key
    checks.counter(key.seed, key.step, 0, None, torch.empty(1, 0))
    return key


@dataclass(frozen=True)
class SamplingAlgorithm:
    """`init(position)` and `step(key, state)` of a kernel, made of an energy and a sampler of ours."""

    energy: EnergyFunction
    sampler: HMC | MALA

    def init(self, position: Tensor) -> HMCState:  # (n, *event)
        """The state of chains that begin at `position`, which is copied."""
        checks.exact_state(position, "position")
        value, grad = self.energy.value_and_grad(position)
        return HMCState(position.clone(), -value, -grad)

    def step(self, key: int | Key, state: HMCState) -> tuple[HMCState, Any]:
        """The next state and what the step saw; `state` stays what it is."""
        key, sampler = _key(key), _fitted(self.sampler, state.position.shape[1:])
        carried = {"energy": -state.logdensity, "grad": -state.logdensity_grad}
        chain = ChainState(state.position.clone(), key.seed, key.step, extra=carried)
        transition: Any = sampler.transition(self.energy, chain, backend=None, guard=True, track=True, rng=None)
        transition.advance(1)
        _, accepted, divergent, rate, hamiltonian = transition.counters.unbind(1)
        after = HMCState(chain.x, -chain.extra["energy"], -chain.extra["grad"])
        rate, accepted = rate.to(chain.x.dtype), accepted > 0
        if isinstance(sampler, MALA):
            return after, MALAInfo(rate, accepted)
        return after, HMCInfo(rate, accepted, divergent > 0, hamiltonian.to(chain.x.dtype), sampler.num_leapfrog)


def _fitted(sampler: HMC | MALA, event: torch.Size) -> HMC | MALA:
    """With a diagonal (d,) in the shape of an event."""
    inverse = sampler.inverse_mass
    if isinstance(sampler, HMC) and inverse is not None and inverse.shape == (event.numel(),) != event:
        return replace(sampler, inverse_mass=inverse.view(event))
    return sampler


def hmc(
    logdensity_fn: LogDensity,
    step_size: float | Tensor,
    inverse_mass_matrix: Tensor,
    num_integration_steps: int,
    *,
    divergence_threshold: float = 1000.0,
) -> SamplingAlgorithm:
    """num_integration_steps leapfrog steps on -logdensity + p M^-1 p / 2 from p ~ N(0, M), accepted or rejected.

    Args:
        logdensity_fn: log density up to a constant, a batch at a time: (n, *event) -> (n,).
        step_size: a number, or a tensor () or (n,).
        inverse_mass_matrix: M^-1: (d,) or like an event (diagonal), or (d, d) (dense), d the numbers in an event.
        num_integration_steps: at least 1.
        divergence_threshold: energy error from which a proposal counts as divergent.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.
    """
    count = check_count(num_integration_steps, "num_integration_steps", 1)
    sampler = HMC(step_size, count, inverse_mass=inverse_mass_matrix, max_error=divergence_threshold)
    return SamplingAlgorithm(EnergyFunction(from_log_prob(logdensity_fn)), sampler)


def mala(logdensity_fn: LogDensity, step_size: float | Tensor) -> SamplingAlgorithm:
    """x' = x + step_size grad logdensity + sqrt(2 step_size) z, accepted or rejected. Arguments and errors as `hmc`."""
    return SamplingAlgorithm(EnergyFunction(from_log_prob(logdensity_fn)), MALA(step_size))


@dataclass(frozen=True)
class window_adaptation:
    """Step size by dual averaging, mass matrix in windows that double, both from all chains: `.run(key, position, num_steps)`.

    Args:
        algorithm: `hmc`.
        logdensity_fn: as of `hmc`.
        is_mass_matrix_diagonal: else dense.
        initial_step_size: where the search begins.
        target_acceptance_rate: to reach.
        num_integration_steps: of `hmc`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.
    """

    algorithm: Callable[..., SamplingAlgorithm]
    logdensity_fn: LogDensity
    is_mass_matrix_diagonal: bool = True
    initial_step_size: float = 1.0
    target_acceptance_rate: float = 0.8
    num_integration_steps: int = 10

    def __post_init__(self) -> None:
        if self.algorithm is not hmc:
            raise TypeError(f"algorithm: expected ebm_fast.compat.blackjax.hmc, got {self.algorithm!r}")

    def run(self, key: int | Key, position: Tensor, num_steps: int = 1000) -> tuple[AdaptationResults, Run]:
        """((state, parameters), run): the chains after num_steps steps, arguments of `hmc`, and the run with its statistics.

        position # (n, *event)
        """
        key, num_steps = _key(key), check_count(num_steps, "num_steps", 1)
        adapt = Adaptation(self.target_acceptance_rate, mass="diagonal" if self.is_mass_matrix_diagonal else "dense")
        sampler = HMC(self.initial_step_size, self.num_integration_steps, adapt=adapt)
        energy = from_log_prob(self.logdensity_fn)
        run = sample(energy, sampler, position, num_steps=0, warmup=num_steps, seed=key.seed, step=key.step)
        found, extra = run.stats.adapted, run.state.extra
        inverse = found["scale"].square() if "scale" in found else found.get("inverse_mass", torch.ones_like(run.final[0]))
        parameters = {
            "step_size": found["step_size"].item(),
            "inverse_mass_matrix": inverse,
            "num_integration_steps": self.num_integration_steps,
        }
        state = HMCState(run.final, -extra["energy"], -extra["grad"])
        return AdaptationResults(state, parameters), run
