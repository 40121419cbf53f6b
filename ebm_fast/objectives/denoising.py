"""Denoising score matching: at one noise level, and over a ladder of levels for noise-conditional models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.scores import Model, ScoreFunction, ScoreObjective, half_square
from ebm_fast.ops import checks


def geometric_sigmas(largest: float, smallest: float, num_levels: int) -> tuple[float, ...]:
    """sigma_i = largest (smallest / largest)^((i - 1) / (L - 1)), i = 1 ... L: noise levels of one ratio, both ends exact.

    Raises ValueError unless largest > smallest > 0 and L >= 2. Source: Song and Ermon 2019.
    """
    largest, smallest = checks.number(largest, "largest"), checks.number(smallest, "smallest")
    check_count(num_levels, "num_levels", 2)
    if not largest > smallest > 0.0:
        raise ValueError(f"largest, smallest: expected largest > smallest > 0, got {largest} and {smallest}")
    inside = (largest * (smallest / largest) ** (i / (num_levels - 1)) for i in range(1, num_levels - 1))
    return (largest, *inside, smallest)


def perturbed(x: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """x + sigma z in one pass. x, noise # (n, *event), sigma a number or # (n,)"""
    if isinstance(sigma, Tensor):
        return torch.addcmul(x, noise, _rows(sigma, x))
    return torch.add(x, noise, alpha=sigma)


def denoising_terms(score: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:  # (n,)
    """1/2 |sigma s + z|^2, which is sigma^2 1/2 |s - grad log p(x + sigma z | x)|^2, of each state."""
    if isinstance(sigma, Tensor):
        return half_square(torch.addcmul(noise, wide(score), _rows(sigma, noise)))
    return half_square(torch.add(noise, wide(score), alpha=sigma))


def denoising_score_matching_loss(
    model: Model,
    x: Tensor,  # (n, *event)
    noise: Tensor,  # (n, *event)
    sigma: float | Tensor,  # a number, or (n,)
    condition: Mapping[str, Any] | None = None,
    *,
    weight: float | Tensor | None = None,  # a number, or (n,)
) -> Tensor:  # ()
    """L = mean_i w_i 1/2 |s(x_i + sigma_i z_i) + z_i / sigma_i|^2, w = 1 unless given (sigma^2 makes levels comparable).

    `noise` is z. The model is called as model(x + sigma z, **condition); it is told sigma only where the condition holds it.
    Raises ValueError for shapes that do not fit. Source: Vincent 2011; thesis (2.7).
    """
    if noise.shape != x.shape:
        raise ValueError(f"noise: expected {tuple(x.shape)} as of x, got {tuple(noise.shape)}")
    for name, value in (("sigma", sigma), ("weight", weight)):
        if isinstance(value, Tensor) and value.shape not in ((), x.shape[:1]):
            raise ValueError(f"{name}: expected a number or ({len(x)},), got {tuple(value.shape)}")
    if isinstance(sigma, Tensor):
        sigma = sigma.expand(len(x))
    terms = denoising_terms(
        ScoreFunction(model)(perturbed(x, noise, sigma), condition), noise, sigma
    )
    return ((1.0 if weight is None else weight) / sigma**2 * terms).mean()


class _Denoising(ScoreObjective):
    """Noise for every batch, in a buffer that lives as long as batches keep their shape."""

    _buffer: Tensor | None = None

    def _noisy(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:  # (n, *event) both
        """x + sigma z and z."""
        # No graph of an earlier loss needs the values of z: backward passes use the perturbed states and the residuals.
        z = self._buffer
        if z is None or z.shape != x.shape or z.dtype != x.dtype or z.device != x.device:
            z = self._buffer = torch.empty_like(x)
        return ops.perturb_(torch.empty_like(x), x, sigma, noise=z, **self._counter("data_noise")), z

    @staticmethod
    def _metrics(terms: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"residual": terms.detach().mean() * (2.0 / x[0].numel())}


class DenoisingScoreMatching(_Denoising):
    """L = E_data E_z 1/2 |s(x + sigma z) + z / sigma|^2: the score of the data blurred by noise of standard deviation sigma.

    Equal, but for a constant, to explicit score matching on the Parzen density of the data with a Gaussian kernel of width sigma;
    the model learns that blurred density, not the data's.

    Args:
        model: energy E(x) -> (n,), whose score is -grad E, or score network s(x) -> (n, *event).
        sigma: standard deviation of the noise. The gradient's variance grows as 1 / sigma^2.
        scaled: multiply the loss by sigma^2, so that its size does not hang on sigma.
        seed: 64 bits; None draws one from torch's generator. Iteration t uses step t.
        chain_offset: index of the batch's first state; states of other indices have other noise.
        check: as of `ContrastiveDivergence`.

    Metrics: residual, the mean of (sigma s + z)^2: 1 for a score of 0, and at best the share of z that the blurred state
    does not tell.
    Raises TypeError or ValueError naming the argument, FloatingPointError for a batch or loss that is not finite.
    Source: Vincent 2011; thesis (2.7).
    """

    _settings = ("sigma", "scaled")

    def __init__(
        self, model: Model, sigma: float, *, scaled: bool = False, seed: int | None = None, chain_offset: int = 0,
        check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, seed=seed, chain_offset=chain_offset, check=check)
        if not (sigma := checks.number(sigma, "sigma", low=0.0)) > 0.0:
            raise ValueError(f"sigma must be above 0, got {sigma}")
        self.sigma, self.scaled = sigma, scaled

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        noisy, noise = self._noisy(x, self.sigma)
        terms = denoising_terms(self.score(noisy, condition), noise, self.sigma)
        loss = terms.mean()
        return loss if self.scaled else loss / self.sigma**2, self._metrics(terms, x)


class NoiseConditionalScoreMatching(_Denoising):
    """L = E_data E_i E_z lambda(sigma_i) 1/2 |s(x + sigma_i z, sigma_i) + z / sigma_i|^2 over noise levels i = 1 ... L.

    What noise-conditional score networks (NCSN) are trained by; `AnnealedLangevin(sigmas, ...)` then samples along the same
    levels, from an energy as it is and from a score network as `energies.from_score(network)`. The level of each state is
    drawn uniformly.

    Args:
        model: energy E(x, sigma) -> (n,) or score network s(x, sigma) -> (n, *event), called as model(x, sigma=sigma) with
            sigma # (n,), and y=labels where the batch has them.
        sigmas: the levels from the largest to the smallest, such as `geometric_sigmas(10.0, 0.1, 10)`.
        weight: lambda, a function of a number; None means sigma^2, with which all levels count alike.
        seed: 64 bits; None draws one from torch's generator. Iteration t uses step t.
        chain_offset: index of the batch's first state; states of other indices have other noise and levels.
        check: as of `ContrastiveDivergence`.

    Metrics: residual, the mean of (sigma s + z)^2: 1 for a score of 0.
    Raises TypeError or ValueError naming the argument, FloatingPointError for a batch or loss that is not finite.
    Source: Song and Ermon 2019, eqs. (5), (6).
    """

    _settings = ("sigmas", "_weights")

    def __init__(
        self, model: Model, sigmas: Sequence[float] | Tensor, *, weight: Callable[[float], float] | None = None,
        seed: int | None = None, chain_offset: int = 0, check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, seed=seed, chain_offset=chain_offset, check=check)
        levels = sigmas.tolist() if isinstance(sigmas, Tensor) else list(sigmas)
        if not levels or any(checks.number(s, "sigmas", low=0.0) == 0.0 for s in levels):
            raise ValueError(f"sigmas must be positive noise levels from large to small, got {levels}")
        if any(b > a for a, b in itertools.pairwise(levels)):
            raise ValueError(f"sigmas must fall from level to level, got {levels}")
        self.sigmas = tuple(float(s) for s in levels)
        if weight is not None and not callable(weight):
            raise TypeError(f"weight: expected a function of a level, or None, got {weight!r}")
        weights = [1.0] * len(levels) if weight is None else [float(weight(s)) / s**2 for s in self.sigmas]
        if any(not (math.isfinite(w) and w >= 0.0) for w in weights):
            raise ValueError("weight: expected a finite number >= 0 for every level")
        self._weights = None if weight is None else tuple(weights)
        self._tables: tuple[Tensor, Tensor | None] | None = None

    def _levels(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # (n,), (n,)
        """sigma of each state, and lambda / sigma^2."""
        wanted = torch.float64 if x.dtype == torch.float64 else torch.float32
        if self._tables is None or self._tables[0].device != x.device or self._tables[0].dtype != wanted:
            table = torch.tensor(self.sigmas, dtype=wanted, device=x.device)
            weights = None if self._weights is None else torch.tensor(self._weights, dtype=wanted, device=x.device)
            self._tables = table, weights
        words = torch.empty(len(x), 1, dtype=torch.int32, device=x.device)
        ops.bits_(words, **self._counter("noise_level"))
        # The high half of word * L / 2^32 is uniform on 0 ... L-1.
        level = (((words.long() & 0xFFFFFFFF) * len(self.sigmas)) >> 32).squeeze(1)
        table, weights = self._tables
        return table[level], None if weights is None else weights[level]

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        sigma, weights = self._levels(x)
        sigma = sigma.to(x.dtype)
        noisy, noise = self._noisy(x, sigma)
        terms = denoising_terms(self.score(noisy, {**condition, "sigma": sigma}), noise, sigma)
        loss = (terms if weights is None else weights * terms).mean()
        return loss, self._metrics(terms, x)


def _rows(sigma: Tensor, x: Tensor) -> Tensor:
    """# (n,) -> (n, 1, ..., 1), of x's dtype"""
    return sigma.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
