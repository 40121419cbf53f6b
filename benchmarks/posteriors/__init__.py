"""Eight real posteriors of posteriordb as PyTorch energies, with reference draws: what a user's model looks like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from . import regression
from .base import Posterior
from .schools import EightSchools

MODELS = {
    "eight_schools-eight_schools_noncentered": EightSchools,
    "kidiq-kidscore_momhsiq": regression.kidscore_momhsiq,
    "kidiq-kidscore_interaction": regression.kidscore_interaction,
    "earnings-earn_height": regression.earn_height,
    "earnings-logearn_interaction": regression.logearn_interaction,
    "mesquite-logmesquite": regression.logmesquite,
    "sblrc-blr": regression.blr,
    "arK-arK": regression.autoregression,
}


def data(name: str, folder: Path) -> dict:
    """The data of a posterior: <folder>/<name>.data.json."""
    return json.loads((folder / f"{name}.data.json").read_text())


def load(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Posterior:
    """The energy of a posterior; its constants are worked out in float64 and kept in `dtype`."""
    return MODELS[name](data(name, folder)).to(dtype)


def reference(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Reference draws of each parameter by name, ten chains thinned until they are all but independent. # (10, 1000) float64"""
    with np.load(folder / f"{name}.draws.npz") as draws:
        return {parameter: draws[parameter].astype(np.float64) for parameter in draws.files}
