"""A ring, or shell, around the origin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import LOG_2PI, AnalyticEnergy, dimension, positive, scalar, tensors
from .draws import Draws, inverse_cdf

_REACH = 9.0  # widths on either side of the most probable radius: e^-40 is left out


class Ring(AnalyticEnergy):
    """E(x) = (|x| - R)^2 / (2 w^2).

    log Z = log S + log I_{d-1}, S = 2 pi^{d/2} / Gamma(d/2) the surface of the unit sphere and I_k = int_0^inf r^k e^-E(r) dr by
    I_k = R I_{k-1} + (k - 1) w^2 I_{k-2} (k >= 2), I_0 = w sqrt(2 pi) Phi(R / w), I_1 = R I_0 + w^2 e^{-R^2/(2 w^2)}: sums of
    positive terms, in float64. Exact sampler: the radius by a numerically inverted distribution function in float64 (2^14 cells,
    see `draws.inverse_cdf`), the direction from d normals. The gradient at the origin is 0.

    Args:
        dim: d >= 1.
        radius: R > 0.
        width: w > 0.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: a bad dim, or a number that is not above 0.

    Descriptor: `ring`.
    """

    radius: Tensor
    width: Tensor

    def __init__(
        self, dim: int = 2, radius: Any = 2.0, width: Any = 0.2, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, radius=radius, width=width)
        scalar(**made)
        positive(**made)
        super().__init__((dimension(dim),), trainable, made)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return self.radius.to(dtype), self.width.to(dtype).square().reciprocal()

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        radius, precision = constants
        return 0.5 * precision * (torch.linalg.vector_norm(rows, dim=1) - radius).square()

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        radius, precision = constants
        norm = torch.linalg.vector_norm(rows, dim=1)
        apart = norm - radius
        pull = apart * precision
        e = (apart * pull).mul_(0.5)
        # Divided first: pull / norm could overflow where the quotient of the two rows does not.
        unit = rows / norm.clamp_min(torch.finfo(norm.dtype).tiny).unsqueeze(1)
        return e, unit.mul_(pull.masked_fill_(norm == 0, 0.0).unsqueeze(1))

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "ring", (), [self.radius, self.width], None

    def _sample(self, draws: Draws) -> Tensor:
        radius, width, power = self.radius.double(), self.width.double(), self.dim - 1
        mode = (radius + (radius.square() + 4.0 * power * width.square()).sqrt()) / 2

        def log_density(r: Tensor) -> Tensor:
            return torch.special.xlogy(power, r) - 0.5 * ((r - radius) / width).square()

        r = inverse_cdf(log_density, (mode - _REACH * width).clamp_min(0.0), mode + _REACH * width, draws.uniform(1))
        direction = draws.normal(self.dim)
        return direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True) * r

    @property
    def log_z(self) -> Tensor:
        radius, width = self.radius.double(), self.width.double()
        before = width.log() + LOG_2PI / 2 + torch.special.log_ndtr(radius / width)
        now = torch.logaddexp(radius.log() + before, 2.0 * width.log() - 0.5 * (radius / width).square())
        for k in range(2, self.dim):
            now, before = torch.logaddexp(radius.log() + now, math.log(k - 1.0) + 2.0 * width.log() + before), now
        surface = math.log(2.0) + self.dim / 2 * math.log(math.pi) - math.lgamma(self.dim / 2)
        return surface + (before if self.dim == 1 else now)
