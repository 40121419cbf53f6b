"""The table of objectives that are compared: how each is built for a toy, and what it cannot do where it falls short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast import energies, noise
from ebm_fast.noise.foreign import torch_seeded
from ebm_fast.training.toys import Toy

from . import two_players

SHORT_RUN, SHORT_STEP = 60, 0.1  # steps of a chain of short-run learning, and the size of the first
SIGMA = 0.1  # of denoising


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
    """Of Langevin, where the toy is not too thin for it."""
    step_share: float = 0.25
    """Bound on the step as a share of the squared width of the toy. A step s adds noise of variance 2 s: from half of the squared
    width on, chains are wider than the data whatever the energy, which then grows steeper without end."""
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
    log_z: float = field(init=False)
    """Of the energy before the network has learned anything, where a learnable log Z starts."""

    def __post_init__(self) -> None:
        with torch_seeded(self.seed):
            self.mlp = energies.MLPEnergy(2, self.setting.widths, self.setting.activation)
        confinement = energies.Gaussian(torch.zeros(2), precision=self.precision)
        self.energy = self.mlp + confinement
        self.log_z = confinement.log_z.item()

    @property
    def precision(self) -> float:
        return self.setting.prior_std**-2

    @property
    def step_size(self) -> float:
        return min(self.setting.step_size, self.setting.step_share * self.toy.width**2)

    def langevin(self, step_size: tuple[float, ...] | None = None) -> ef.Langevin:
        """Chains on the network alone, so that they run in native code; the quadratic term is the sampler's prior."""
        return ef.Langevin(step_size or self.step_size, prior_precision=self.precision)

    def falling(self) -> ef.Langevin:
        """Steps that fall geometrically over a short run: the first ones cross the plane, the last ones fit the toy."""
        ratio = self.step_size / SHORT_STEP
        return self.langevin(tuple(SHORT_STEP * ratio ** (i / (SHORT_RUN - 1)) for i in range(SHORT_RUN)))

    def buffer(self) -> ef.ReplayBuffer:
        """Chains that begin, and now and then begin anew, at data: from a wide Gaussian they arrive too slowly on thin shapes."""
        return ef.ReplayBuffer(self.setting.buffer_size, (2,), init=self.data, rejuvenation=0.02, seed=self.seed)

    def chains(self) -> dict[str, Any]:
        """Arguments of the objectives that sample. The quadratic term has no parameters and cancels in their losses."""
        return {"energy": self.mlp, "sampler": self.langevin(), "num_steps": self.setting.num_steps, "seed": self.seed}

    def noise(self) -> noise.Gaussian:
        return noise.Gaussian.fit(self.data, covariance="full", widen=1.2)


Build = Callable[[Problem], Any]


@dataclass(frozen=True)
class Method:
    """One row of the comparison. A new objective is one more entry of `_METHODS`."""

    name: str
    """On the command line."""
    title: str
    short: str
    """Above its panels."""
    build: Build
    limit_weights: str
    """Why the weights of components may be wrong: said where most of a large KL is between them."""
    limit_shape: str
    """Why the shape within them may be wrong: said where most of it is within."""
    needs: str = ""
    """A package of the extra `flows`."""
    rate: float = 1.0
    """Of the learning rate that the others have: in a game that lives on the generator's samples the energy is the slower one."""


_UNCONVERGED = "The network had not yet reached the shape in this time; more of it lowers this part"
_SCORE_WEIGHTS = (
    "Score matching sees the gradient of E where there are data. Where components lie far apart there are next to none between "
    "them, and no gradient tells how much mass one has beside another"
)
_CHAIN_WEIGHTS = "Chains pass from component to component too rarely to settle their weights in this time"
_CHAIN_SHAPE = (
    "The chains lag behind the energy: on thin shapes it is steep, steps small enough for it move slowly, and samples that have "
    "not arrived teach the network walls about the outline and little within it"
)
_NOISE_WEIGHTS = "The noise fixes the weights by every sample; what is missing is time"
_NOISE_SHAPE = "Most noise samples fall where there are no data and teach little about the shape there; time or more noise helps"
_PLAYER_WEIGHTS = "The generator gives some components too few samples, and the energy learns of them from the data alone"
_PLAYER_SHAPE = (
    "Half of the time goes into the generator; until its samples come close to the data they are easily told and teach little"
)
_VARIATIONAL = (
    "The energy is moved until the samples of the flow are no likelier than the data, and the flow lags: a flow bends one "
    "Gaussian, leaves bridges between components, and most of the time goes into it"
)


def _chains(name: str, title: str, short: str, build: Build) -> Method:
    return Method(name, title, short, build, _CHAIN_WEIGHTS, _CHAIN_SHAPE)


def _score(name: str, title: str, short: str, build: Build, shape: str = _UNCONVERGED) -> Method:
    return Method(name, title, short, build, _SCORE_WEIGHTS, shape)


def _noise(name: str, title: str, short: str, build: Build) -> Method:
    return Method(name, title, short, build, _NOISE_WEIGHTS, _NOISE_SHAPE)


_METHODS = (
    Method(
        "cd", "ContrastiveDivergence", "CD-20",
        lambda p: ef.ContrastiveDivergence(**p.chains()),
        "Chains start at the data and stay near them, so that the weights of components that no chain travels between in "
        "20 steps are never corrected",
        "Chains start at the data and stay near them: low energies further away are never found",
    ),
    _chains("pcd", "PersistentCD", "PCD", lambda p: ef.PersistentCD(buffer=p.buffer(), **p.chains())),
    Method(
        "short_run", "ShortRunMLE", "short-run",
        lambda p: ef.ShortRunMLE(
            p.mlp, p.falling(), ("normal", p.setting.prior_std), num_steps=SHORT_RUN, seed=p.seed
        ),
        f"Each chain is {SHORT_RUN} falling steps from a wide Gaussian: that sampler is trained to give the data, and its energy "
        "is the data's only as far as so many steps settle the weights",
        f"Each chain is {SHORT_RUN} falling steps from a wide Gaussian: that sampler is trained to give the data, and its energy "
        "is the data's only as far as so many steps converge",
    ),
    _score(
        "esm", "ExplicitScoreMatching", "explicit SM",
        lambda p: ef.ExplicitScoreMatching(p.energy, energies.from_log_prob(p.toy), seed=p.seed),
    ),
    _score("ism", "ImplicitScoreMatching", "implicit SM", lambda p: ef.ImplicitScoreMatching(p.energy, seed=p.seed)),
    _score("hutchinson", "HutchinsonScoreMatching", "Hutchinson", lambda p: ef.HutchinsonScoreMatching(p.energy, seed=p.seed)),
    _score("ssm", "SlicedScoreMatching", "sliced SM", lambda p: ef.SlicedScoreMatching(p.energy, seed=p.seed)),
    _score(
        "ssm_vr", "SlicedScoreMatching, variance-reduced", "sliced SM-VR",
        lambda p: ef.SlicedScoreMatching(p.energy, variance_reduced=True, seed=p.seed),
    ),
    _score(
        "fd_ssm", "FiniteDifferenceScoreMatching", "finite diff.",
        lambda p: ef.FiniteDifferenceScoreMatching(p.energy, step=0.03, seed=p.seed),
    ),
    _score(
        "dsm", "DenoisingScoreMatching", "denoising SM",
        lambda p: ef.DenoisingScoreMatching(p.energy, sigma=SIGMA, scaled=True, seed=p.seed),
        f"What is learned is the density of the data blurred by sigma = {SIGMA}, and the gradient's variance grows as "
        "1 / sigma^2",
    ),
    _noise("nce", "NCE", "NCE", lambda p: ef.NCE(p.energy, p.noise(), num_noise=4, log_z=p.log_z, seed=p.seed)),
    _noise(
        "ranking_nce", "RankingNCE", "ranking NCE",
        lambda p: ef.RankingNCE(p.energy, p.noise(), num_noise=1023, shared=True, seed=p.seed),
    ),
    Method(
        "cnce", "ConditionalNCE", "conditional",
        lambda p: ef.ConditionalNCE(p.energy, std=1.0, num_noise=4, seed=p.seed),
        "A datum is told from points about it, std = 1: weights of components further apart than that hardly enter",
        _UNCONVERGED,
    ),
    Method(
        "bregman", "BregmanRatioMatching, Kullback-Leibler", "Bregman, KL",
        lambda p: ef.BregmanRatioMatching(
            p.energy, p.noise(), generator="kl", num_noise=4, log_z=p.log_z, seed=p.seed
        ),
        _NOISE_WEIGHTS,
        "The ratio to the noise enters as it is, not through a logistic, so that few noise samples carry most of the gradient",
    ),
    _chains("adance", "AdaptiveNCE", "AdaNCE", lambda p: ef.AdaptiveNCE(buffer=p.buffer(), interval=5, **p.chains())),
    _chains(
        "adaptive_bregman", "AdaptiveBregman, Kullback-Leibler", "adaptive KL",
        lambda p: ef.AdaptiveBregman(buffer=p.buffer(), interval=5, generator="kl", **p.chains()),
    ),
    Method("fce", "FlowContrastive", "flow NCE", two_players.fce, _PLAYER_WEIGHTS, _PLAYER_SHAPE, "zuko"),
    Method("ace", "AdversarialContrastive", "adversarial", two_players.ace, _PLAYER_WEIGHTS, _PLAYER_SHAPE),
    Method("variational", "VariationalMLE", "variational", two_players.variational, _VARIATIONAL, _VARIATIONAL, "zuko", 0.25),
)  # fmt: skip

METHODS = {method.name: method for method in _METHODS}

NOT_APPLICABLE = {
    "NoiseConditionalScoreMatching": "a ladder of noised densities, by a network that takes the noise level too",
    "DiffusionRecoveryLikelihood": "energies of a ladder, each of a state given the noisier one above it",
    "LatentMLE": "a generator of states from latent variables, whose density is an integral without an energy on the plane",
    "LatentEBM": "an energy of latent variables, the prior of such a generator",
    "ImplicitVAE": "an encoder and a decoder, whose density is an integral as well",
}
"""Objectives that train something else than an energy of the plane, and what."""
