"""Runs along a ladder of noise levels: score matching (ncsn) and diffusion recovery likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import energies
from ebm_fast.models import NCSN, LevelEnergy, NoiseConditionalEnergy, ScoreMLP
from ebm_fast.noise.foreign import derived_seed
from ebm_fast.objectives import diffusion_sigmas, geometric_sigmas

from .task import Task


class ScoreLadder(Task):
    """ncsn: on images a score network, on the plane an energy made of one; samples by annealed Langevin."""

    def network(self) -> nn.Module:
        std = self.data.std().item()
        if self.on_plane:
            return NoiseConditionalEnergy(ScoreMLP(2, self.hidden, data_std=std))
        return NCSN(self.event[0], self.sides, self.widths, data_std=std)

    def sigmas(self) -> tuple[float, ...]:
        """From the largest distance between data, at which nothing of them is left, to sigma (Song and Ermon 2020)."""
        largest = torch.pdist(self.data[:500].flatten(1)).max().item()
        if not largest > self.sigma:
            raise ValueError(f"loss.sigma: expected less than {largest:.3g}, the largest distance of data, got {self.sigma}")
        return geometric_sigmas(largest, self.sigma, self.config.loss.num_levels)

    def sampler(self) -> ef.AnnealedLangevin:
        sigmas, steps = self.sigmas(), self.config.sampling.num_steps
        assert steps is not None
        return ef.AnnealedLangevin(
            sigmas, self.step_size * self.sigma**2, steps_per_level=max(1, steps // len(sigmas)), denoise=True
        )

    def draw(self) -> Tensor:  # (n, *event)
        sampler, count = self.sampler(), self.config.sampling.num_samples
        assert count is not None
        x = self.start(count, *self.event).mul_(sampler.sigmas[0])
        energy = self.net if self.on_plane else energies.from_score(self.net)
        ef.engine.run_(energy, sampler, x, sampler.num_steps, seed=self.config.seed)
        return x

    def density(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
        return self.net(x, sigma=torch.full_like(x[:, 0], self.sigma))


class NumberedLevels(nn.Module):
    """E(x, t) = E(x, sigma_t) of an energy that is told sigma."""

    sigmas: Tensor

    def __init__(self, energy: NoiseConditionalEnergy, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("sigmas", torch.tensor(sigmas))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # (n, *event), (n,) int64 -> (n,)
        return self.energy(x, self.sigmas[t])


class RecoveryLadder(Task):
    """recovery: energies E(x, t) of data of variance about 1, and their own way down the ladder."""

    def network(self) -> nn.Module:
        if self.on_plane:
            self.scale = self.data.std().item()
            self.data = self.data / self.scale
            return LevelEnergy(2, self.config.loss.num_levels, self.hidden)
        # Where pixels never vary, data without noise have no density, and the lowest level's energy steepens without end.
        self.blur(self.config.loss.data_noise or 0.0)
        unet = NCSN(self.event[0], self.sides, self.widths, data_std=self.data.std().item())
        return NumberedLevels(NoiseConditionalEnergy(unet), self.sigmas())

    def sigmas(self) -> tuple[float, ...]:
        return diffusion_sigmas(self.config.loss.num_levels)

    def sampler(self) -> ef.Langevin:
        return ef.Langevin(self.step_size, self.config.chains.noise_std)

    def objective(self) -> ef.DiffusionRecoveryLikelihood:
        return ef.DiffusionRecoveryLikelihood(
            self.net, self.sigmas(), self.sampler(), num_steps=self.config.chains.num_steps, **self.counter
        )

    def draw(self) -> Tensor:  # (n, *event)
        chosen = self.config.sampling
        assert chosen.num_samples is not None and chosen.num_steps is not None
        x = self.objective().sample(
            chosen.num_samples, tuple(self.event), num_steps=max(1, chosen.num_steps // self.config.loss.num_levels),
            seed=derived_seed(self.config.seed, self.config.iterations + 1, purpose="init"), device=self.data.device,
        )  # fmt: skip
        return x * self.scale

    def density(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
        """E(., 0) is of sqrt(1 - sigma_1^2) x_0."""
        shrink = math.sqrt(1.0 - self.sigmas()[0] ** 2)
        return self.net(x * (shrink / self.scale), torch.zeros(len(x), dtype=torch.int64, device=x.device))
