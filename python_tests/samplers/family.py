"""One of each sampler, with an energy that suits it."""

from __future__ import annotations

import torch
from torch import Tensor

import ebm_fast as ef


def bowl(x: Tensor) -> Tensor:
    """A correlated, slightly anharmonic well on events of any shape."""
    flat = x.flatten(1)
    return 0.7 * flat.square().sum(1) + 0.3 * flat[:, 0] * flat[:, -1] + 0.02 * flat.pow(4).sum(1)


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian blurred by noise of width sigma # (n,)."""
    return 0.5 * x.flatten(1).square().sum(1) / (1.0 + sigma.square())


class Counting:
    """An energy that counts its calls and keeps the largest batch."""

    def __init__(self, energy=bowl):
        self.energy, self.calls = energy, 0

    def __call__(self, x: Tensor, **condition: Tensor) -> Tensor:
        self.calls += 1
        return self.energy(x, **condition)


def spread(event: tuple[int, ...]) -> Tensor:
    """A diagonal of inverse masses, different in every element."""
    count = torch.Size(event).numel()
    return torch.linspace(0.5, 1.5, count).view(event)


def family(event: tuple[int, ...]) -> dict:
    """name -> (sampler, energy), all kernels, masses, schedules and wrappers."""
    d = torch.Size(event).numel()
    dense = torch.eye(d) + 0.2 * torch.ones(d, d)
    diagonal = spread(event)
    ladder = ef.ReplicaExchange.ladder(3, 0.2)
    return {
        "random walk": (ef.RandomWalkMetropolis(0.4), bowl),
        "random walk, scaled": (ef.RandomWalkMetropolis(0.4, scale=diagonal, temperature=1.5), bowl),
        "metropolis-hastings": (ef.MetropolisHastings(shift), bowl),
        "independence": (ef.IndependenceMetropolis.gaussian(0.1, 1.2), bowl),
        "langevin, preconditioned": (ef.Langevin(0.05, preconditioner=diagonal), bowl),
        "mala": (ef.MALA(0.1), bowl),
        "mala, diagonal": (ef.MALA(0.1, preconditioner=diagonal, temperature=0.7), bowl),
        "mala, dense": (ef.MALA(0.05, preconditioner=dense), bowl),
        "hmc": (ef.HMC(0.3, 4), bowl),
        "hmc, diagonal": (ef.HMC(0.25, 3, inverse_mass=diagonal, temperature=2.0), bowl),
        "hmc, dense": (ef.HMC(0.2, 3, inverse_mass=dense), bowl),
        "hmc, jitter": (ef.HMC(0.3, 5, leapfrog_jitter=True, step_jitter=0.3), bowl),
        "hmc, schedule": (ef.HMC(lambda age: 0.1 + 0.02 * (age % 5), 2, temperature=lambda age: 1.0 + 0.1 * (age % 3)), bowl),
        "ghmc": (ef.GHMC(0.2, friction=0.8), bowl),
        "ghmc, diagonal": (ef.GHMC(0.2, num_leapfrog=2, inverse_mass=diagonal), bowl),
        "underdamped": (ef.UnderdampedLangevin(0.2), bowl),
        "underdamped, diagonal": (ef.UnderdampedLangevin(0.2, friction=3.0, inverse_mass=diagonal, temperature=0.5), bowl),
        "annealed": (ef.AnnealedLangevin((3.0, 1.0, 0.3), 0.01, steps_per_level=8), blurred),
        "annealed, denoised": (ef.AnnealedLangevin((3.0, 1.0), 0.01, steps_per_level=12, denoise=True), blurred),
        "simulated annealing": (ef.SimulatedAnnealing.geometric(ef.Langevin(0.05), 100, 0.5, 20.0), bowl),
        "simulated annealing, hmc": (ef.SimulatedAnnealing(ef.HMC(0.1, 2), lambda age: 1.0 + 0.1 * age), bowl),
        "replicas of hmc": (ef.ReplicaExchange(ef.HMC(0.3, 2), ladder), bowl),
        "replicas of langevin": (ef.ReplicaExchange(ef.Langevin(0.05), ladder, swap_every=3), bowl),
        "replicas of noise-first langevin": (ef.ReplicaExchange(ef.Langevin(0.05, order="noise"), ladder), bowl),
        "replicas of random walks": (ef.ReplicaExchange(ef.RandomWalkMetropolis(0.5), ladder, swap_every=2), bowl),
        "replicas of underdamped": (ef.ReplicaExchange(ef.UnderdampedLangevin(0.2), ladder), bowl),
    }


def shift(x: Tensor, noise: ef.samplers.ProposalNoise) -> tuple[Tensor, Tensor]:
    """An asymmetric proposal: a drift towards 0 that the ratio of the two densities undoes."""
    proposal = 0.9 * x + 0.4 * noise.normal()
    there = (proposal - 0.9 * x).flatten(1).square().sum(1) / 0.32
    back = (x - 0.9 * proposal).flatten(1).square().sum(1) / 0.32
    return proposal, there - back


NAMES = tuple(family((3,)))


def adaptive() -> dict:
    """name -> sampler, everything that learns during the warm-up."""
    return {
        "random walk": ef.RandomWalkMetropolis(0.5, adapt=ef.Adaptation(mass="diagonal")),
        "mala": ef.MALA(0.1, adapt=ef.Adaptation(mass="dense")),
        "hmc": ef.HMC(0.2, 3, adapt=ef.Adaptation()),
        "hmc, per chain": ef.HMC(0.2, 3, adapt=ef.Adaptation(per_chain=True)),
        "hmc, diagonal": ef.HMC(0.2, 3, adapt=ef.Adaptation(mass="diagonal")),
        "hmc, dense": ef.HMC(0.2, 3, adapt=ef.Adaptation(mass="dense")),
        "chees": ef.HMC(0.2, 3, adapt=ef.ChEES()),
        "chees, diagonal": ef.HMC(0.2, 3, adapt=ef.ChEES(mass="diagonal")),
        "ghmc": ef.GHMC(0.2, adapt=ef.Adaptation(mass="diagonal")),
        "ghmc, per chain": ef.GHMC(0.2, adapt=ef.Adaptation(per_chain=True)),
        "replicas of ghmc": ef.ReplicaExchange(ef.GHMC(0.2, adapt=ef.Adaptation()), (1.0, 0.4)),
        "replicas": ef.ReplicaExchange(ef.HMC(0.2, 2, adapt=ef.Adaptation()), (1.0, 0.4)),
    }
