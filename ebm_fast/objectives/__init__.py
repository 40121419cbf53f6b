"""Training objectives: `objective(batch) -> (loss, metrics)`, usable in any training loop."""

from ebm_fast.objectives import generators
from ebm_fast.objectives.adaptive import AdaptiveBregman, AdaptiveNCE
from ebm_fast.objectives.bregman import BregmanRatioMatching
from ebm_fast.objectives.conditional_nce import ConditionalNCE, conditional_nce_loss
from ebm_fast.objectives.contrastive import (
    ContrastiveDivergence,
    PersistentCD,
    ShortRunMLE,
    contrastive_divergence_loss,
)
from ebm_fast.objectives.generators import bregman_loss
from ebm_fast.objectives.initial import InitialStates
from ebm_fast.objectives.nce import NCE, RankingNCE, nce_loss, ranking_nce_loss

__all__ = [
    "NCE",
    "AdaptiveBregman",
    "AdaptiveNCE",
    "BregmanRatioMatching",
    "ConditionalNCE",
    "ContrastiveDivergence",
    "InitialStates",
    "PersistentCD",
    "RankingNCE",
    "ShortRunMLE",
    "bregman_loss",
    "conditional_nce_loss",
    "contrastive_divergence_loss",
    "generators",
    "nce_loss",
    "ranking_nce_loss",
]
