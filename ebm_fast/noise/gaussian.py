"""Gaussian noise, diagonal or full, given or fitted to data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..energies.base import LOG_2PI, positive, tensors
from ..ops import checks
from ..ops.noise import normal_
from .base import NoiseModel, fitting_data, floored


class Gaussian(NoiseModel):
    """log p_n(x) = -1/2 |L^-1 (x - mu)|^2 - log det L - d/2 log 2 pi, with L = diag(std) or a triangular matrix.

    Args:
        mean: (*event).
        std: one number or (*event); 1 where neither form is given.
        scale_tril: L (d, d), lower triangular with a positive diagonal, covariance L L'.
        dtype: see `energies.AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a scale that is not positive.
    """

    mean: Tensor
    std: Tensor
    scale_tril: Tensor

    def __init__(
        self, mean: Any, std: Any = None, *, scale_tril: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if std is not None and scale_tril is not None:
            raise ValueError("give one of std and scale_tril, got both")
        name, form = (
            ("std", 1.0 if std is None else std) if scale_tril is None else ("scale_tril", scale_tril)
        )
        made = tensors(dtype, mean=mean, **{name: form})
        mean, form = made["mean"], made[name]
        if not mean.ndim or not mean.numel():
            raise ValueError(
                f"mean must have the event's shape, of one dimension or more, got {tuple(mean.shape)}"
            )
        self.event_shape, d = tuple(mean.shape), mean.numel()
        self.register_buffer("mean", mean)
        if name == "std":
            if form.shape not in ((), mean.shape):
                raise ValueError(
                    f"std must be one number or have the mean's shape {tuple(mean.shape)}, got {tuple(form.shape)}"
                )
            positive(std=form)
            form = form.expand(mean.shape).clone()
        else:
            if form.shape != (d, d):
                raise ValueError(f"scale_tril must have shape ({d}, {d}), got {tuple(form.shape)}")
            if not torch.equal(form, form.tril()) or not bool((form.diagonal() > 0).all()):
                raise ValueError("scale_tril must be lower triangular with a positive diagonal")
        self.register_buffer(name, form)
        self._full = name == "scale_tril"

    @classmethod
    def fit(
        cls, data: Tensor, *, covariance: str = "diagonal", floor: float | None = None, widen: float = 1.0
    ) -> Gaussian:  # data # (n, *event)
        """Maximum likelihood: the mean and (co)variance of the data, sums in float64.

        `floor`: least standard deviation (diagonal), or the standard deviation of noise added to every feature (full);
        without it a feature that does not vary, or a covariance that is singular, is a ValueError. `widen` multiplies the
        standard deviations: noise wider than the data covers their tails.
        """
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance: expected 'diagonal' or 'full', got {covariance!r}")
        widen = checks.number(widen, "widen", low=math.ulp(0.0))
        data = fitting_data(data)
        # A constant feature's mean rounds, and its variance is then a rounding error that is not 0.
        first = data[0].double()
        rows = data.double() - first
        shift = rows.mean(0)
        rows = rows - shift
        mean = first + shift
        if covariance == "diagonal":
            std = floored(rows.square().mean(0).sqrt(), floor, "standard deviation")
            return cls(mean.to(data.dtype), widen * std.to(data.dtype))
        flat = rows.flatten(1)
        matrix = flat.T @ flat / len(flat)
        if floor is not None:
            matrix.diagonal().add_(checks.number(floor, "floor", low=math.ulp(0.0)) ** 2)
        floored(matrix.diagonal().sqrt().view(mean.shape), None, "standard deviation")
        factor, info = torch.linalg.cholesky_ex(matrix)
        singular = bool(info) or bool((factor.diagonal() < 1e-7 * matrix.diagonal().sqrt()).any())
        if singular:
            raise ValueError(
                f"data: the covariance of {len(flat)} states with {flat.shape[1]} features is singular; give floor= "
                "(the standard deviation of noise added to every feature), more states, or covariance='diagonal'"
            )
        return cls(mean.to(data.dtype), scale_tril=widen * factor.to(data.dtype))

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        dtype = self._check(x, "x")
        r, constant = x.to(dtype) - self.mean.to(dtype), 0.5 * LOG_2PI * self.mean.numel()
        if not self._full:
            std = self.std.to(dtype)
            return -0.5 * (r / std).square().flatten(1).sum(1) - (std.log().sum() + constant)
        factor = self.scale_tril.to(dtype)
        z = torch.linalg.solve_triangular(factor, r.flatten(1).T, upper=False)
        return -0.5 * z.square().sum(0) - (factor.diagonal().log().sum() + constant)

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self._check(out, "out")
        normal_(out, seed=seed, step=step, purpose="noise_model", chain_offset=chain_offset)
        mean = self.mean.to(out.dtype)
        if not self._full:
            return torch.addcmul(mean, out, self.std.to(out.dtype), out=out)
        with torch.autocast(out.device.type, enabled=False):  # on, it rounds the product to bfloat16
            drawn = torch.addmm(mean.flatten(), out.flatten(1), self.scale_tril.to(out.dtype).T)
        return out.copy_(drawn.view_as(out))
