"""P10: what one public call of one step costs before it does any work."""

from __future__ import annotations

from collections.abc import Callable

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

    def __call__(self, x: Tensor) -> Tensor:
        return self.value

    def grad(self, x: Tensor) -> Tensor:
        return self.answer[1]

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
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
    stopped, active = torch.full((4,), -1, device=device), torch.ones(4, dtype=torch.bool, device=device)
    return {
        "propose_": lambda: ef.ops.propose_(x, proposal=q, momentum=p, grad=grad, kinetic=kinetic, kick=0.05, drift=0.1, seed=1),
        "leapfrog_": lambda: ef.ops.leapfrog_(q, p, grad, kick=0.1, drift=0.1),
        "metropolis_": lambda: ef.ops.metropolis_(x, q, energy, other, momentum=p, kinetic=kinetic, counters=counters, seed=1),
        "baoab_": lambda: ef.ops.baoab_(x, p, grad, kick=0.1, drift=0.1, persistence=0.9, noise_std=0.4, seed=1),
        "swap_": lambda: ef.ops.swap_(replicas, hot, betas, parity=0, seed=1),
        "moments_": lambda: ef.ops.moments_(x, q, squares, count=3),
        "guard_": lambda: ef.ops.guard_(x, grad, energy=energy, divergence_step=stopped, active=active, norm_sum=kinetic,
                                        step_size=0.1, noise_std=0.4),
    }  # fmt: skip


@pytest.mark.parametrize("op", ["propose_", "leapfrog_", "metropolis_", "baoab_", "swap_", "moments_", "guard_"])
def test_op(op, device, seconds, record):
    calls = {"ebm_fast": ops_of_a_proposal(device)[op]}
    result = harness.race(calls, seconds=seconds / 6, device=device)
    record("overhead", f"P10 {op}", result, calls, target=TARGET[device])


SAMPLERS = {
    "random walk": ef.RandomWalkMetropolis(0.3), "MALA": ef.MALA(0.1), "HMC L=1": ef.HMC(0.1, 1), "HMC L=10": ef.HMC(0.1, 10),
    "GHMC": ef.GHMC(0.1), "underdamped": ef.UnderdampedLangevin(0.1), "4 replicas of MALA": ef.ReplicaExchange(
        ef.MALA(0.1), ef.ReplicaExchange.ladder(4, 0.2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_step(name, device, seconds, record):
    """A step of each sampler on an energy that costs nothing: the slope between two lengths of a run."""
    x = torch.randn(4, 4, device=device)
    rows = 16 if "replicas" in name else 4
    energy = Free(torch.randn(rows, 4, device=device))

    def run(steps: int) -> Callable[[], object]:
        return lambda: ef.sample(energy, SAMPLERS[name], x, num_steps=steps, thin=steps, record=False, seed=1, strategy="step")

    calls = {"ebm_fast": run(2 * STEPS), "half": run(STEPS)}
    result = harness.race(calls, seconds=seconds / 3, device=device)
    per_step = (result.median("ebm_fast") - result.median("half")) / STEPS
    record("overhead", f"{2 * STEPS} steps of {name}", result, calls, per_step=per_step)


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


def test_sample_step(device, seconds, record):
    """A step of `sample`, divergence guard and statistics included: the slope between two lengths."""
    x = torch.randn(4, 4, device=device)
    energy, sampler = Free(x), ef.Langevin(step_size=0.01, noise_std=0.005)

    def run(steps: int) -> Callable[[], object]:
        return lambda: ef.sample(energy, sampler, x, num_steps=steps, thin=steps, record=False, seed=1, strategy="step")

    calls = {"ebm_fast": run(2 * STEPS), "half": run(STEPS)}
    result = harness.race(calls, seconds=seconds / 3, device=device)
    per_step = (result.median("ebm_fast") - result.median("half")) / STEPS
    record("overhead", f"sample of {2 * STEPS} steps", result, calls, per_step=per_step)
