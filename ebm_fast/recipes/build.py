"""Data, energy, objective and trainer of a run's settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.noise.foreign import torch_seeded
from ebm_fast.training import (
    EMA,
    BatchStream,
    DivergenceMonitor,
    Images,
    Split,
    Trainer,
    load_cifar10,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    make_toy,
)
from ebm_fast.training.distributed import Rank

from . import two_players
from .config import IMAGES, Config
from .ladders import RecoveryLadder, ScoreLadder
from .latents import Latents
from .task import Task

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


OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "cd": lambda t: ef.ContrastiveDivergence(**t.sampling()),
    "pcd": lambda t: ef.PersistentCD(buffer=t.buffer(), **t.sampling()),
    "short_run": lambda t: ef.ShortRunMLE(init=t.init(), **t.sampling()),
    "adance": lambda t: ef.AdaptiveNCE(buffer=t.buffer(), interval=t.config.loss.interval, **t.sampling()),
    "adaptive_bregman": lambda t: ef.AdaptiveBregman(
        buffer=t.buffer(), interval=t.config.loss.interval, generator=t.config.loss.generator, **t.sampling()
    ),
    "nce": lambda t: ef.NCE(t.energy, **t.contrast()),
    "ranking_nce": lambda t: ef.RankingNCE(
        t.energy, t.noise(), num_noise=t.config.loss.num_noise * t.config.optimizer.batch_size, shared=True, **t.counter
    ),
    "cnce": lambda t: ef.ConditionalNCE(t.energy, t.sigma, num_noise=t.config.loss.num_noise, **t.counter),
    "bregman": lambda t: ef.BregmanRatioMatching(t.energy, generator=t.config.loss.generator, **t.ratio()),
    "fce": two_players.fce,
    "ace": two_players.ace,
    "variational": two_players.Variational.objective,
    "esm": lambda t: ef.ExplicitScoreMatching(t.energy, t.truth(), **t.counter),
    "ism": lambda t: ef.ImplicitScoreMatching(t.energy, **t.counter),
    "hutchinson": lambda t: ef.HutchinsonScoreMatching(t.energy, **t.counter),
    "ssm": lambda t: ef.SlicedScoreMatching(t.energy, variance_reduced=True, **t.counter),
    "fd_ssm": lambda t: ef.FiniteDifferenceScoreMatching(t.energy, **t.counter),
    "dsm": lambda t: ef.DenoisingScoreMatching(t.energy, t.sigma, scaled=True, **t.counter),
    "ncsn": lambda t: ef.NoiseConditionalScoreMatching(t.net, t.sigmas(), **t.counter),
    "recovery": RecoveryLadder.objective,
    "latent_mle": Latents.mle,
    "latent_ebm": Latents.ebm,
    "implicit_vae": Latents.vae,
}
"""What `--objective` names, made of a task."""
TASKS: dict[str, type[Task]] = {
    "variational": two_players.Variational, "ncsn": ScoreLadder, "recovery": RecoveryLadder, "latent_mle": Latents,
    "latent_ebm": Latents, "implicit_vae": Latents,
}  # fmt: skip
"""Of the objectives that train another network than an energy of the data, or draw in a way of their own."""


def build_trainer(
    config: Config, data: Tensor, directory: str | Path | None, rank: Rank | None = None, **options: Any
) -> tuple[Trainer, Task]:
    """Everything that a run of `config.iterations` iterations on data # (n, *event) needs, ready to fit.

    `rank`: this process, of several. options: further ones of `Trainer`.

    Raises ValueError or TypeError naming a setting that does not fit.
    """
    config = config.resolved()
    rank = rank or Rank(device=device(config))
    with torch_seeded(config.seed):  # networks, those of the objective included
        task = TASKS.get(config.objective, Task)(config, data.to(rank.device), rank)
        task.sampler()  # of the samples at the end, which every objective has
        objective, o, m = OBJECTIVES[config.objective](task), config.optimizer, config.monitor
    assert o.batch_size is not None
    monitor = None
    if m.max_rollbacks:
        monitor = DivergenceMonitor(
            max_rollbacks=m.max_rollbacks, learning_rate_factor=m.learning_rate_factor, spread=m.spread, bounds=m.bounds
        )

    def rate(iteration: int) -> float:
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        return min(1.0, (iteration + 1) / o.warmup) * fall

    optimizer = torch.optim.Adam(task.groups(objective), lr=o.learning_rate, betas=(o.beta1, o.beta2))
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
        monitor=monitor,
        tensorboard=config.tensorboard,
        **options,
    )
    return trainer, task
