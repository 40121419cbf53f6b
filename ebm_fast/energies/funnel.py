"""Neal's funnel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import LOG_2PI, AnalyticEnergy, dimension, positive, scalar, tensors
from .draws import Draws


class Funnel(AnalyticEnergy):
    """E(x) = v^2 / (2 s^2) + 1/2 e^-v sum_{i >= 1} x_i^2 + (d - 1)/2 v with v = x_0; log Z = log s + d/2 log 2 pi.

    v ~ N(0, s^2) and x_i | v ~ N(0, e^v), which is the exact sampler. e^(-v/2) is held at the largest number of the dtype, so
    that x_i = 0 contributes 0 for every v; where e^-v x_i^2 overflows the energy is +inf.

    Args:
        dim: d >= 2, the neck v included.
        scale: s > 0; 3 in the source, which has d = 10.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: a bad dim, or a scale that is not above 0.

    Descriptor: `funnel`. Source: Neal 2003, "Slice sampling", section 8.
    """

    scale: Tensor

    def __init__(
        self, dim: int = 10, scale: Any = 3.0, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, scale=scale)
        scalar(**made)
        positive(**made)
        super().__init__((dimension(dim, low=2),), trainable, made)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (self.scale.to(dtype).square().reciprocal(),)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        (precision,) = constants
        v = rows[:, 0]
        y = rows[:, 1:] * (v * -0.5).exp().clamp(max=torch.finfo(v.dtype).max).unsqueeze(1)
        return v * (0.5 * precision * v + (self.dim - 1) / 2) + 0.5 * y.square().sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        (precision,) = constants
        v = rows[:, 0]
        pull = v * precision
        narrow = (v * -0.5).exp_().clamp_(max=torch.finfo(v.dtype).max).unsqueeze(1)
        y = rows[:, 1:] * narrow
        half = y.square().sum(1).mul_(0.5)
        g = torch.cat((pull.sub(half).add_((self.dim - 1) / 2).unsqueeze(1), y.mul_(narrow)), 1)
        return pull.mul_(0.5).add_((self.dim - 1) / 2).mul_(v).add_(half), g

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "funnel", (), [self.scale], None

    def _sample(self, draws: Draws) -> Tensor:
        z = draws.normal(self.dim)
        v = self.scale.double() * z[:, :1]
        return torch.cat((v, (0.5 * v).exp() * z[:, 1:]), 1)

    @property
    def log_z(self) -> Tensor:
        return self.dim / 2 * LOG_2PI + self.scale.double().log()
