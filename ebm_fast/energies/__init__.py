"""Analytic energies with gradients that need no autograd, exact samplers, log Z, descriptors; and energies made of others."""

from .adapters import from_classifier, from_log_prob, mixture_of, sum_of, tempered
from .base import AnalyticEnergy
from .descriptor import Descriptor
from .double_well import DoubleWell
from .eight_schools import EightSchools
from .funnel import Funnel
from .fused import FusedEnergy, fused_energy
from .gamma import Gamma
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .mlp import MLPEnergy
from .phi_four import PhiFour
from .regression import LinearRegression, LogisticRegression
from .ring import Ring
from .rosenbrock import Rosenbrock
from .score import from_score

__all__ = [
    "AnalyticEnergy",
    "Descriptor",
    "DoubleWell",
    "EightSchools",
    "Funnel",
    "FusedEnergy",
    "Gamma",
    "Gaussian",
    "GaussianMixture",
    "LinearRegression",
    "LogisticRegression",
    "MLPEnergy",
    "PhiFour",
    "Ring",
    "Rosenbrock",
    "from_classifier",
    "from_log_prob",
    "from_score",
    "fused_energy",
    "mixture_of",
    "sum_of",
    "tempered",
]
