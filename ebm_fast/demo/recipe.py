"""What the demo trains: data, network, sampler and optimiser of each data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

import ebm_fast as ef
from ebm_fast.models import ConvNetEnergy
from ebm_fast.objectives import PersistentCD
from ebm_fast.training import (
    EMA,
    BatchStream,
    ReplayBuffer,
    Split,
    Trainer,
    load_digits,
    load_fashion_mnist,
    load_mnist,
)

Layer = int | tuple[int, int, int, int]


@dataclass(frozen=True)
class Recipe:
    """Maximum likelihood with persistent chains of Langevin at temperature 1, on data with a little noise."""

    title: str
    channels: tuple[Layer, ...]
    hidden: tuple[int, ...]
    iterations_per_minute: int
    """Measured once on two CPU cores; iterations, not minutes, are what a run is made of."""
    activation: str = "silu"
    batch_size: int = 64
    num_steps: int = 10
    """Langevin steps in a training iteration."""
    step_size: float = 0.01
    buffer_size: int = 2000
    rejuvenation: float = 0.025
    data_noise: float = 0.2
    """Bounds the curvature of E near the data by about 1/0.2² = 25, far below the 2/step_size = 200 at which
    Langevin steps overshoot and the training runs away; with half this noise it did after 2000 iterations."""
    learning_rate: float = 2e-3
    warmup: int = 50
    """Iterations over which the learning rate rises; afterwards it falls to 2 % of its peak by a cosine."""
    clamp: float = 1.5
    """Bound on the state, far outside the data: a chain that runs away must not take the energy along."""
    grad_clip: float = 100.0
    """Bound on the norm of the parameters' gradient, for the same reason."""
    ema_decay: float = 0.995
    sampling_steps: int = 200
    """Steps from noise to sample, by the averaged network; much longer chains drift towards the likeliest
    class."""
    denoising_steps: int = 20
    """Further steps over which the noise falls to nothing."""

    def sampler(self) -> ef.Langevin:
        return ef.Langevin(step_size=self.step_size, clamp=(-self.clamp, self.clamp))


_DIGITS = ((3, 1, 1, 32), (3, 2, 1, 64), (3, 2, 1, 128))
_MNIST = ((5, 2, 2, 32), (3, 2, 1, 64), (3, 2, 1, 128))

RECIPES = {
    "digits": Recipe("8x8 digits", _DIGITS, (128,), iterations_per_minute=1300),
    "mnist": Recipe("MNIST", _MNIST, (128,), iterations_per_minute=500),
    "fashion_mnist": Recipe("Fashion-MNIST", _MNIST, (128,), iterations_per_minute=500),
}


def load_data(name: str, root: Path | None) -> Split:
    """The training part and the held-out part: halves of the digits, or the standard train and test files.

    Raises ValueError for an unknown name, or a root that is missing or not needed; for what is wrong with
    files, see `ebm_fast.training.data.load_mnist`.
    """
    if name not in RECIPES:
        raise ValueError(f"data: expected one of {', '.join(RECIPES)}, got {name!r}")
    if name == "digits":
        if root is not None:
            raise ValueError(f"root: the digits are bundled with scikit-learn and need no folder, got {root}")
        return load_digits()
    if root is None:
        raise ValueError(f"root: expected the folder with the IDX files of {name} (--root DIR), got none")
    if not root.is_dir():
        raise NotADirectoryError(f"root: {root} is not a folder")
    load = load_mnist if name == "mnist" else load_fashion_mnist
    return Split(load(root, train=True), load(root, train=False))


def build_trainer(
    recipe: Recipe, images: torch.Tensor, iterations: int, seed: int, directory: Path
) -> Trainer:
    """Everything that a run of ``iterations`` iterations on images (n, C, H, H) in [-1, 1] needs, ready to
    fit."""
    event_shape = images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        energy = ConvNetEnergy(
            event_shape[0], event_shape[1], recipe.channels, recipe.hidden, activation=recipe.activation
        )
    energy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = PersistentCD(
        energy,
        recipe.sampler(),
        ReplayBuffer(
            recipe.buffer_size,
            event_shape,
            init=("uniform", -1.0, 1.0),
            rejuvenation=recipe.rejuvenation,
            seed=seed,
        ),
        num_steps=recipe.num_steps,
        data_noise=recipe.data_noise,
        seed=seed,
    )

    def rate(iteration: int) -> float:
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        return min(1.0, (iteration + 1) / recipe.warmup) * fall

    optimizer = torch.optim.Adam(energy.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.999))
    return Trainer(
        energy,
        objective,
        optimizer,
        BatchStream(images, recipe.batch_size, seed),
        grad_clip=recipe.grad_clip,
        ema=EMA(energy, recipe.ema_decay),
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        directory=directory,
        checkpoint_every=max(1, iterations // 20),
        log_every=max(1, iterations // 500),
    )
