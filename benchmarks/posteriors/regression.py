"""Linear regressions with Gaussian errors: seven of the eight posteriors differ in design matrix and priors alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import POSITIVE, Posterior, half_cauchy, half_normal


class Regression(Posterior):
    """y ~ N(X b, s): E = N log s + |y - X b|^2 / (2 s^2) + |b|^2 / (2 c^2) - log p(s) - log |d s / d v|.

    Sampled in u = (w, v), an exact affine change of b and of log s, because predictors on scales 1e4 apart are out of the
    reach of float32 and of one step size. With predictors centred (where there is an intercept) and scaled to unit deviation,
    X = C T; with b0 and s0 the least-squares solution and its root mean square residual,

        b = b0 + (s0 / sqrt(N)) T^-1 w,   s = s0 exp(v),   |y - X b|^2 = s0^2 (N + |C w|^2 / N),

    the last by Pythagoras, residuals at b0 being orthogonal to X: no large numbers cancel, and N has left the inner loop by
    |C w| = |R w| with R from C = Q R. Correlations between predictors stay as they are.
    """

    def __init__(self, x: Tensor, y: Tensor, names: list[str], *, coefficient_scale: float = torch.inf,
                 sigma_prior: Callable[[Tensor], Tensor] | None = None) -> None:  # (N, p), (N,) float64  # fmt: skip
        super().__init__()
        count, p = x.shape
        self.dim, self.count, self.names, self.sigma_prior = p + 1, count, names, sigma_prior
        self.penalty = 0.5 / coefficient_scale**2
        intercept = bool((x[:, 0] == 1).all())
        change = torch.diag(x.std(0, correction=0) if intercept else x.square().mean(0).sqrt())  # T
        if intercept:
            change[0] = x.mean(0)
        centred = torch.linalg.solve_triangular(change, x, upper=True, left=False)  # C = X T^-1
        solution = torch.linalg.lstsq(centred, y[:, None]).solution[:, 0]
        spread = (y - centred @ solution).square().mean().sqrt()
        back = torch.linalg.solve_triangular(change, torch.eye(p, dtype=x.dtype), upper=True)
        self.register_buffer("root", torch.linalg.qr(centred).R / count**0.5)
        self.register_buffer("centre", back @ solution)
        self.register_buffer("back", back * spread / count**0.5)
        self.register_buffer("spread", spread)

    def forward(self, u: Tensor) -> Tensor:  # (n, dim) -> (n,)
        w, v = u[:, :-1], u[:, -1]
        ratio = POSITIVE(v)
        squares = self.count + (w @ self.root.T).square().sum(1)
        energy = self.count * v + 0.5 * squares / ratio.square() - POSITIVE.log_abs_det_jacobian(v, ratio)
        if self.penalty:
            energy = energy + self.penalty * (self.centre + w @ self.back.T).square().sum(1)
        if self.sigma_prior is not None:
            energy = energy + self.sigma_prior(self.spread * ratio)
        return energy

    def start(self, num_chains: int, generator: torch.Generator | None = None) -> Tensor:  # -> (n, dim)
        """N(0, I), with log s within a tenth: at an s a few times too small the force grows with 1 / s^2 beyond any step size."""
        u = super().start(num_chains, generator)
        u[:, -1] *= 0.1
        return u

    def constrain(self, u: Tensor) -> dict[str, Tensor]:  # (..., dim) -> name: (...)
        b = self.centre + u[..., :-1] @ self.back.T
        return {**{name: b[..., j] for j, name in enumerate(self.names)}, "sigma": self.spread * POSITIVE(u[..., -1])}

    def unconstrain(self, parameters: dict[str, Tensor]) -> Tensor:  # name: (...) -> (..., dim)
        b = torch.stack([parameters[name] for name in self.names], -1) - self.centre
        w = torch.linalg.solve_triangular(self.back, b[..., None], upper=True)[..., 0]
        return torch.cat([w, POSITIVE.inv(parameters["sigma"] / self.spread)[..., None]], -1)


def _columns(data: dict, *names: str) -> list[Tensor]:
    return [torch.tensor(data[name], dtype=torch.float64) for name in names]


def _design(*columns: Tensor) -> Tensor:
    """An intercept and the columns. # (N, p)"""
    return torch.stack([torch.ones_like(columns[0]), *columns], 1)


def _betas(count: int) -> list[str]:
    return [f"beta[{j + 1}]" for j in range(count)]


def kidscore_momhsiq(data: dict) -> Regression:
    """score ~ N(b1 + b2 hs + b3 iq, s), s ~ half-Cauchy(2.5)."""
    score, hs, iq = _columns(data, "kid_score", "mom_hs", "mom_iq")
    return Regression(_design(hs, iq), score, _betas(3), sigma_prior=half_cauchy(2.5))


def kidscore_interaction(data: dict) -> Regression:
    """score ~ N(b1 + b2 hs + b3 iq + b4 hs iq, s), s ~ half-Cauchy(2.5)."""
    score, hs, iq = _columns(data, "kid_score", "mom_hs", "mom_iq")
    return Regression(_design(hs, iq, hs * iq), score, _betas(4), sigma_prior=half_cauchy(2.5))


def earn_height(data: dict) -> Regression:
    """earn ~ N(b1 + b2 height, s)."""
    earn, height = _columns(data, "earn", "height")
    return Regression(_design(height), earn, _betas(2))


def logearn_interaction(data: dict) -> Regression:
    """log earn ~ N(b1 + b2 height + b3 male + b4 height male, s)."""
    earn, height, male = _columns(data, "earn", "height", "male")
    return Regression(_design(height, male, height * male), earn.log(), _betas(4))


def logmesquite(data: dict) -> Regression:
    """log weight ~ N(b1 + b2 log diam1 + b3 log diam2 + b4 log canopy + b5 log total + b6 log density + b7 group, s)."""
    weight, *sizes = _columns(data, "weight", "diam1", "diam2", "canopy_height", "total_height", "density")
    (group,) = _columns(data, "group")
    return Regression(_design(*(size.log() for size in sizes), group), weight.log(), _betas(7))


def blr(data: dict) -> Regression:
    """y ~ N(X b, s), b ~ N(0, 10), s ~ half-N(0, 10)."""
    x, y = _columns(data, "X", "y")
    return Regression(x, y, _betas(x.shape[1]), coefficient_scale=10.0, sigma_prior=half_normal(10.0))


def autoregression(data: dict) -> Regression:
    """y_t ~ N(alpha + sum_k b_k y_{t-k}, s), alpha and b ~ N(0, 10), s ~ half-Cauchy(2.5)."""
    (y,) = _columns(data, "y")
    lags = data["K"]
    columns = [y[lags - k : len(y) - k] for k in range(1, lags + 1)]
    names = ["alpha", *_betas(lags)]
    return Regression(_design(*columns), y[lags:], names, coefficient_scale=10.0, sigma_prior=half_cauchy(2.5))
