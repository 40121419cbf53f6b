"""Networks from the literature: energies (n, *event) -> (n,), and score networks (n, *event) -> (n, *event)."""

from ebm_fast.models.convnet import ConvNetEnergy, thesis_convnet
from ebm_fast.models.ncsn import NCSN
from ebm_fast.models.score_mlp import NoiseConditional, NoiseConditionalEnergy, ScoreMLP

__all__ = ["NCSN", "ConvNetEnergy", "NoiseConditional", "NoiseConditionalEnergy", "ScoreMLP", "thesis_convnet"]
