"""Networks from the literature: energies (n, *event) -> (n,), score networks (n, *event) -> (n, *event), latent variables."""

from ebm_fast.models.convnet import ConvNetEnergy, thesis_convnet
from ebm_fast.models.ladder import LevelEnergy
from ebm_fast.models.latent import (
    BernoulliGenerator,
    ConditionalScore,
    DeconvNet,
    GaussianGenerator,
    ImplicitEncoder,
    JointEnergy,
    LatentPrior,
)
from ebm_fast.models.ncsn import NCSN
from ebm_fast.models.score_mlp import NoiseConditional, NoiseConditionalEnergy, ScoreMLP

__all__ = [
    "NCSN",
    "BernoulliGenerator",
    "ConditionalScore",
    "ConvNetEnergy",
    "DeconvNet",
    "GaussianGenerator",
    "ImplicitEncoder",
    "JointEnergy",
    "LatentPrior",
    "LevelEnergy",
    "NoiseConditional",
    "NoiseConditionalEnergy",
    "ScoreMLP",
    "thesis_convnet",
]
