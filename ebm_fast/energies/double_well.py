"""Independent double wells."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import AnalyticEnergy, dimension, positive, scalar, tensors
from .draws import Draws, inverse_cdf, log_integral

_DEEPEST = 60.0  # energies above this are left out of integrals: e^-60


class DoubleWell(AnalyticEnergy):
    """E(x) = h sum_d (x_d^2 - b^2)^2: minima at +-b in each dimension, barriers h b^4 high.

    Exact sampler: |x| by a numerically inverted distribution function in float64 (2^14 cells, see `draws.inverse_cdf`) and a fair
    sign. log Z by the trapezoidal rule in float64, exact to about 1e-12.

    Args:
        height: h > 0.
        width: b > 0.
        dim: number of independent wells.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: a number that is not above 0.

    Descriptor: `double_well`.
    """

    height: Tensor
    width: Tensor

    def __init__(
        self, height: Any = 1.0, width: Any = 1.0, dim: int = 1, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, height=height, width=width)
        scalar(**made)
        positive(**made)
        super().__init__((dimension(dim),), trainable, made)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return self.height.to(dtype), -self.width.to(dtype).square(), 4.0 * self.height.to(dtype)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        height, shift, _ = constants
        return height * torch.addcmul(shift, rows, rows).square().sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        height, shift, four = constants
        u = torch.addcmul(shift, rows, rows)
        g = (u * rows).mul_(four)
        return u.square_().sum(1).mul_(height), g

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        _, shift, four = constants
        return torch.addcmul(shift, rows, rows).mul_(rows).mul_(four)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "double_well", (), [self.height, self.width], None

    def _log_density(self, x: Tensor) -> Tensor:
        return -self.height.double() * (x.square() - self.width.double().square()).square()

    def _support(self) -> tuple[Tensor, Tensor]:
        """Where |x| has an energy below 60."""
        middle, reach = self.width.detach().double().square(), (_DEEPEST / self.height.detach().double()).sqrt()
        return (middle - reach).clamp_min(0.0).sqrt(), (middle + reach).sqrt()

    def _sample(self, draws: Draws) -> Tensor:
        size = inverse_cdf(self._log_density, *self._support(), draws.uniform(self.dim))
        return torch.where(draws.uniform(self.dim) < 0.5, size, -size)

    @property
    def log_z(self) -> Tensor:
        return self.dim * (log_integral(self._log_density, *self._support()) + math.log(2.0))
