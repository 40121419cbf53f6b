"""Mixtures of Gaussians: given components, or one at every datum (a kernel density estimate)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..energies import GaussianMixture
from ..energies.base import LOG_2PI, positive, tensors
from ..ops.noise import normal_
from .base import NoiseModel, choice_words, fitting_data, floored

PAIRS = 2**22  # distances held at a time


class Mixture(NoiseModel):
    """log p_n(x) = log sum_m w_m N(x; mu_m, diag(std_m^2)). Arguments and errors as `energies.GaussianMixture`."""

    def __init__(
        self, means: Any, stds: Any = 1.0, weights: Any = None, *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.energy = GaussianMixture(means, stds, weights, dtype=dtype)
        self.event_shape = self.energy.event_shape

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        self._check(x, "x")
        return -self.energy(x)

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self._check(out, "out")
        words = choice_words(len(out), out.device, seed=seed, step=step, chain_offset=chain_offset)
        cumulative = self.energy.weights.double().cumsum(0)
        # (word + 1/2) / 2^32 is exact in float64.
        chosen = torch.searchsorted(cumulative, (words.double() + 0.5) * (cumulative[-1] * 2.0**-32))
        chosen = chosen.clamp_max_(len(cumulative) - 1)
        normal_(out, seed=seed, step=step, purpose="noise_model", chain_offset=chain_offset)
        stds = self.energy.stds.to(out.dtype)[chosen].view(-1, *stds_shape(self.energy.stds, out))
        return torch.addcmul(self.energy.means.to(out.dtype)[chosen], out, stds, out=out)


def stds_shape(stds: Tensor, out: Tensor) -> tuple[int, ...]:
    """(*event), or ones where a component has one number."""
    return tuple(out.shape[1:]) if stds.ndim > 1 else (1,) * (out.ndim - 1)


class KernelDensity(NoiseModel):
    """log p_n(x) = log 1/N sum_i N(x; x_i, diag(h^2)): the data, each blurred by a Gaussian.

    Args:
        data: x_i (N, *event), copied.
        bandwidth: h, a number or (*event); "scott": N^(-1/(d+4)) times the standard deviation of each feature; "silverman": that
            times (4 / (d + 2))^(1/(d+4)).
        floor: least h under a rule, in place of the ValueError where a feature does not vary.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range, or data that are not finite.

    log_prob costs N distances a state, in pieces of bounded memory. Sources: Scott 1992, Silverman 1986.
    """

    data: Tensor
    bandwidth: Tensor

    def __init__(self, data: Tensor, bandwidth: Any = "scott", *, floor: float | None = None) -> None:
        super().__init__()
        rule = isinstance(bandwidth, str)
        data = fitting_data(data, 2 if rule else 1)
        self.event_shape = tuple(data.shape[1:])
        if rule:
            if bandwidth not in ("scott", "silverman"):
                raise ValueError(
                    f"bandwidth: expected a number, (*event), 'scott' or 'silverman', got {bandwidth!r}"
                )
            d = math.prod(self.event_shape)
            factor = len(data) ** (-1.0 / (d + 4))
            if bandwidth == "silverman":
                factor *= (4.0 / (d + 2)) ** (1.0 / (d + 4))
            std = (data.double() - data[0].double()).std(0)
            h = floored(factor * std, floor, "standard deviation").to(data.dtype)
        else:
            h = tensors(data.dtype, bandwidth=bandwidth)["bandwidth"].to(data.device)
            if h.shape not in ((), self.event_shape):
                raise ValueError(
                    f"bandwidth: expected one number or {self.event_shape}, got shape {tuple(h.shape)}"
                )
            positive(bandwidth=h)
            h = h.expand(self.event_shape)
        # Not in checkpoints, which would hold the data set again each time.
        self.register_buffer("data", data.clone(memory_format=torch.contiguous_format), persistent=False)
        self.register_buffer("bandwidth", h.clone(memory_format=torch.contiguous_format))

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        dtype = self._check(x, "x")
        h = self.bandwidth.to(dtype).flatten()
        centres, rows = self.data.to(dtype).flatten(1) / h, x.to(dtype).flatten(1) / h
        constant = h.log().sum() + 0.5 * LOG_2PI * len(h) + math.log(len(centres))
        pieces = [
            torch.logsumexp(-0.5 * _distances(piece, centres).square(), 1) - constant
            for piece in rows.split(max(1, PAIRS // len(centres)))
        ]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self._check(out, "out")
        words = choice_words(len(out), out.device, seed=seed, step=step, chain_offset=chain_offset)
        chosen = (words * len(self.data)) >> 32  # the high half is uniform on 0 ... N - 1
        normal_(out, seed=seed, step=step, purpose="noise_model", chain_offset=chain_offset)
        return torch.addcmul(self.data.to(out.dtype)[chosen], out, self.bandwidth.to(out.dtype), out=out)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|, from differences: the products of |a|^2 - 2 a.b + |b|^2 would cancel."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
