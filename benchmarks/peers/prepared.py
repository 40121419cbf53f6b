"""What every contestant of P9 hands over once its warm-up is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Prepared:
    """`call` draws once more from the same start; `samples` are those of the last call, (draws, chains, dim)."""

    call: Callable[[], None]
    samples: Callable[[], np.ndarray]
    acceptance: Callable[[], float]
    num_draws: int
    num_leapfrog: float  # mean, a draw
    step_size: float
    result: Any = None
