"""P10: what one public call of one step costs before it does any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import pytest
import torch
from torch import Tensor

import ebm_fast as ef

TARGET = {"cpu": 10e-6, "cuda": 15e-6}
STEPS = 100


class Free:
    """E(x) = |x|^2 / 2 with its gradient ready: nothing but our own overhead is left to time."""

    def __init__(self, x: Tensor) -> None:
        self.answer = (0.5 * x.square().sum(1), x.clone())
        self.value = self.answer[0]

    def __call__(self, x: Tensor, **condition: Tensor) -> Tensor:
        return self.value

    def grad(self, x: Tensor, **condition: Tensor) -> Tensor:
        return self.answer[1]

    def energy_and_grad(self, x: Tensor, **condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer


def eager(x: Tensor, grad: Tensor) -> None:
    x.add_(grad, alpha=-0.01).add_(torch.randn_like(x), alpha=0.005)


def test_fused_op(device, seconds, record):
    x, grad, other = (torch.randn(4, 4, device=device) for _ in range(3))
    truth = x.clone()
    ef.ops.langevin_step_(truth, grad, step_size=0.01, noise_std=0.005, seed=1, backend="reference")
    torch.testing.assert_close(
        ef.ops.langevin_step_(x.clone(), grad, step_size=0.01, noise_std=0.005, seed=1), truth, rtol=0, atol=1e-6
    )
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.ops.langevin_step_(x, grad, step_size=0.01, noise_std=0.005, seed=1),
        "eager": lambda: eager(other, grad),
    }
    result = harness.race(calls, seconds=seconds / 3, device=device)
    record("overhead", "P10 langevin_step_", result, calls, target=TARGET[device])


def ops_of_a_proposal(device: str) -> dict[str, Callable[[], object]]:
    x, q, p, grad = (torch.randn(4, 4, device=device) for _ in range(4))
    energy, other = torch.zeros(4, device=device), torch.zeros(4, device=device)
    kinetic = torch.zeros(4, dtype=torch.float64, device=device)
    counters = torch.zeros(4, 5, dtype=torch.float64, device=device)
    replicas, betas = torch.randn(4, 4, 4, device=device), torch.linspace(1.0, 0.1, 4, dtype=torch.float64, device=device)
    hot, squares = torch.zeros(4, 4, device=device), torch.zeros(4, 4, device=device)
    factor, inverse = torch.eye(4, device=device) + 0.1 * torch.ones(4, 4, device=device).triu(1), torch.eye(4, device=device)
    numbers = [torch.full(s, 0.3, dtype=torch.float64, device=device) for s in ((4, 1), (), (4,), (4,), (), (4,), ())]
    learnt = dict(zip(("average", "average_count", "mean", "squares", "count", "search", "length"), numbers))
    learnt |= {"step_size": torch.tensor(0.2, device=device), "before": hot, "proposal": q, "momentum": p}
    stopped, active = torch.full((4,), -1, device=device), torch.ones(4, dtype=torch.bool, device=device)
    return {
        "propose_": lambda: ef.ops.propose_(x, proposal=q, momentum=p, grad=grad, kinetic=kinetic, kick=0.05, drift=0.1, seed=1),
        "propose_, dense": lambda: ef.ops.propose_(x, proposal=q, momentum=p, grad=grad, factor=factor, kinetic=kinetic,
                                                   kick=0.05, drift=0.1, seed=1),
        "leapfrog_": lambda: ef.ops.leapfrog_(q, p, grad, kick=0.1, drift=0.1),
        "metropolis_": lambda: ef.ops.metropolis_(x, q, energy, other, momentum=p, kinetic=kinetic, counters=counters, seed=1),
        "metropolis_, dense": lambda: ef.ops.metropolis_(x, q, energy, other, momentum=p, inverse_factor=inverse, kinetic=kinetic,
                                                         counters=counters, seed=1),
        "baoab_": lambda: ef.ops.baoab_(x, p, grad, kick=0.1, drift=0.1, persistence=0.9, noise_std=0.4, seed=1),
        "swap_": lambda: ef.ops.swap_(replicas, hot, betas, parity=0, seed=1),
        "moments_": lambda: ef.ops.moments_(x, q, squares, count=3),
        "guard_": lambda: ef.ops.guard_(x, grad, energy=energy, divergence_step=stopped, active=active, norm_sum=kinetic,
                                        step_size=0.1, noise_std=0.4),
        "adapt_": lambda: ef.ops.adapt_(x, counters, least=0.01, **learnt),
    }  # fmt: skip


@pytest.mark.parametrize("op", ["propose_", "propose_, dense", "leapfrog_", "metropolis_", "metropolis_, dense", "baoab_",
                                "swap_", "moments_", "guard_", "adapt_"])  # fmt: skip
def test_op(op, device, seconds, record):
    calls = {"ebm_fast": ops_of_a_proposal(device)[op]}
    result = harness.race(calls, seconds=seconds / 6, device=device)
    record("overhead", f"P10 {op}", result, calls, target=TARGET[device])


def shift(x: Tensor, noise: ef.samplers.ProposalNoise) -> Tensor:
    return x + noise.normal()


def dense(device: str) -> Tensor:
    return torch.eye(4, device=device) + 0.1


# name: sampler on a device, and the fused ops of a step (those of the energy, of torch and of a proposal of one's own left out)
SAMPLERS: dict[str, tuple[Callable[[str], Any], int]] = {
    "Langevin": (lambda device: ef.Langevin(0.01, noise_std=0.005), 2),
    "annealed Langevin": (lambda device: ef.AnnealedLangevin((1.0,), 0.01, steps_per_level=10**6), 2),
    "random walk": (lambda device: ef.RandomWalkMetropolis(0.3), 2),
    "Metropolis-Hastings": (lambda device: ef.MetropolisHastings(shift), 2),
    "independence": (lambda device: ef.IndependenceMetropolis(lambda noise: noise.normal(), lambda x: x[:, 0]), 2),
    "MALA": (lambda device: ef.MALA(0.1), 2),
    "HMC L=1": (lambda device: ef.HMC(0.1, 1), 2),
    "HMC L=10": (lambda device: ef.HMC(0.1, 10), 11),
    "HMC L=1, dense": (lambda device: ef.HMC(0.1, 1, inverse_mass=dense(device)), 3),
    "GHMC": (lambda device: ef.GHMC(0.1), 3),
    "underdamped": (lambda device: ef.UnderdampedLangevin(0.1), 2),
    "simulated annealing of MALA": (lambda device: ef.SimulatedAnnealing(ef.MALA(0.1), lambda age: 1.0 + age), 2),
    "4 replicas of MALA": (lambda device: ef.ReplicaExchange(ef.MALA(0.1), ef.ReplicaExchange.ladder(4, 0.2)), 3),
    "MALA that adapts": (lambda device: ef.MALA(0.1, adapt=ef.Adaptation(mass="diagonal")), 2),
    "HMC L=1 that adapts, dense": (lambda device: ef.HMC(0.1, 1, adapt=ef.Adaptation(mass="dense")), 3),
    "HMC by ChEES": (lambda device: ef.HMC(0.1, 1, adapt=ef.ChEES(max_leapfrog=1)), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_step(name, device, seconds, record):
    """A step of each sampler on an energy that costs nothing, guard and statistics included: the slope between two lengths of a
    run, of a warm-up for those that adapt."""
    make, ops = SAMPLERS[name]
    x, sampler = torch.randn(4, 4, device=device), make(device)
    energy = Free(torch.randn(16 if "replicas" in name else 4, 4, device=device))
    adapts = "adapt" in name or "ChEES" in name

    def run(steps: int) -> Callable[[], object]:
        how = {"warmup": steps, "num_steps": 0} if adapts else {"num_steps": steps, "thin": steps}
        return lambda: ef.sample(energy, sampler, x, record=False, seed=1, strategy="step", **how)

    calls = {"ebm_fast": run(2 * STEPS), "half": run(STEPS)}
    result = harness.race(calls, seconds=seconds / 3, device=device)
    per_step = (result.median("ebm_fast") - result.median("half")) / STEPS
    record("overhead", f"{2 * STEPS} steps of {name}", result, calls, per_step=per_step, per_op=per_step / ops, ops=ops,
           target=TARGET[device])  # fmt: skip


@pytest.mark.parametrize("steps", [1, STEPS])
def test_langevin_call(steps, device, seconds, record):
    """One call of one step, and the share of each step in a call of many."""
    x = torch.randn(4, 4, device=device)
    energy = Free(x)
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.langevin_(x, energy, num_steps=steps, step_size=0.01, noise_std=0.005, seed=1),
    }
    result = harness.race(calls, seconds=seconds / 3, device=device)
    per_step = result.median("ebm_fast") / steps
    record("overhead", f"P10 langevin_ of {steps} steps", result, calls, target=TARGET[device], per_step=per_step)

