"""Posteriors of Bayesian linear and logistic regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .base import AnalyticEnergy, positive, scalar, tensors
from .draws import Draws
from .gaussian import dense_draws, dense_log_z

_REDUCED = ("gram", "eigenvalues", "eigenvectors", "projected", "squares")  # what a linear regression keeps of its data
_EXACT = 40.0  # torch's softplus is its argument above a threshold; from here on that is exact in float64 too


def _design(features: Tensor, targets: Tensor) -> None:
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"X must have shape (N, d) with at least one element, got {tuple(features.shape)}")
    if targets.shape != features.shape[:1]:
        raise ValueError(f"y must have shape ({features.shape[0]},) as X has rows, got {tuple(targets.shape)}")


class LinearRegression(AnalyticEnergy):
    """E(b) = 1/2 |y - X b|^2 / s^2 + 1/2 alpha |b|^2, of coefficients b.

    A Gaussian with P = X'X / s^2 + alpha and mean m = P^-1 X'y / s^2. The log evidence is log Z - N/2 log(2 pi s^2) +
    d/2 log(alpha / (2 pi)). The data enter through X'X, its eigenvectors, X'y along them and y'y, computed once in float64 and
    kept so: E(b) = E(m) + 1/2 (b - m)' P (b - m), where m stays of ordinary size with columns that are nearly collinear, as the
    least-squares solution does not. Exact sampler: the Gaussian's.

    Args:
        X: (N, d); a column of ones gives an intercept.
        y: (N,).
        noise_std: s > 0.
        prior_precision: alpha > 0.
        trainable: makes noise_std and prior_precision parameters; the data stay buffers. dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a number that is not above 0.

    Descriptor: `gaussian_dense` with the energy at the mean as offset.
    """

    gram: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    projected: Tensor
    squares: Tensor
    noise_std: Tensor
    prior_precision: Tensor

    def __init__(
        self, X: Any, y: Any, noise_std: Any = 1.0, prior_precision: Any = 1.0, *, trainable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        made = tensors(dtype, X=X, y=y, noise_std=noise_std, prior_precision=prior_precision)
        features, targets = made.pop("X"), made.pop("y")
        _design(features, targets)
        scalar(**made)
        positive(**made)
        wide, wanted = features.double(), targets.double()
        gram = wide.T @ wide
        values, vectors = torch.linalg.eigh(gram)
        fixed = {
            "gram": gram, "eigenvalues": values.clamp(min=0.0), "eigenvectors": vectors,
            "projected": vectors.T @ (wide.T @ wanted), "squares": wanted.square().sum(),
        }  # fmt: skip
        super().__init__((features.shape[1],), trainable, made, fixed)

    def _apply(self, fn: Any, recurse: bool = True) -> LinearRegression:
        """`.to(device)` moves what the data are reduced to, and no `.float()` rounds it."""
        wide = {name: t for name, t in self._buffers.items() if t is not None and name in _REDUCED}
        super()._apply(fn, recurse)
        for name, t in wide.items():
            self._buffers[name] = t.to(self._buffers[name].device)  # type: ignore[union-attr]
        return self

    def _posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (d,), precision (d, d), energy at the mean (), float64."""
        weight, alpha = self.noise_std.double().square().reciprocal(), self.prior_precision.double()
        along = weight * self.projected / (weight * self.eigenvalues + alpha)
        precision = weight * self.gram + alpha * torch.eye(self.dim, dtype=torch.float64, device=self.gram.device)
        return self.eigenvectors @ along, precision, 0.5 * weight * (self.squares - along @ self.projected)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        mean, precision, least = self._posterior()
        return mean.to(dtype), precision.to(dtype), least.to(dtype)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        mean, precision, least = constants
        r = rows - mean
        return 0.5 * (r * (r @ precision)).sum(1) + least

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        mean, precision, least = constants
        r = rows - mean
        g = r @ precision
        return r.mul_(g).sum(1).mul_(0.5).add_(least), g

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        mean, precision, _ = constants
        return (rows - mean) @ precision

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        mean, precision, least = self._posterior()
        return "gaussian_dense", (), [mean, precision], least

    def _sample(self, draws: Draws) -> Tensor:
        mean, precision, _ = self._posterior()
        return dense_draws(mean, precision, draws)

    @property
    def log_z(self) -> Tensor:
        _, precision, least = self._posterior()
        return dense_log_z(precision) - least


class LogisticRegression(AnalyticEnergy):
    """E(b) = sum_n log(1 + exp(-t_n x_n'b)) + 1/2 alpha |b|^2, t_n = 2 y_n - 1, of coefficients b.

    No exact sampler and no closed form of Z.

    Args:
        X: (N, d); a column of ones gives an intercept.
        y: (N,), 0 or 1.
        prior_precision: alpha > 0.
        trainable: makes prior_precision a parameter; the data stay buffers. dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, a label that is neither 0 nor 1, or alpha not above 0.

    Descriptor: `logistic_regression` with the integer N.
    """

    signed: Tensor
    prior_precision: Tensor

    def __init__(
        self, X: Any, y: Any, prior_precision: Any = 1.0, *, trainable: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        made = tensors(dtype, X=X, y=y, prior_precision=prior_precision)
        features, labels = made.pop("X"), made.pop("y")
        _design(features, labels)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(f"y must hold 0 and 1 alone, got {labels[(labels != 0) & (labels != 1)][0].item():g}")
        scalar(**made)
        positive(**made)
        signed = features * (2.0 * labels - 1.0).unsqueeze(1)
        super().__init__((features.shape[1],), trainable, made, {"signed": signed})

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return -self.signed.to(dtype), self.prior_precision.to(dtype)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        turned, alpha = constants
        return 0.5 * alpha * rows.square().sum(1) + softplus(rows @ turned.T, threshold=_EXACT).sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        turned, alpha = constants
        misses = rows @ turned.T
        g = rows * alpha
        e = (rows * g).sum(1).mul_(0.5).add_(softplus(misses, threshold=_EXACT).sum(1))
        return e, g.addmm_(misses.sigmoid_(), turned)

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        turned, alpha = constants
        return (rows * alpha).addmm_((rows @ turned.T).sigmoid_(), turned)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "logistic_regression", (self.signed.shape[0],), [self.prior_precision, self.signed], None
