"""The settings of a training run: typed, read from the command line and from files, saved with the run."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from ebm_fast.training.checkpoint import write_atomically

Layer = int | tuple[int, int, int, int]
Data = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "8gaussians", "moons", "spirals", "checkerboard", "pinwheel", "rings"
]
Objective = Literal[
    "cd", "pcd", "short_run", "adance", "adaptive_bregman", "nce", "ranking_nce", "cnce", "bregman", "fce", "ace", "variational",
    "esm", "ism", "hutchinson", "ssm", "fd_ssm", "dsm", "ncsn", "recovery", "latent_mle", "latent_ebm", "implicit_vae",
]  # fmt: skip
IMAGES = ("digits", "mnist", "fashion_mnist", "cifar10")
FILE = "config.json"
_LEAST = {
    "iterations": 1, "threads": 1, "seed": 0, "chains.num_steps": 1, "chains.buffer_size": 1, "optimizer.batch_size": 1,
    "optimizer.warmup": 1, "network.latent_dim": 1, "loss.num_levels": 2, "monitor.max_rollbacks": 0,
    "sampling.num_samples": 1, "sampling.num_steps": 0, "sampling.denoising_steps": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """The energy, and in its place the U-Net of ncsn and recovery, the generators and encoders of those that have them.

    Args:
        channels: convolutions of images: output channels, or (kernel, stride, padding, output channels). U-Nets and generators,
            which halve or double the side in each layer, take the output channels.
        hidden: widths of the fully connected layers.
        activation: of the energy: silu, leaky_relu, elu, gelu, softplus or relu for images, silu, tanh or softplus on the plane.
        prior_std: on the plane E(x) = network + |x|^2 / (2 prior_std^2), so that exp(-E) can be integrated.
        latent_dim: numbers that a generator makes an event of (ace, variational, latent_mle, latent_ebm, implicit_vae).
    """

    channels: tuple[Layer, ...] | None = None
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    prior_std: float = 3.0
    latent_dim: int | None = None


@dataclass(frozen=True)
class Chains:
    """Langevin chains, of training and of the samples at its end; of latent_mle and latent_ebm in the latents.

    Args:
        step_size: x - step_size grad E + noise; on a ladder (ncsn, recovery) in units of the level's variance.
        num_steps: in a training iteration.
        noise_std: None couples it to the step size, at temperature 1.
        clamp: bound on the state, where that is data.
        buffer_size: persistent chains of pcd, adance and adaptive_bregman.
        rejuvenation: share of the chains drawn that begin anew.
    """

    step_size: float | None = None
    num_steps: int = 10
    noise_std: float | None = None
    clamp: float | None = None
    buffer_size: int = 2000
    rejuvenation: float = 0.025


@dataclass(frozen=True)
class Loss:
    """Of the objectives that have them.

    Args:
        data_noise: standard deviation of noise on the data (cd, pcd, short_run, adance, adaptive_bregman;
            of images, drawn once, recovery).
        energy_l2: weight of the squares of the energies (cd, pcd, short_run, adance, adaptive_bregman, variational).
        gradient_penalty: weight of the squared gradients at data and samples (the same).
        interval: iterations between two copies of the network (adance, adaptive_bregman).
        num_noise: noise samples for each datum (nce, cnce, ranking_nce, which shares them in the batch, bregman, ace).
        sigma: of the noise (dsm, cnce, the last level of ncsn), or about a generator's output, which ace learns.
        num_levels: of the ladder (ncsn, recovery).
        generator: logistic, kl, squared, itakura_saito or power (bregman, adaptive_bregman).
    """

    data_noise: float | None = None
    energy_l2: float | None = None
    gradient_penalty: float = 0.0
    interval: int = 5
    num_noise: int = 4
    sigma: float | None = None
    num_levels: int = 10
    generator: str = "kl"


@dataclass(frozen=True)
class Optimizer:
    """Adam, whose learning rate rises over `warmup` iterations and falls to 2 % of its peak by a cosine.

    Args:
        batch_size: rows of data.
        learning_rate: its peak, a tenth of it for the prior of latent_ebm; constant for a second player (fce, ace, variational,
            implicit_vae). On the plane variational takes half of it for the energy and five times as much for its flow.
        beta1: of Adam.
        beta2: of Adam.
        warmup: iterations.
        grad_clip: bound on the norm of the gradient of all parameters.
        ema_decay: of the averaged network, which the samples are drawn from.
    """

    batch_size: int | None = None
    learning_rate: float = 2e-3
    beta1: float = 0.0
    beta2: float = 0.999
    warmup: int = 50
    grad_clip: float = 100.0
    ema_decay: float = 0.995


@dataclass(frozen=True)
class Sampling:
    """The samples at the end.

    Args:
        num_samples: chains.
        num_steps: from noise; down the whole ladder of ncsn or recovery, in the latents of latent_ebm.
        denoising_steps: further ones in the data's space, over which the noise falls to nothing.
    """

    num_samples: int | None = None
    num_steps: int | None = None
    denoising_steps: int | None = None


@dataclass(frozen=True)
class Monitor:
    """Roll-back of a run that diverges: parameters, optimisers, average, chains, seeds.

    Args:
        max_rollbacks: 0 ends the run where a number is not finite; above 0 it returns to its last checkpoint, so often at most.
        learning_rate_factor: what each roll-back multiplies the learning rate by.
        spread: how many widths of the range of the last 100 iterations the loss or an energy may leave it by.
        bounds: of metrics by name, such as {"gap": [-1000, 1000]}.
    """

    max_rollbacks: int = 0
    learning_rate_factor: float = 1.0
    spread: float = 20.0
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Train one network by one objective on one data set. What is null here is chosen by data and objective and written to
    config.json.

    Args:
        data: bundled digits, files under root, or a density of the plane.
        root: folder of the files of mnist, fashion_mnist or cifar10.
        objective: what is minimised.
        iterations: of the optimiser.
        seed: governs everything random.
        device: cpu, cuda or cuda:N.
        threads: CPU threads; null leaves torch's choice.
        bfloat16: the objective under torch.autocast.
        tensorboard: the numbers of log.csv as curves in checkpoint/tensorboard/ too (extra tensorboard).
        network: the energy.
        chains: Langevin.
        loss: further numbers of the objective.
        optimizer: Adam.
        monitor: roll-back.
        sampling: at the end.
    """

    data: Data = "digits"
    root: str | None = None
    objective: Objective = "pcd"
    iterations: int = 2000
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    bfloat16: bool = False
    tensorboard: bool = False
    network: Network = field(default_factory=Network)
    chains: Chains = field(default_factory=Chains)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    monitor: Monitor = field(default_factory=Monitor)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = attrgetter(name)(self)
            if value is not None and not least <= value < 2**63:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        for name in ("network.prior_std", "chains.step_size"):
            value = attrgetter(name)(self)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name}: expected a finite number above 0, got {value}")
        for name in ("energy_l2", "gradient_penalty"):
            if getattr(self.loss, name) and self.objective not in _PENALISED:
                raise ValueError(f"loss.{name}: expected 0 with {self.objective}, which has no such term, got "
                                 f"{getattr(self.loss, name)}; {', '.join(_PENALISED)} have it")  # fmt: skip
        if not self.monitor.max_rollbacks and self.monitor != Monitor():
            raise ValueError("monitor.max_rollbacks: expected at least 1 beside other settings of the monitor, got 0")

    def resolved(self) -> Config:
        """With a number for all that was left to data and objective."""
        of_data, of_objective = _CHOICES.get(self.data, _PLANE), _OF_OBJECTIVES.get(self.objective, {})
        parts = {}
        for name, values in of_data.items():
            part = getattr(self, name)
            chosen = {**values, **of_objective.get(name, {})}
            parts[name] = replace(part, **{key: value for key, value in chosen.items() if getattr(part, key) is None})
        return replace(self, **parts)


_PENALISED = ("cd", "pcd", "short_run", "adance", "adaptive_bregman", "variational")
_DRAWN = {"num_samples": 100, "num_steps": 200, "denoising_steps": 20}
_PLANE: dict[str, dict[str, Any]] = {
    "network": {"channels": (), "hidden": (64, 64, 64), "activation": "tanh", "latent_dim": 2},
    "chains": {"step_size": 0.01},
    "loss": {"data_noise": 0.0, "energy_l2": 0.0, "sigma": 0.1},
    "optimizer": {"batch_size": 256},
    "sampling": {"num_samples": 1000, "num_steps": 1000, "denoising_steps": 0},
}


def _images(*channels: Layer) -> dict[str, dict[str, Any]]:
    """data_noise bounds the curvature of E near the data by about 1 / 0.2^2 = 25, far below the 2 / step_size = 200 at which
    Langevin steps overshoot and training runs away. clamp lies far outside the data: a chain that runs away must not take the
    energy along."""
    return {
        "network": {"channels": channels, "hidden": (128,), "activation": "silu", "latent_dim": 16},
        "chains": {"step_size": 0.01, "clamp": 1.5},
        "loss": {"data_noise": 0.2, "energy_l2": 0.0, "sigma": 0.3},
        "optimizer": {"batch_size": 64},
        "sampling": _DRAWN,
    }


_LARGE = _images((5, 2, 2, 32), (3, 2, 1, 64), (3, 2, 1, 128))
_CHOICES = {
    "digits": _images((3, 1, 1, 32), (3, 2, 1, 64), (3, 2, 1, 128)),
    "mnist": _LARGE,
    "fashion_mnist": _LARGE,
    "cifar10": _LARGE,
}
_LADDER: dict[str, dict[str, Any]] = {"chains": {"step_size": 0.1}, "loss": {"sigma": 0.1}}
_GENERATOR: dict[str, dict[str, Any]] = {"loss": {"sigma": 0.3}}
_OF_OBJECTIVES = {
    "ncsn": _LADDER, "recovery": _LADDER, "ace": _GENERATOR, "variational": {"loss": {"sigma": 0.3, "energy_l2": 0.01}},
    "latent_mle": _GENERATOR, "latent_ebm": _GENERATOR, "implicit_vae": _GENERATOR,
}  # fmt: skip


def _parser() -> Any:
    try:
        from jsonargparse import ActionConfigFile, ArgumentParser
    except ImportError:
        raise ModuleNotFoundError("ebm-fast train needs jsonargparse: pip install 'ebm_fast[train]'") from None
    parser = ArgumentParser(
        prog="ebm-fast train", exit_on_error=False,
        description="Train one network by one objective on one data set; leaves config.json, samples.png, curves.png and "
        "checkpoint/ in the output folder.",
    )  # fmt: skip
    parser.add_argument("--config", action=ActionConfigFile, help="JSON or YAML with any of the settings; later ones win")
    parser.add_argument("--out", type=Path, default=Path("runs/train"), help="output folder of a new run")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in that folder, to the same bits")
    parser.add_class_arguments(Config, None)
    return parser


def parse(arguments: Sequence[str]) -> tuple[Config, Path, bool]:
    """(settings, output folder, whether its run is resumed) of a command line.

    Raises:
        ValueError: a setting that is unknown, of a wrong type or out of range; other settings beside --resume.
        OSError: a file of settings that is not there.
        SystemExit: after --help and --print_config.
    """
    parser = _parser()
    try:
        found = parser.parse_args(list(arguments))
        made = vars(parser.instantiate(found))
    except argparse.ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if made["resume"] is not None:
        if len(arguments) > 2 - any(word.startswith("--resume=") for word in arguments):
            raise ValueError("resume: goes on with the settings in that folder; leave the others out")
        return load_config(made["resume"] / FILE), made["resume"], True
    return Config(**{name: made[name] for name in Config.__dataclass_fields__}).resolved(), made["out"], False


def load_config(path: str | Path) -> Config:
    """The settings in a file; errors as `parse`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the settings of a run, found no such file")
    return parse(["--config", str(path)])[0]


def save_config(config: Config, path: str | Path) -> None:
    """JSON that `load_config` reads to equal settings."""
    write_atomically(Path(path), (json.dumps(asdict(config), indent=2) + "\n").encode())
