"""The table of objectives that are compared: how each is built for a toy, and what it cannot do where it falls short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast import energies, noise
from ebm_fast.training.toys import Toy


@dataclass(frozen=True)
class Setting:
    """What is the same for every objective."""

    widths: tuple[int, ...] = (64, 64, 64)
    activation: str = "tanh"
    prior_std: float = 3.0
    """E(x) = MLP(x) + |x|^2 / (2 prior_std^2): without the second term nothing keeps exp(-E) integrable on the plane."""
    batch_size: int = 256
    num_data: int = 50_000
    learning_rate: float = 4e-3
    """Falls to 0 by a cosine over the run, after a short rise."""
    ema_decay: float = 0.99
    grad_clip: float = 10.0
    step_size: float = 0.01
    num_steps: int = 20
    """Langevin steps in a training iteration, for objectives that sample."""
    buffer_size: int = 1024
    """Chains of persistent objectives: few, so that each follows the energy closely."""


@dataclass
class Problem:
    """One toy with one fresh network, from which a method builds its objective."""

    toy: Toy
    data: Tensor  # (m, 2)
    setting: Setting
    seed: int
    mlp: energies.MLPEnergy = field(init=False)
    energy: Any = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.mlp = energies.MLPEnergy(2, self.setting.widths, self.setting.activation)
        confinement = energies.Gaussian(torch.zeros(2), precision=self.precision)
        self.energy = self.mlp + confinement

    @property
    def precision(self) -> float:
        return self.setting.prior_std**-2

    def langevin(self) -> ef.Langevin:
        """Chains on the network alone, so that they run in native code; the quadratic term is the sampler's prior."""
        return ef.Langevin(step_size=self.setting.step_size, prior_precision=self.precision)

    def buffer(self) -> ef.ReplayBuffer:
        return ef.ReplayBuffer(
            self.setting.buffer_size, (2,), init=("normal", self.setting.prior_std), rejuvenation=0.02, seed=self.seed
        )

    def chains(self) -> dict[str, Any]:
        """Arguments of the objectives that sample. The quadratic term has no parameters and cancels in their losses."""
        return {"energy": self.mlp, "sampler": self.langevin(), "num_steps": self.setting.num_steps, "seed": self.seed}

    def noise(self) -> noise.Gaussian:
        return noise.Gaussian.fit(self.data, covariance="full", widen=1.2)


Build = Callable[[Problem], Any]


@dataclass(frozen=True)
class Method:
    """One row of the comparison."""

    name: str
    """On the command line."""
    title: str
    family: str
    build: Build
    limit: str
    """Why it may miss the density, shown where it does."""


_LOCAL = (
    "The loss sees the gradient of E at the data alone. Between components that are far apart there are no data, so that "
    "their relative weights hardly enter"
)
_NOISE = "The noise overlaps the data badly where they are thin, and the classifier there is easy"
_CHAINS = "The samples are those of short chains of an unadjusted sampler, not of the model"

_METHODS = (
    Method(
        "cd", "ContrastiveDivergence", "maximum likelihood",
        lambda p: ef.ContrastiveDivergence(**p.chains()),
        "Chains start at the data and stay near them: low energies elsewhere, and the weights of components that no chain "
        "travels between, are never corrected",
    ),
    Method(
        "pcd", "PersistentCD", "maximum likelihood",
        lambda p: ef.PersistentCD(buffer=p.buffer(), **p.chains()),
        _CHAINS,
    ),
    Method(
        "short_run", "ShortRunMLE", "maximum likelihood",
        lambda p: ef.ShortRunMLE(init=("normal", p.setting.prior_std), **(p.chains() | {"num_steps": 100})),
        "What is learned is the sampler of so many steps from noise, and the energy only as far as those steps converge",
    ),
    Method(
        "esm", "ExplicitScoreMatching", "score matching",
        lambda p: ef.ExplicitScoreMatching(p.energy, energies.from_log_prob(p.toy), seed=p.seed),
        _LOCAL,
    ),
    Method("ism", "ImplicitScoreMatching", "score matching",
           lambda p: ef.ImplicitScoreMatching(p.energy, seed=p.seed), _LOCAL),
    Method("hutchinson", "HutchinsonScoreMatching", "score matching",
           lambda p: ef.HutchinsonScoreMatching(p.energy, seed=p.seed), _LOCAL),
    Method("ssm", "SlicedScoreMatching", "score matching",
           lambda p: ef.SlicedScoreMatching(p.energy, seed=p.seed), _LOCAL),
    Method("ssm_vr", "SlicedScoreMatching (VR)", "score matching",
           lambda p: ef.SlicedScoreMatching(p.energy, variance_reduced=True, seed=p.seed), _LOCAL),
    Method("fd_ssm", "FiniteDifferenceScoreMatching", "score matching",
           lambda p: ef.FiniteDifferenceScoreMatching(p.energy, step=0.02, seed=p.seed), _LOCAL),
    Method("dsm", "DenoisingScoreMatching", "score matching",
           lambda p: ef.DenoisingScoreMatching(p.energy, sigma=0.1, scaled=True, seed=p.seed),
           _LOCAL + ". The density learned is that of data blurred by sigma = 0.1"),
    Method("nce", "NCE", "noise contrast",
           lambda p: ef.NCE(p.energy, p.noise(), num_noise=4, seed=p.seed), _NOISE),
    Method("ranking_nce", "RankingNCE", "noise contrast",
           lambda p: ef.RankingNCE(p.energy, p.noise(), num_noise=255, shared=True, seed=p.seed), _NOISE),
    Method("cnce", "ConditionalNCE", "noise contrast",
           lambda p: ef.ConditionalNCE(p.energy, std=1.0, num_noise=4, seed=p.seed),
           "A datum is compared with its own neighbourhood, std = 1: weights of components further apart do not enter"),
    Method("bregman", "BregmanRatioMatching (KL)", "noise contrast",
           lambda p: ef.BregmanRatioMatching(p.energy, p.noise(), generator="kl", num_noise=4, seed=p.seed),
           "The ratio to the noise itself enters, not its logistic: few noise samples carry most of the loss"),
    Method("adance", "AdaptiveNCE", "self-adapting noise",
           lambda p: ef.AdaptiveNCE(buffer=p.buffer(), interval=5, **p.chains()), _CHAINS),
    Method("adaptive_bregman", "AdaptiveBregman (KL)", "self-adapting noise",
           lambda p: ef.AdaptiveBregman(buffer=p.buffer(), interval=5, generator="kl", **p.chains()), _CHAINS),
)  # fmt: skip

METHODS = {method.name: method for method in _METHODS}
