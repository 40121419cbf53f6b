"""Training objectives: `objective(batch) -> (loss, metrics)`, usable in any training loop."""

from ebm_fast.objectives import generators, players
from ebm_fast.objectives.adaptive import AdaptiveBregman, AdaptiveNCE
from ebm_fast.objectives.adversarial import (
    AdversarialContrastive,
    FlowContrastive,
    adversarial_contrastive_loss,
)
from ebm_fast.objectives.bregman import BregmanRatioMatching
from ebm_fast.objectives.conditional_nce import ConditionalNCE, conditional_nce_loss
from ebm_fast.objectives.contrastive import (
    ContrastiveDivergence,
    PersistentCD,
    ShortRunMLE,
    contrastive_divergence_loss,
)
from ebm_fast.objectives.denoising import (
    DenoisingScoreMatching,
    NoiseConditionalScoreMatching,
    denoising_score_matching_loss,
    geometric_sigmas,
)
from ebm_fast.objectives.generators import bregman_loss
from ebm_fast.objectives.implicit import ImplicitVAE, entropy_surrogate
from ebm_fast.objectives.initial import InitialStates
from ebm_fast.objectives.latent import LatentEBM, LatentMLE, latent_ebm_loss
from ebm_fast.objectives.nce import NCE, RankingNCE, nce_loss, ranking_nce_loss
from ebm_fast.objectives.penalty import squared_gradient_norm
from ebm_fast.objectives.recovery import (
    DiffusionRecoveryLikelihood,
    RecoveryEnergy,
    diffusion_sigmas,
    recovery_loss,
)
from ebm_fast.objectives.score_matching import (
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    explicit_score_matching_loss,
    implicit_score_matching_loss,
)
from ebm_fast.objectives.sliced import (
    FiniteDifferenceScoreMatching,
    HutchinsonScoreMatching,
    SlicedScoreMatching,
    finite_difference_loss,
    sliced_score_matching_loss,
)
from ebm_fast.objectives.variational import VariationalMLE, kozachenko_leonenko, reverse_kl_loss

__all__ = [
    "NCE",
    "AdaptiveBregman",
    "AdaptiveNCE",
    "AdversarialContrastive",
    "BregmanRatioMatching",
    "ConditionalNCE",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "DiffusionRecoveryLikelihood",
    "ExplicitScoreMatching",
    "FiniteDifferenceScoreMatching",
    "FlowContrastive",
    "HutchinsonScoreMatching",
    "ImplicitScoreMatching",
    "ImplicitVAE",
    "InitialStates",
    "LatentEBM",
    "LatentMLE",
    "NoiseConditionalScoreMatching",
    "PersistentCD",
    "RankingNCE",
    "RecoveryEnergy",
    "ShortRunMLE",
    "SlicedScoreMatching",
    "VariationalMLE",
    "adversarial_contrastive_loss",
    "bregman_loss",
    "conditional_nce_loss",
    "contrastive_divergence_loss",
    "denoising_score_matching_loss",
    "diffusion_sigmas",
    "entropy_surrogate",
    "explicit_score_matching_loss",
    "finite_difference_loss",
    "generators",
    "geometric_sigmas",
    "implicit_score_matching_loss",
    "kozachenko_leonenko",
    "latent_ebm_loss",
    "nce_loss",
    "players",
    "ranking_nce_loss",
    "recovery_loss",
    "reverse_kl_loss",
    "sliced_score_matching_loss",
    "squared_gradient_norm",
]
