"""What every contestant of P9 hands over once its warm-up is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Draw = Callable[[int], tuple[Any, Any]]  # number of proposals -> their states (draws, chains, dim), acceptance probabilities


@dataclass(frozen=True)
class Prepared:
    """`draw` always starts from the state after the warm-up and returns when its work is done."""

    draw: Draw
    step_size: float
    num_leapfrog: float  # mean over proposals

    def samples(self, num_draws: int) -> tuple[np.ndarray, float]:
        """States # (draws, chains, dim), and the mean acceptance probability."""
        x, acceptance = self.draw(num_draws)
        return np.array(x.cpu() if hasattr(x, "cpu") else x), float(acceptance.mean())
