"""Training objectives: `objective(batch) -> (loss, metrics)`, usable in any training loop."""

from ebm_fast.objectives.contrastive import (
    ContrastiveDivergence,
    PersistentCD,
    ShortRunMLE,
    contrastive_divergence_loss,
)
from ebm_fast.objectives.initial import InitialStates

__all__ = [
    "ContrastiveDivergence",
    "InitialStates",
    "PersistentCD",
    "ShortRunMLE",
    "contrastive_divergence_loss",
]
