"""The banana in any dimension."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import LOG_2PI, AnalyticEnergy, dimension, positive, scalar, tensors
from .draws import Draws


class Rosenbrock(AnalyticEnergy):
    """E(x) = (x_0 - a)^2 + b sum_{i >= 1} (x_i - x_{i-1}^2)^2, log Z = 1/2 log pi + (d - 1)/2 log(pi / b).

    The hybrid form, a chain of Gaussians: x_0 ~ N(a, 1/2), x_i | x_{i-1} ~ N(x_{i-1}^2, 1/(2 b)), which is the exact sampler.
    Squares of squares grow: beyond about 8 dimensions the density itself reaches past float32.

    Args:
        dim: d >= 1.
        a: centre of the first coordinate.
        b: b > 0, stiffness of the valley.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: a bad dim, or b not above 0.

    Descriptor: `rosenbrock`. Source: Pagani, Wiegand and Nadarajah 2022, "An n-dimensional Rosenbrock distribution", eq. (8) with
    one block.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self, dim: int = 2, a: Any = 1.0, b: Any = 100.0, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, a=a, b=b)
        scalar(**made)
        positive(b=made["b"])
        super().__init__((dimension(dim),), trainable, made)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return self.a.to(dtype), self.b.to(dtype), 2.0 * self.b.to(dtype)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        a, b, _ = constants
        t = rows[:, 1:] - rows[:, :-1].square()
        return (rows[:, 0] - a).square() + b * t.square().sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        a, b, twice = constants
        before = rows[:, :-1]
        t = torch.addcmul(rows[:, 1:], before, before, value=-1.0)
        first = rows[:, :1] - a
        s = t * twice
        g = torch.cat((first + first, s), 1)
        g[:, :-1].addcmul_(before, s, value=-2.0)
        return t.square_().sum(1).mul_(b).add_(first.squeeze(1).square_()), g

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "rosenbrock", (), [self.a, self.b], None

    def _sample(self, draws: Draws) -> Tensor:
        a, b = self.a.double(), self.b.double()
        z = draws.normal(self.dim)
        x = [a + z[:, 0] * 0.5**0.5]
        for i in range(1, self.dim):
            x.append(x[-1].square() + z[:, i] / (2.0 * b).sqrt())
        return torch.stack(x, 1)

    @property
    def log_z(self) -> Tensor:
        # A Gaussian of variance v contributes 1/2 log(2 pi v).
        return self.dim / 2 * (LOG_2PI - math.log(2.0)) - (self.dim - 1) / 2 * self.b.double().log()
