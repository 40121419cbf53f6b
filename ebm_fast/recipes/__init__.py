"""One training run from typed settings: data, network, objective, optimiser, and what it leaves behind."""

from __future__ import annotations

from .build import build_trainer, load_data
from .config import (
    Chains,
    Config,
    Loss,
    Monitor,
    Network,
    Optimizer,
    Sampling,
    load_config,
    parse,
    save_config,
)
from .run import run

__all__ = [
    "Chains",
    "Config",
    "Loss",
    "Monitor",
    "Network",
    "Optimizer",
    "Sampling",
    "build_trainer",
    "load_config",
    "load_data",
    "parse",
    "run",
    "save_config",
]
