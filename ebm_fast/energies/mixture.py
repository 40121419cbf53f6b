"""Mixture of Gaussians with diagonal covariances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import LOG_2PI, AnalyticEnergy, positive, tensors
from .draws import Draws


class GaussianMixture(AnalyticEnergy):
    """E(x) = -log sum_m exp(c_m - 1/2 sum_d a_md (x_d - mu_md)^2), c_m = log w_m + 1/2 sum_d log a_md - d/2 log 2 pi; log Z = 0.

    a = 1 / std^2. Weights are divided by their sum. Exact sampler: a component by inversion, then its Gaussian.

    Args:
        means: (M, *event).
        stds: one number, (M,), or (M, *event).
        weights: (M,), above 0; equal by default.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a std or weight that is not above 0.

    Descriptor: `mixture` with the integer M.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __init__(
        self, means: Any, stds: Any = 1.0, weights: Any = None, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, means=means, stds=stds, **({} if weights is None else {"weights": weights}))
        means, stds = made["means"], made["stds"]
        if means.ndim < 2 or not means.numel():
            raise ValueError(f"means must have shape (M, *event), the event of one dimension or more, got {tuple(means.shape)}")
        m = means.shape[0]
        weights = made.get("weights", means.new_full((m,), 1.0 / m))
        if stds.ndim == 0:
            stds = stds.expand(m).clone()
        if stds.shape not in ((m,), means.shape):
            raise ValueError(f"stds must be one number or have shape ({m},) or {tuple(means.shape)}, got {tuple(stds.shape)}")
        if weights.shape != (m,):
            raise ValueError(f"weights must have shape ({m},), got {tuple(weights.shape)}")
        positive(stds=stds, weights=weights)
        super().__init__(tuple(means.shape[1:]), trainable, {"means": means, "stds": stds, "weights": weights})

    def _components(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """c (M,), mu (M, d), a (M, d)"""
        means = self.means.to(dtype).flatten(1)
        stds = self.stds.to(dtype).flatten(1) if self.stds.ndim > 1 else self.stds.to(dtype).unsqueeze(1)
        stds = stds.expand_as(means)
        weights = self.weights.to(dtype)
        c = (weights / weights.sum()).log() - stds.log().sum(1) - self.dim / 2 * LOG_2PI
        return c, means, stds.square().reciprocal()

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        # Chains last: sums over components and dimensions then run along contiguous memory.
        c, means, a = self._components(dtype)
        return c.unsqueeze(1), means.T.unsqueeze(2).contiguous(), a.T.unsqueeze(2).contiguous()

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        c, means, a = constants
        r = rows.T.unsqueeze(1) - means
        return -torch.logsumexp(c - 0.5 * (r * r * a).sum(0), 0)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        c, means, a = constants
        r = rows.T.unsqueeze(1) - means
        q = r * a
        w, top = self._responsibilities(c, r.mul_(q))
        total = w.sum(0)
        w.div_(total)
        return total.log_().add_(top).neg_(), q.mul_(w).sum(1).T.contiguous()

    @staticmethod
    def _responsibilities(c: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """exp(l - max l) and max l, of the log densities l of the components. # (M, n), (n,)"""
        logs = torch.add(c, squares.sum(0), alpha=-0.5)
        top = logs.amax(0).clamp_(min=torch.finfo(logs.dtype).min)  # where all overflow: energy +inf and not NaN
        return logs.sub_(top).exp_(), top

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "mixture", (self.means.shape[0],), list(self._components(torch.float64)), None

    def _sample(self, draws: Draws) -> Tensor:
        _, means, a = self._components(torch.float64)
        cumulative = self.weights.double().cumsum(0)
        u = draws.uniform(1).squeeze(1) * cumulative[-1]
        chosen = torch.searchsorted(cumulative, u).clamp_max_(len(cumulative) - 1)
        return means[chosen] + draws.normal(self.dim) / a[chosen].sqrt()

    @property
    def log_z(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.means.device)
