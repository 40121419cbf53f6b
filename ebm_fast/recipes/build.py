"""Data, energy, objective and trainer of a run's settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import energies, noise
from ebm_fast.models import ConvNetEnergy
from ebm_fast.training import (
    EMA,
    BatchStream,
    Images,
    ReplayBuffer,
    Split,
    Trainer,
    load_cifar10,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    make_toy,
)
from ebm_fast.training.distributed import Rank

from .config import IMAGES, Config

_POINTS = 50_000  # of a density of the plane


def load_data(name: str, root: Path | None) -> Split:
    """The training part and the held-out part: halves of the digits, or the standard train and test files.

    Raises ValueError for an unknown name, or a root that is missing or not needed; for what is wrong with
    files, see `ebm_fast.training.data.load_mnist`.
    """
    return Split(_load(name, root, train=True), _load(name, root, train=False))


def _load(name: str, root: Path | None, train: bool) -> Images:
    """One part of the files; errors as `load_data`."""
    if name not in IMAGES:
        raise ValueError(f"data: expected one of {', '.join(IMAGES)}, got {name!r}")
    if name == "digits":
        if root is not None:
            raise ValueError(f"root: the digits are bundled with scikit-learn and need no folder, got {root}")
        split = load_digits()
        return split.train if train else split.held_out
    if root is None:
        raise ValueError(f"root: expected the folder with the files of {name} (--root DIR), got none")
    if not root.is_dir():
        raise NotADirectoryError(f"root: {root} is not a folder")
    load = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist, "cifar10": load_cifar10}[name]
    return load(root, train=train)


def training_data(config: Config) -> Tensor:  # (n, *event)
    """Images in [-1, 1], of the training files alone, or points of the plane; errors as `load_data`."""
    if config.data in IMAGES:
        return _load(config.data, None if config.root is None else Path(config.root), train=True).images
    if config.root is not None:
        raise ValueError(f"root: {config.data} is drawn and needs no folder, got {config.root}")
    return make_toy(config.data).sample(_POINTS, seed=config.seed)


def device(config: Config) -> torch.device:
    """Of the settings; ValueError for one that is not here."""
    try:
        found = torch.device(config.device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {config.device}")
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= here:
        raise ValueError(f"device: expected one that PyTorch sees (cpu and {here} of cuda), got {config.device}")
    return found


class Task:
    """What objectives of a run are made of, in the process `rank`. data # (n, *event); the settings are resolved."""

    def __init__(self, config: Config, data: Tensor, rank: Rank) -> None:
        assert config.optimizer.batch_size is not None
        self.config, self.data, self.event, self.rank = config, data, data.shape[1:], rank
        first = rank.offset(config.optimizer.batch_size, "batch_size")
        self.counter: dict[str, Any] = {"seed": config.seed, "chain_offset": first}
        network, self.on_plane = config.network, data.dim() == 2
        assert network.channels is not None and network.hidden is not None and network.activation is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if self.on_plane:
                net: nn.Module = energies.MLPEnergy(2, network.hidden, network.activation)
            else:
                net = ConvNetEnergy(
                    self.event[0], self.event[1], network.channels, network.hidden, activation=network.activation
                ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = net.to(data.device)
        self.energy: Any = self.net
        """The network, with the quadratic term on the plane."""
        self.precision = 0.0
        """Of that term, which chains on the network alone take as the sampler's prior."""
        if self.on_plane:
            self.precision = network.prior_std**-2
            self.energy = self.net + energies.Gaussian(torch.zeros(2), precision=self.precision).to(data.device)

    def sampler(self) -> ef.Langevin:
        chains = self.config.chains
        clamp = None if chains.clamp is None else (-chains.clamp, chains.clamp)
        return ef.Langevin(chains.step_size, chains.noise_std, clamp=clamp, prior_precision=self.precision)

    def init(self) -> tuple[Any, ...]:
        """Where chains begin."""
        return ("normal", self.config.network.prior_std) if self.on_plane else ("uniform", -1.0, 1.0)

    def sampling(self) -> dict[str, Any]:
        """Arguments of the objectives that sample."""
        loss = self.config.loss
        return {
            "energy": self.net, "sampler": self.sampler(), "num_steps": self.config.chains.num_steps,
            "data_noise": loss.data_noise, **self.counter,
        }  # fmt: skip

    def sigma(self) -> float:
        """Of the noise that objectives perturb data by."""
        assert self.config.loss.sigma is not None
        return self.config.loss.sigma

    def buffer(self) -> ReplayBuffer:
        chains, batch = self.config.chains, self.config.optimizer.batch_size
        assert batch is not None
        if chains.buffer_size < batch:
            raise ValueError(f"chains.buffer_size: expected at least the batch of {batch}, got {chains.buffer_size}")
        return ReplayBuffer(
            self.rank.share(chains.buffer_size, "buffer_size"), self.event, init=self.init(),
            rejuvenation=chains.rejuvenation, device=self.data.device, seed=self.config.seed,
            chain_offset=self.rank.offset(chains.buffer_size),
        )  # fmt: skip

    def noise(self) -> dict[str, Any]:
        """A Gaussian wider than the data, and log Z where the data's odds begin at 1."""
        full = noise.Gaussian.fit(self.data, covariance="full" if self.on_plane else "diagonal", floor=0.1, widen=1.2)
        x = self.data[:1000]
        with torch.no_grad():
            log_z = -(self.energy(x) + full.log_prob(x)).mean().item()
        return {"noise": full, "log_z": log_z}


OBJECTIVES: dict[str, Callable[[Task], Any]] = {
    "cd": lambda t: ef.ContrastiveDivergence(energy_l2=t.config.loss.energy_l2, **t.sampling()),
    "pcd": lambda t: ef.PersistentCD(buffer=t.buffer(), energy_l2=t.config.loss.energy_l2, **t.sampling()),
    "short_run": lambda t: ef.ShortRunMLE(init=t.init(), energy_l2=t.config.loss.energy_l2, **t.sampling()),
    "adance": lambda t: ef.AdaptiveNCE(buffer=t.buffer(), interval=t.config.loss.interval, **t.sampling()),
    "nce": lambda t: ef.NCE(t.energy, num_noise=t.config.loss.num_noise, **t.counter, **t.noise()),
    "cnce": lambda t: ef.ConditionalNCE(
        t.energy, t.sigma(), num_noise=t.config.loss.num_noise, **t.counter
    ),
    "dsm": lambda t: ef.DenoisingScoreMatching(t.energy, t.sigma(), scaled=True, **t.counter),
    "ssm": lambda t: ef.SlicedScoreMatching(t.energy, variance_reduced=True, **t.counter),
}


def build_trainer(
    config: Config, data: Tensor, directory: str | Path | None, rank: Rank | None = None, **options: Any
) -> tuple[Trainer, Task]:
    """Everything that a run of `config.iterations` iterations on data # (n, *event) needs, ready to fit.

    `rank`: this process, of several. options: further ones of `Trainer`.

    Raises ValueError or TypeError naming a setting that does not fit.
    """
    config = config.resolved()
    rank = rank or Rank(device=device(config))
    task = Task(config, data.to(rank.device), rank)
    task.sampler()  # of the samples at the end, which every objective has
    objective, o = OBJECTIVES[config.objective](task), config.optimizer
    assert o.batch_size is not None

    def rate(iteration: int) -> float:
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        return min(1.0, (iteration + 1) / o.warmup) * fall

    optimizer = torch.optim.Adam(objective.parameters(), lr=o.learning_rate, betas=(o.beta1, o.beta2))
    trainer = Trainer(
        task.net,
        objective,
        optimizer,
        BatchStream(task.data, o.batch_size, config.seed, rank=rank),
        grad_clip=o.grad_clip,
        ema=EMA(task.net, o.ema_decay),
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        directory=directory,
        checkpoint_every=max(1, config.iterations // 20),
        log_every=max(1, config.iterations // 500),
        autocast=torch.bfloat16 if config.bfloat16 else None,
        **options,
    )
    return trainer, task
