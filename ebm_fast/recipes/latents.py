"""Runs with latents: maximum likelihood of a generator, energies as its prior, implicit encoders."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import energies
from ebm_fast.models import (
    ConditionalScore,
    DeconvNet,
    GaussianGenerator,
    ImplicitEncoder,
    JointEnergy,
    LatentPrior,
)
from ebm_fast.training import Alternating

from .task import Task
from .two_players import alternating

PRIOR_STEP = 0.3  # of MALA on the prior, which is near N(0, I)
PRIOR_RATE = 0.1  # of the learning rate: a prior that runs ahead of the generator takes the posterior along, and all collapses


def generator_network(task: Task) -> nn.Module:  # (n, latent) -> (n, *event)
    """A perceptron on the plane; transposed convolutions for images, as many doublings as the side allows."""
    latent = latent_dim(task)
    if task.on_plane:
        sizes = (latent, *task.hidden)
        layers = [layer for into, out in itertools.pairwise(sizes) for layer in (nn.Linear(into, out), nn.SiLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 2))
    channels, side = tuple(reversed(task.widths)), task.event[1]
    doublings = next(k for k in range(len(channels), -1, -1) if side % 2**k == 0)
    return DeconvNet(latent, task.event[0], side, channels[:doublings])


def latent_dim(task: Task) -> int:
    assert task.config.network.latent_dim is not None
    return task.config.network.latent_dim


class Latents(Task):
    """p(x) = int p(z) N(x; g(z), sigma^2 I) dz: prior, generator and, of implicit_vae, encoder."""

    def network(self) -> nn.Module:
        size, encoder = latent_dim(self), []
        tilt = energies.MLPEnergy(size, self.hidden, "silu") if self.config.objective == "latent_ebm" else None
        self.prior, self.generator = LatentPrior(size, tilt), GaussianGenerator(generator_network(self), self.sigma)
        if self.config.objective == "implicit_vae":
            encoder = [ImplicitEncoder(self.event.numel(), size, size, self.hidden)]
        return nn.ModuleList([self.prior, self.generator, *encoder])

    def sampler(self) -> ef.Langevin:
        """Of the posterior, which a chain from the prior comes to sooner where no step is refused."""
        return ef.Langevin(self.step_size, self.config.chains.noise_std)

    def groups(self, objective: Any) -> Any:
        if not isinstance(objective, ef.LatentEBM):
            return objective.parameters()
        prior = {"params": objective.prior_parameters(), "lr": PRIOR_RATE * self.config.optimizer.learning_rate}
        return [{"params": objective.generator_parameters()}, prior]

    def mle(self) -> ef.LatentMLE:
        joint, size = JointEnergy(self.prior, self.generator), latent_dim(self)
        return ef.LatentMLE(joint, self.sampler(), size, num_steps=self.config.chains.num_steps, **self.counter)

    def ebm(self) -> ef.LatentEBM:
        return ef.LatentEBM(
            self.prior, self.generator, ef.MALA(PRIOR_STEP), posterior_sampler=self.sampler(),
            num_steps=self.config.chains.num_steps, **self.counter,
        )  # fmt: skip

    def vae(self) -> Alternating:
        """The score takes two steps for one of encoder and decoder: where it lags, the entropy's gradient is wrong."""
        size = latent_dim(self)
        score = ConditionalScore(size, self.event.numel(), self.hidden).to(self.data.device)
        objective = ef.ImplicitVAE(self.net[2], self.generator, score, size, **self.counter)  # type: ignore[index]
        return alternating(self, objective, objective.score_parameters(), steps=2)

    def latents(self) -> Tensor:  # (n, latent)
        """Of the prior, by a chain where it is tilted."""
        chosen, chains = self.config.sampling, self.config.chains
        assert chosen.num_samples is not None and chosen.num_steps is not None
        z = self.start(chosen.num_samples, latent_dim(self))
        if self.prior.tilt is not None:
            counter: dict[str, Any] = {"seed": self.config.seed, "step": 2 * self.config.iterations * chains.num_steps}
            ef.engine.run_(self.prior, ef.MALA(PRIOR_STEP), z, chosen.num_steps, **counter)
        return z

    @torch.no_grad()
    def draw(self) -> Tensor:  # (n, *event)
        """Of images the generator's means, which its noise would blur."""
        means = self.generator(self.latents())
        return means + self.sigma * self.start(*means.shape, purpose="generator_noise") if self.on_plane else means

    @torch.no_grad()
    def density(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
        """-log of the mean of p(x | z) over samples z."""
        means = self.generator(self.latents())
        near = [torch.cdist(part, means).square().mul(-0.5 / self.sigma**2).logsumexp(1) for part in x.split(4096)]
        return math.log(len(means)) - torch.cat(near)
