"""How far a run is to be trusted: R-hat, effective sample size, Monte-Carlo error, autocorrelation, E-BFMI, tables, exports."""

from .convergence import autocorrelation, bfmi, ess, mcse, rhat
from .export import to_arviz, to_numpy
from .summary import Summary, summary

__all__ = ["Summary", "autocorrelation", "bfmi", "ess", "mcse", "rhat", "summary", "to_arviz", "to_numpy"]
