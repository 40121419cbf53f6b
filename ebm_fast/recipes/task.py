"""What objectives of a run are made of: the network, chains on it, noise, and samples at the end."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import energies, noise
from ebm_fast.models import ConvNetEnergy
from ebm_fast.training import ReplayBuffer, make_toy
from ebm_fast.training.distributed import Rank

from .config import Config
from .sampling import from_noise


class Task:
    """An energy of the data, in the process `rank`. data # (n, *event); the settings are resolved.

    Subclasses have other networks than an energy E(x), and their own way from noise to samples.
    """

    scale = 1.0
    """What the data were divided by."""

    def __init__(self, config: Config, data: Tensor, rank: Rank) -> None:
        assert config.optimizer.batch_size is not None
        self.config, self.event, self.rank = config, data.shape[1:], rank
        self.real = self.data = data
        self.on_plane = data.dim() == 2
        smooth = ("silu", "tanh", "softplus")
        if self.on_plane and config.network.activation not in smooth:
            raise ValueError(
                f"network.activation: expected one of {', '.join(smooth)} on the plane, got {config.network.activation!r}"
            )
        first = rank.offset(config.optimizer.batch_size, "batch_size")
        self.counter: dict[str, Any] = {"seed": config.seed, "chain_offset": first}
        self.net = self.network().to(data.device)
        self.precision = config.network.prior_std**-2 if self.on_plane else 0.0
        """Of the quadratic term, which chains on the network alone take as the sampler's prior."""

    def network(self) -> nn.Module:
        """What is trained, and averaged for the samples at the end."""
        chosen = self.config.network
        assert chosen.channels is not None and chosen.hidden is not None and chosen.activation is not None
        if self.on_plane:
            return energies.MLPEnergy(2, chosen.hidden, chosen.activation)
        net = ConvNetEnergy(self.event[0], self.event[1], chosen.channels, chosen.hidden, activation=chosen.activation)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def energy(self) -> Any:
        """The network, with the quadratic term on the plane."""
        if not self.on_plane:
            return self.net
        return self.net + energies.Gaussian(torch.zeros(2), precision=self.precision).to(self.data.device)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of fully connected layers."""
        assert self.config.network.hidden is not None
        return self.config.network.hidden

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of the convolutions of images."""
        assert self.config.network.channels is not None
        return tuple(entry if isinstance(entry, int) else entry[3] for entry in self.config.network.channels)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of images."""
        return self.event[1], self.event[2]

    @property
    def energy_l2(self) -> float:
        assert self.config.loss.energy_l2 is not None
        return self.config.loss.energy_l2

    @property
    def sigma(self) -> float:
        assert self.config.loss.sigma is not None
        return self.config.loss.sigma

    @property
    def step_size(self) -> float:
        assert self.config.chains.step_size is not None
        return self.config.chains.step_size

    def sampler(self) -> Any:
        chains = self.config.chains
        clamp = None if chains.clamp is None else (-chains.clamp, chains.clamp)
        return ef.Langevin(self.step_size, chains.noise_std, clamp=clamp, prior_precision=self.precision)

    def init(self) -> tuple[Any, ...]:
        """Where chains begin that are not to begin at data."""
        return ("normal", self.config.network.prior_std) if self.on_plane else ("uniform", -1.0, 1.0)

    def sampling(self) -> dict[str, Any]:
        """Arguments of the objectives that sample."""
        loss = self.config.loss
        return {
            "energy": self.net, "sampler": self.sampler(), "num_steps": self.config.chains.num_steps,
            "data_noise": loss.data_noise, "energy_l2": self.energy_l2, "gradient_penalty": loss.gradient_penalty, **self.counter,
        }  # fmt: skip

    def buffer(self) -> ReplayBuffer:
        chains, batch = self.config.chains, self.config.optimizer.batch_size
        assert batch is not None
        if chains.buffer_size < batch:
            raise ValueError(f"chains.buffer_size: expected at least the batch of {batch}, got {chains.buffer_size}")
        # From a wide Gaussian chains arrive too slowly on the plane: the energy would grow walls about the outline of the data.
        init = self.data if self.on_plane else self.init()
        return ReplayBuffer(
            self.rank.share(chains.buffer_size, "buffer_size"), self.event, init=init,
            rejuvenation=chains.rejuvenation, device=self.data.device, seed=self.config.seed,
            chain_offset=self.rank.offset(chains.buffer_size),
        )  # fmt: skip

    def noise(self) -> noise.Gaussian:
        """A Gaussian wider than the data."""
        return noise.Gaussian.fit(self.data, covariance="full" if self.on_plane else "diagonal", floor=0.1, widen=1.2)

    def log_z(self) -> float:
        """Where the data's odds against that noise begin at 1."""
        x = self.data[:1000]
        with torch.no_grad():
            return -(self.energy(x) + self.noise().log_prob(x)).mean().item()

    def contrast(self) -> dict[str, Any]:
        """Arguments of the objectives that tell data from noise."""
        return {"noise": self.noise(), "log_z": self.log_z(), "num_noise": self.config.loss.num_noise, **self.counter}

    def ratio(self) -> dict[str, Any]:
        """The same where the ratio enters as it is: log Z by importance sampling, so that none begins far above 1."""
        noise = self.noise()
        x = noise.sample_(self.data.new_empty(4096, *self.event), seed=self.config.seed, step=self.config.iterations + 1)
        with torch.no_grad():
            log_ratio = -(self.energy(x) + noise.log_prob(x))
        return {**self.contrast(), "log_z": log_ratio.logsumexp(0).item() - math.log(len(x))}

    def truth(self) -> Any:
        """The energy of the data's own density."""
        if not self.on_plane:
            raise ValueError(
                f"objective: esm needs the score of the data, which is known of densities on the plane alone, got data "
                f"{self.config.data}; dsm and ssm learn from the data themselves"
            )
        return energies.from_log_prob(make_toy(self.config.data).to(self.data.device))

    def blur(self, std: float) -> None:
        """Noise on the data, the same in every epoch."""
        self.data = self.data + std * self.start(*self.data.shape, purpose="data_noise")

    def groups(self, objective: Any) -> Any:
        """What the optimiser takes."""
        return objective.parameters()

    def start(self, *shape: int, purpose: str = "init", uniform: bool = False) -> Tensor:  # shape
        """Normal or uniform numbers that no iteration of the training has drawn."""
        out = torch.empty(*shape, device=self.data.device)
        draw = ef.ops.uniform_ if uniform else ef.ops.normal_
        return draw(out, seed=self.config.seed, step=self.config.iterations + 1, purpose=purpose)

    def draw(self) -> Tensor:  # (n, *event)
        """Samples from noise, in units of the data as they came."""
        chosen = self.config.sampling
        assert chosen.num_samples is not None and chosen.num_steps is not None and chosen.denoising_steps is not None
        start = self.start(chosen.num_samples, *self.event, uniform=not self.on_plane)
        start = start.mul_(self.config.network.prior_std) if self.on_plane else start.mul_(2).sub_(1)
        samples, _, _ = from_noise(
            self.net, self.sampler(), start, num_steps=chosen.num_steps, denoising_steps=chosen.denoising_steps,
            seed=self.config.seed, first_step=self.config.iterations * self.config.chains.num_steps,
        )  # fmt: skip
        return samples

    def density(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
        """On the plane an energy of the density that was learned."""
        return self.energy(x)
