"""One objective of every class, small and on the plane, for what all of them promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import objectives as obj
from ebm_fast.models import ConditionalScore, GaussianGenerator, ImplicitEncoder, JointEnergy, LatentPrior

LANGEVIN = ef.Langevin(step_size=0.1, noise_std=0.1, clamp=(-9.0, 9.0))


class Net(nn.Module):
    """E(x) # (n, 2) -> (n,), of which nobody knows more than that it is a module; conditions are taken and left alone."""

    def __init__(self, flat: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        self.flat = flat

    def forward(self, x: Tensor, **condition: Tensor) -> Tensor:
        e = self.net(x) + 0.5 * x.square().sum(1, keepdim=True)
        return e.squeeze(1) if self.flat else e


def buffer(**options: Any) -> ef.ReplayBuffer:
    return ef.ReplayBuffer(32, (2,), init=("normal", 1.0), **{"seed": 1} | options)


def noise() -> ef.noise.Gaussian:
    return ef.noise.Gaussian(torch.zeros(2), 2.0)


def player() -> obj.players.DiagonalGaussian:
    return obj.players.DiagonalGaussian(torch.zeros(2), 1.5)


def latent(make: Any, **options: Any) -> Any:
    prior, generator = LatentPrior(2, Net()), GaussianGenerator(nn.Linear(2, 2), 0.5)
    if make is obj.LatentMLE:
        return make(JointEnergy(prior, generator), LANGEVIN, 2, **options)
    return make(prior, generator, LANGEVIN, **options)


def vae(**options: Any) -> obj.ImplicitVAE:
    return obj.ImplicitVAE(
        ImplicitEncoder(2, 2, 1, (4,)), GaussianGenerator(nn.Linear(1, 2), 0.3), ConditionalScore(1, 2, (4,)), 2, **options
    )


SIGMAS = (0.9, 0.3)
Make = Callable[..., Any]
# name: the objective, of an energy where it takes one and of options; settings that make another objective of it
EVERY: dict[str, tuple[Make, dict[str, Any]]] = {
    "ContrastiveDivergence": (
        lambda e, **o: obj.ContrastiveDivergence(e, **{"sampler": LANGEVIN, "num_steps": 2} | o),
        {"num_steps": 3, "energy_l2": 0.1, "gradient_penalty": 0.1, "data_noise": 0.1, "kl_weight": 0.1,
         "sampler": ef.Langevin(step_size=0.2)},
    ),
    "PersistentCD": (
        lambda e, **o: obj.PersistentCD(e, buffer=buffer(), **{"sampler": LANGEVIN, "num_steps": 2} | o), {"energy_l2": 0.2},
    ),
    "ShortRunMLE": (
        lambda e, **o: obj.ShortRunMLE(e, LANGEVIN, **{"num_steps": 2} | o), {"init": ("normal", 1.0)},
    ),
    "ExplicitScoreMatching": (lambda e, **o: obj.ExplicitScoreMatching(e, lambda x: -x, **o), {}),
    "ImplicitScoreMatching": (lambda e, **o: obj.ImplicitScoreMatching(e, **o), {}),
    "HutchinsonScoreMatching": (lambda e, **o: obj.HutchinsonScoreMatching(e, **o), {"num_projections": 2}),
    "SlicedScoreMatching": (lambda e, **o: obj.SlicedScoreMatching(e, **o), {"variance_reduced": True, "projection": "sphere"}),
    "FiniteDifferenceScoreMatching": (lambda e, **o: obj.FiniteDifferenceScoreMatching(e, **o), {"step": 0.1}),
    "DenoisingScoreMatching": (
        lambda e, **o: obj.DenoisingScoreMatching(e, **{"sigma": 0.3} | o), {"sigma": 0.4, "scaled": True}
    ),
    "NoiseConditionalScoreMatching": (
        lambda e, **o: obj.NoiseConditionalScoreMatching(e, **{"sigmas": SIGMAS} | o),
        {"sigmas": (0.9, 0.2), "weight": lambda s: s},
    ),
    "NCE": (lambda e, **o: obj.NCE(e, **{"noise": noise()} | o), {"num_noise": 2, "log_z": 0.0}),
    "RankingNCE": (
        lambda e, **o: obj.RankingNCE(e, **{"noise": noise(), "num_noise": 2} | o), {"shared": True, "num_noise": 3}
    ),
    "BregmanRatioMatching": (lambda e, **o: obj.BregmanRatioMatching(e, **{"noise": noise()} | o), {"generator": "kl"}),
    "ConditionalNCE": (lambda e, **o: obj.ConditionalNCE(e, **{"std": 0.5} | o), {"std": [0.5, 0.7]}),
    "AdaptiveNCE": (
        lambda e, **o: obj.AdaptiveNCE(e, LANGEVIN, buffer(), **{"num_steps": 2, "interval": 2} | o), {"interval": 3}
    ),
    "AdaptiveBregman": (
        lambda e, **o: obj.AdaptiveBregman(e, LANGEVIN, buffer(), num_steps=2, **o), {"generator": obj.generators.Power(0.2)}
    ),
    "AdversarialContrastive": (
        lambda e, **o: obj.AdversarialContrastive(e, **{"generator": player(), "base": noise()} | o),
        {"base_weight": 0.3, "saturating": False},
    ),
    "FlowContrastive": (lambda e, **o: obj.FlowContrastive(e, **{"flow": player()} | o), {"likelihood_weight": 0.1}),
    "VariationalMLE": (
        lambda e, **o: obj.VariationalMLE(e, **{"generator": player()} | o),
        {"entropy": "nearest_neighbour", "gradient_penalty": 0.1},
    ),
    "ImplicitVAE": (lambda e, **o: vae(**o), {"num_samples": 2, "method": "implicit"}),
    "LatentMLE": (lambda e, **o: latent(obj.LatentMLE, **{"num_steps": 2} | o), {"num_chains": 2}),
    "LatentEBM": (lambda e, **o: latent(obj.LatentEBM, **{"num_steps": 2} | o), {"num_steps": (2, 3)}),
    "DiffusionRecoveryLikelihood": (
        lambda e, **o: obj.DiffusionRecoveryLikelihood(e, **{"sigmas": SIGMAS, "sampler": LANGEVIN, "num_steps": 2} | o),
        {"sigmas": (0.9, 0.3, 0.2), "weight": lambda t: 1.0 + t},
    ),
}  # fmt: skip


def make(name: str, energy: Any = None, **options: Any) -> Any:
    """The objective of a class with seed 1; its networks follow torch's generator."""
    return EVERY[name][0](Net() if energy is None else energy, **{"seed": 1} | options)
