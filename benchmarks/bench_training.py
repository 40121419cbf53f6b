"""P8: one whole training iteration beside the energy gradients it needs, the usual script, the mended one, and that compiled.

What counts as the gradients it needs: K gradients in x by `torch.autograd.grad`, the parameters' own switched off, of 128 states
that nobody moves; then what both sides share, one pass over data and samples, the loss, its gradient in the parameters and the
optimiser's step. Noise, update, clip and clamp, buffer, checks and metrics are overhead. One thread (OMP_NUM_THREADS=1) is what
a machine with neighbours can measure: two threads that wait for each other take the processor time of the wait.

On a GPU events time the host's part too, since they are recorded when the host gets there, and torch.compile takes part with one
objective a network: it takes minutes.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ebm_fast as ef
from ebm_fast.engine.run import pick_strategy
from ebm_fast.models import ConvNetEnergy
from ebm_fast.objectives import AdaptiveNCE, ContrastiveDivergence, PersistentCD
from ebm_fast.training import ReplayBuffer

BATCH, SIZE, RATE, INTERVAL = 128, 10_000, 0.05, 5
ROUNDS = {"cpu": 25, "cuda": 11}
TARGETS: dict[str, Any] = {"cpu": 0.1, "cuda": {"usual": 4.0}}  # overhead; times the usual script's speed
STEP_SIZE, NOISE_STD, CLIP, CLAMP = 1.0, 0.005, 0.03, (-1.0, 1.0)


class MLP(nn.Sequential):
    """A network of the user's own, of which the engine knows nothing but that it is a module."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


class Case(NamedTuple):
    event: tuple[int, ...]
    make: Callable[[], nn.Module]
    steps: int


CASES = {
    "ConvNet 8x8": Case((1, 8, 8), lambda: ConvNetEnergy(1, 8, (32, 64)), 40),
    "ConvNet 3x32x32": Case((3, 32, 32), lambda: ConvNetEnergy(3, 32, (16, 32, 32)), 20),
    "MLP 784": Case((784,), lambda: MLP(nn.Linear(784, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 1)), 40),
    "MLP 2, fused": Case((2,), lambda: ef.energies.MLPEnergy(2, (128, 128)), 40),
}
OBJECTIVES = ("PersistentCD", "CD", "AdaNCE")


class Plain:
    """The same iteration in plain PyTorch: contrastive divergence, or with `frozen` AdaNCE between two refreshes of the copy."""

    def __init__(
        self, case: Case, energy: nn.Module, frozen: nn.Module | None, persistent: bool, data: Tensor
    ) -> None:
        self.case, self.energy, self.frozen, self.persistent, self.data = case, energy, frozen, persistent, data
        self.optimizer = torch.optim.Adam(energy.parameters(), lr=0.0)
        self.buffer = torch.rand(SIZE, *case.event, device=data.device) * 2 - 1
        self.noise = torch.empty_like(data)
        self.call: Callable[[Tensor], Tensor] = energy

    @functools.cached_property
    def listed(self) -> list[Tensor]:
        return list(self.buffer.cpu().split(1))

    def train(self, samples: Tensor) -> Tensor:
        """One pass over data and samples, the loss, its gradient, the optimiser."""
        states = torch.cat([self.data, samples])
        energies = self.call(states)
        if self.frozen is None:
            loss = energies[:BATCH].mean() - energies[BATCH:].mean()
        else:
            with torch.no_grad():
                r = self.frozen(states)
            r = r - energies
            loss = functional.softplus(-r[:BATCH]).mean() + functional.softplus(r[BATCH:]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def gradients(self, x: Tensor) -> None:
        """What the iteration needs of the energy and nothing else."""
        chain = self.energy if self.frozen is None else self.frozen
        self.energy.requires_grad_(False)
        for _ in range(self.case.steps):
            torch.autograd.grad(chain(x.requires_grad_(True)).sum(), x)
        self.energy.requires_grad_(True)
        self.train(x.detach())

    def chain(self, x: Tensor, noise_std: float = NOISE_STD) -> Tensor:
        chain = self.call if self.frozen is None else self.frozen
        for _ in range(self.case.steps):
            x.requires_grad_(True)
            (grad,) = torch.autograd.grad(chain(x).sum(), x)
            x = x.detach()
            x.add_(grad.clamp_(-CLIP, CLIP), alpha=-STEP_SIZE)
            if noise_std:
                x.add_(self.noise.normal_(), alpha=noise_std)
            x.clamp_(*CLAMP)
        return x

    def mended(self) -> None:
        """Parameters frozen while sampling, the buffer one tensor on the device, one pass over data and samples."""
        self.energy.requires_grad_(False)
        if self.persistent:
            slots = torch.randint(SIZE, (BATCH,), device=self.data.device)
            fresh = torch.rand(BATCH, *[1] * len(self.case.event), device=self.data.device) < RATE
            x = torch.where(fresh, torch.rand_like(self.data) * 2 - 1, self.buffer[slots])
        else:
            x = self.data.clone()
        x = self.chain(x)
        if self.persistent:
            self.buffer[slots] = x
        self.energy.requires_grad_(True)
        self.train(x)

    def usual(self) -> None:
        """As scripts write it: a buffer of CPU tensors, gradients of parameters that nobody asked for, graphs retained, two
        passes, numbers read for the log."""
        device, chain = self.data.device, self.energy if self.frozen is None else self.frozen
        if self.persistent:
            places = random.sample(range(SIZE), BATCH)
            rows = [torch.rand(1, *self.case.event) * 2 - 1 if random.random() < RATE else self.listed[i] for i in places]
            x = torch.cat(rows).to(device)
        else:
            x = self.data.clone()
        x.requires_grad_(True)
        for _ in range(self.case.steps):
            chain(x).sum().backward(retain_graph=True)
            x.data.add_(x.grad.data.clamp_(-CLIP, CLIP), alpha=-STEP_SIZE)
            x.data.add_(torch.randn_like(x.data), alpha=NOISE_STD)
            x.data.clamp_(*CLAMP)
            x.grad.detach_()
            x.grad.zero_()
        x = x.detach()
        if self.persistent:
            for i, row in zip(places, x.cpu().split(1), strict=True):
                self.listed[i] = row
        e_data, e_model = self.energy(self.data), self.energy(x)
        if self.frozen is None:
            loss = e_data.mean() - e_model.mean()
        else:
            r_data, r_model = self.frozen(self.data) - e_data, self.frozen(x) - e_model
            loss = torch.log(1 + torch.exp(-r_data)).mean() + torch.log(1 + torch.exp(r_model)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item(), e_data.mean().item(), e_model.mean().item()


def objective_of(name: str, case: Case, energy: nn.Module, device: str, noise_std: float = NOISE_STD) -> Any:
    sampler = ef.Langevin(step_size=STEP_SIZE, noise_std=noise_std, grad_clip=CLIP, clamp=CLAMP)
    options: dict[str, Any] = {"num_steps": case.steps, "seed": 1}
    if name == "CD":
        return ContrastiveDivergence(energy, sampler, **options)
    rate = RATE if noise_std else 0.0
    buffer = ReplayBuffer(SIZE, case.event, init=("uniform", -1.0, 1.0), rejuvenation=rate, device=device, seed=2)
    if name == "PersistentCD":
        return PersistentCD(energy, sampler, buffer, **options)
    return AdaptiveNCE(energy, sampler, buffer, interval=INTERVAL, **options)


def gradient_of(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def check(name: str, case: Case, plain: Plain, device: str) -> None:
    """Without noise, both have the same gradient of the parameters."""
    energy = plain.energy
    objective = objective_of(name, case, energy, device, noise_std=0.0)
    x = plain.data.clone() if name == "CD" else objective_of(name, case, energy, device, noise_std=0.0).buffer.draw(BATCH).x
    with harness.exact_products():  # a graph captured here is not the one that is timed: noise_std differs
        plain.train(plain.chain(x, noise_std=0.0))
        truth = gradient_of(energy)
        energy.zero_grad()
        objective(plain.data)[0].backward()
    near = {"cpu": 1e-4, "cuda": 1e-3}[device]  # sums in another order, along a chain
    torch.testing.assert_close(gradient_of(energy), truth, rtol=1e-3, atol=near * float(truth.abs().max()))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("case_name", CASES)
def test_iteration(case_name, name, device, seconds, record):
    case = CASES[case_name]
    torch.manual_seed(0)
    energy = case.make().to(device)
    data = torch.rand(BATCH, *case.event, device=device) * 2 - 1
    frozen = copy.deepcopy(energy).requires_grad_(False) if name == "AdaNCE" else None
    plain = Plain(case, energy, frozen, name != "CD", data)
    check(name, case, plain, device)
    objective = objective_of(name, case, energy, device)
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.0)
    if name == "AdaNCE":
        objective(data)  # the next interval - 1 iterations have a copy that is not fresh

    def ours() -> None:
        if name == "AdaNCE" and objective.iteration % INTERVAL == 0:
            objective.iteration += 1  # as the plain forms: an iteration between two refreshes
        loss, _ = objective(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": ours,
        "gradients alone": lambda: plain.gradients(data.clone()),
        "usual": plain.usual,
        "mended": plain.mended,
    }
    if device == "cpu" or name == OBJECTIVES[0]:
        compiled = copy.copy(plain)
        compiled.call = torch.compile(energy)
        if frozen is not None:
            compiled.frozen = torch.compile(frozen)
        calls["mended, compiled"] = compiled.mended
    result = harness.race(calls, seconds=seconds, device=device, fewest=ROUNDS[device])
    strategy = pick_strategy("auto", None, energy, objective.sampler, data, None)[0]  # of the chains
    assert device == "cpu" or strategy in ("graph", "fused"), strategy
    found: dict[str, Any] = {"target": TARGETS[device], "strategy": strategy}
    for clock, cpu in (("overhead", False), ("cpu_overhead", True)):
        found[clock] = result.ratio("ebm_fast", "gradients alone", cpu=cpu) - 1.0
        found[f"{clock}_interval"] = [end - 1.0 for end in result.interval("ebm_fast", "gradients alone", cpu=cpu)]
    record("training", f"P8 {name}, {case_name}, {case.steps} steps", result, calls, **found)
