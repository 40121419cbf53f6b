"""Independent Gamma densities on the positive half-line."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import AnalyticEnergy, positive, tensors
from .draws import Draws


def gamma_draws(concentration: Tensor, draws: Draws) -> Tensor:
    """Gamma(k, 1) by Marsaglia and Tsang's rejection; k below 1 through Gamma(k + 1) u^(1/k). k # (d,) -> (n, d) float64

    Each round draws for every element and the first accepted value stays, so that no element depends on another. A round
    accepts with probability above 0.95.
    """
    boosted = concentration + (concentration < 1).double()
    shift = boosted - 1.0 / 3.0
    scale = 1.0 / (9.0 * shift).sqrt()
    boost = draws.uniform(len(shift)).log() / concentration
    x = torch.zeros(draws.n, len(shift), dtype=torch.float64, device=shift.device)
    pending = torch.ones_like(x, dtype=torch.bool)
    while bool(pending.any()):
        z = draws.normal(len(shift))
        v = (1.0 + scale * z) ** 3
        log_u = draws.uniform(len(shift)).log()
        fits = (v > 0) & (log_u < 0.5 * z * z + shift * (1.0 - v + v.clamp_min(1e-300).log()))
        x = torch.where(pending & fits, shift * v, x)
        pending &= ~fits
    return torch.where(concentration < 1, x * boost.exp(), x)


class Gamma(AnalyticEnergy):
    """E(x) = sum_d (1 - k_d) log x_d + r_d x_d where all x > 0, +inf elsewhere; log Z = sum_d log Gamma(k_d) - k_d log r_d.

    An element at or below 0 has the gradient 0. Exact sampler: Marsaglia and Tsang's rejection (ACM Trans. Math. Softw. 26,
    2000) on counter-based noise; draws below the smallest normal number of the dtype are raised to it.

    Args:
        concentration: k > 0, one number or (*event).
        rate: r > 0, one number or (*event).
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a number that is not above 0.

    Descriptor: `gamma`.
    """

    concentration: Tensor
    rate: Tensor

    def __init__(
        self, concentration: Any, rate: Any = 1.0, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, concentration=concentration, rate=rate)
        positive(**made)
        k, r = made["concentration"], made["rate"]
        if k.ndim and r.ndim and k.shape != r.shape:
            raise ValueError(f"rate must be one number or have the shape {tuple(k.shape)} of concentration, got {tuple(r.shape)}")
        event = tuple(k.shape or r.shape or (1,))
        if not math.prod(event):
            raise ValueError("concentration must have at least one element")
        held = {"concentration": k.expand(event).clone(), "rate": r.expand(event).clone()}
        super().__init__(event, trainable, held)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return 1.0 - self.concentration.to(dtype).reshape(-1), self.rate.to(dtype).reshape(-1)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        power, rate = constants
        outside = rows <= 0
        inner = rows.masked_fill(outside, 1.0)
        return (inner * rate + inner.log() * power).masked_fill(outside, math.inf).sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        power, rate = constants
        outside = rows <= 0
        inner = rows.masked_fill(outside, 1.0)
        g = torch.div(power, inner).add_(rate).masked_fill_(outside, 0.0)
        logs = inner.log().mul_(power)
        return logs.add_(inner.mul_(rate)).masked_fill_(outside, math.inf).sum(1), g

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        power, rate = constants
        outside = rows <= 0
        return torch.div(power, rows.masked_fill(outside, 1.0)).add_(rate).masked_fill_(outside, 0.0)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "gamma", (), [self.concentration, self.rate], None

    def _sample(self, draws: Draws) -> Tensor:
        x = gamma_draws(self.concentration.double().reshape(-1), draws) / self.rate.double().reshape(-1)
        return x.clamp_min(torch.finfo(self.rate.dtype).tiny)

    @property
    def log_z(self) -> Tensor:
        k, r = self.concentration.double(), self.rate.double()
        return (torch.lgamma(k) - k * r.log()).sum()
