"""A sampler that ends in given points: what an objective computes from exact draws, or from points that stand for a law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ExactDraws:
    """The public face of a sampler; `points(condition)` -> (n, *event) are the ends of its chains."""

    def __init__(self, points: Callable[[dict[str, Any]], Tensor]) -> None:
        self.points = points

    def init(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def transition(self, energy: Any, state: Any, **options: Any) -> _Jump:
        return _Jump(self.points(energy.condition), state)


class _Jump:
    def __init__(self, points: Tensor, state: Any) -> None:
        self.points, self.state = points, state

    def advance(self, num_steps: int) -> None:
        self.state.x.copy_(self.points)

    def grad_norm(self) -> None:
        return None


def sigma_points(mean: Tensor, covariance: Tensor) -> Tensor:  # (n, d), (d, d) or (n, d, d) -> (n * 2d, d)
    """m_i +- sqrt(d) L e_j: 2d points of every row whose mean and covariance are exactly those given, row by row."""
    d = mean.shape[1]
    factor = math.sqrt(d) * torch.linalg.cholesky(covariance).expand(len(mean), d, d)
    offsets = torch.cat([factor.mT, -factor.mT], 1)
    return (mean.unsqueeze(1) + offsets).flatten(0, 1)
