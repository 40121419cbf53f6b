"""How K steps of a chain are executed."""

from .energy import Energy, EnergyFunction
from .run import run_, sample
from .state import ChainState, Interrupted, Run, RunStats, StepInfo

__all__ = ["ChainState", "Energy", "EnergyFunction", "Interrupted", "Run", "RunStats", "StepInfo", "run_", "sample"]
