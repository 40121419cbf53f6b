"""Uniform noise on a box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..energies.base import tensors
from ..ops import checks
from ..ops.noise import uniform_
from .base import NoiseModel, fitting_data, floored


class Uniform(NoiseModel):
    """log p_n(x) = -sum_d log(high_d - low_d) on the closed box, -inf outside.

    Args:
        low, high: bounds (*event); one of the two may be a number.
        dtype: see `energies.AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or low not below high.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Any, high: Any, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        made = tensors(dtype, low=low, high=high)
        low, high = made["low"], made["high"]
        event = low.shape if low.ndim else high.shape
        if not event or low.shape not in ((), event) or high.shape not in ((), event) or not event.numel():
            raise ValueError(
                "low and high must have the event's shape, one of them may be a number, got "
                f"{tuple(low.shape)} and {tuple(high.shape)}"
            )
        if not bool((low < high).all()):
            raise ValueError("low must be below high in every feature")
        self.event_shape = tuple(event)
        self.register_buffer("low", low.expand(event).clone())
        self.register_buffer("high", high.expand(event).clone())

    @classmethod
    def fit(
        cls, data: Tensor, *, margin: float = 0.1, floor: float | None = None
    ) -> Uniform:  # data # (n, *event)
        """The data's box, widened by `margin` times its side at each end; `floor`: least side before that."""
        margin = checks.number(margin, "margin", low=0.0)
        data = fitting_data(data)
        low, high = data.double().aminmax(dim=0)
        half = (0.5 + margin) * floored(high - low, floor, "range")
        centre = 0.5 * (low + high)
        low, high = (centre - half).to(data.dtype), (centre + half).to(data.dtype)
        # Rounding to the data's dtype must not leave a datum outside, where the density is 0.
        return cls(torch.minimum(low, data.amin(0)), torch.maximum(high, data.amax(0)))

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        dtype = self._check(x, "x")
        x, low, high = x.to(dtype), self.low.to(dtype), self.high.to(dtype)
        inside = ((x >= low) & (x <= high)).flatten(1).all(1)
        return torch.where(inside, -(high - low).log().sum(), -torch.inf)

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self._check(out, "out")
        # float16 would round the smallest uniforms to 0.
        u = torch.empty_like(out, dtype=torch.float32) if out.dtype is torch.float16 else out
        uniform_(u, seed=seed, step=step, purpose="noise_model", chain_offset=chain_offset)
        low, high = self.low.to(u.dtype), self.high.to(u.dtype)
        torch.addcmul(low, u, high - low, out=u)
        torch.minimum(u, high, out=u)
        return out if u is out else out.copy_(u).clamp_(self.low.to(out.dtype), self.high.to(out.dtype))
