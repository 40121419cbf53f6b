"""Gaussian densities, with a diagonal or a dense precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import LOG_2PI, AnalyticEnergy, positive, tensors
from .draws import Draws


def _symmetric(name: str, matrix: Tensor) -> Tensor:
    """The matrix in float64 with its rounding errors evened out."""
    wide = matrix.double()
    if not torch.allclose(wide, wide.T, rtol=1e-4, atol=1e-4 * wide.abs().max().item()):
        raise ValueError(f"{name} must be symmetric, got a matrix that differs from its transpose by up to "
                         f"{(wide - wide.T).abs().max().item():g}")  # fmt: skip
    return (wide + wide.T) / 2


def _factor(name: str, matrix: Tensor) -> Tensor:
    """The lower Cholesky factor, or an error that names the argument."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool(info):
        raise ValueError(f"{name} must be positive definite, its leading minor of order {int(info)} is not")
    return factor


def dense_log_z(precision: Tensor) -> Tensor:
    """d/2 log 2 pi - 1/2 log det P of a float64 matrix (d, d)."""
    return precision.shape[0] / 2 * LOG_2PI - torch.linalg.cholesky(precision).diagonal().log().sum()


def dense_draws(mean: Tensor, precision: Tensor, draws: Draws) -> Tensor:
    """mean + L^-T z with P = L L'. # (n, d)"""
    factor = torch.linalg.cholesky(precision)
    z = draws.normal(mean.numel())
    return mean + torch.linalg.solve_triangular(factor.T, z.T, upper=True).T


class Gaussian(AnalyticEnergy):
    """E(x) = 1/2 (x - mu)' P (x - mu), log Z = d/2 log 2 pi - 1/2 log det P.

    The precision P is what is stored (and trained); the other forms are converted in float64. It is diagonal where the argument
    is one number or has the mean's shape, dense where it is (d, d). Exact sampler: mu + L^-T z with P = L L'.

    Args:
        mean: (*event), or one number where the dimension follows from the other argument.
        precision: P, one number, (*event) or (d, d). At most one of the four is given; without any, P = 1.
        variance: diagonal of the covariance, one number or (*event).
        covariance: (d, d).
        scale_tril: lower triangular (d, d), covariance L L'.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a matrix that is not symmetric and positive definite.

    Descriptor: `gaussian_diagonal` or `gaussian_dense`.
    """

    mean: Tensor
    precision: Tensor

    def __init__(
        self, mean: Any = 0.0, precision: Any = None, *, variance: Any = None, covariance: Any = None, scale_tril: Any = None,
        trainable: bool = False, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        forms = {"precision": precision, "variance": variance, "covariance": covariance, "scale_tril": scale_tril}
        forms = {name: form for name, form in forms.items() if form is not None} or {"precision": 1.0}
        if len(forms) > 1:
            raise ValueError(f"give one of precision, variance, covariance, scale_tril; got {', '.join(forms)}")
        made = tensors(dtype, mean=mean, **forms)
        (name, form), mean = list(made.items())[1], made["mean"]
        matrix_only = name in ("covariance", "scale_tril")
        if mean.ndim == 0:
            square = form.ndim == 2 and form.shape[0] == form.shape[1]
            event = form.shape[:1] if square and name != "variance" else form.shape
            mean = mean.expand(event if event else (1,)).clone()
        d = mean.numel()
        if d == 0:
            raise ValueError("mean must have at least one element")
        if not matrix_only and form.shape in ((), mean.shape):
            positive(**{name: form})
            form = form.expand(mean.shape).clone()
            precision = 1.0 / form if name == "variance" else form
        elif name != "variance" and form.shape == (d, d):
            precision = self._dense(name, form)
        else:
            allowed = [] if matrix_only else ["one number", f"of the mean's shape {tuple(mean.shape)}"]
            allowed += [] if name == "variance" else [f"of shape ({d}, {d})"]
            raise ValueError(f"{name} must be {' or '.join(allowed)}, got shape {tuple(form.shape)}")
        super().__init__(tuple(mean.shape), trainable, {"mean": mean, "precision": precision})
        self._dense_form = precision.shape != mean.shape

    @staticmethod
    def _dense(name: str, form: Tensor) -> Tensor:
        """The precision matrix of any of the three dense forms."""
        if name == "precision":
            symmetric = _symmetric(name, form)
            _factor(name, symmetric)
            return symmetric.to(form.dtype)
        if name == "scale_tril":
            if not torch.equal(form, form.tril()) or not bool((form.diagonal() > 0).all()):
                raise ValueError("scale_tril must be lower triangular with a positive diagonal")
            factor = form.double()
        else:
            factor = _factor(name, _symmetric(name, form))
        inverse = torch.cholesky_inverse(factor)
        return ((inverse + inverse.T) / 2).to(form.dtype)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        precision = self.precision.to(dtype)
        if self._dense_form:
            precision = (precision + precision.T) / 2
            return self.mean.to(dtype).reshape(-1), precision
        return self.mean.to(dtype).reshape(-1), precision.reshape(-1)

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        mean, precision = constants
        r = rows - mean
        return 0.5 * (r * (r @ precision if self._dense_form else r * precision)).sum(1)

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        mean, precision = constants
        r = rows - mean
        g = r @ precision if self._dense_form else r * precision
        return r.mul_(g).sum(1).mul_(0.5), g

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        mean, precision = constants
        r = rows - mean
        return r @ precision if self._dense_form else r.mul_(precision)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "gaussian_dense" if self._dense_form else "gaussian_diagonal", (), list(self._constants(torch.float64)), None

    def _sample(self, draws: Draws) -> Tensor:
        mean, precision = self._constants(torch.float64)
        if self._dense_form:
            return dense_draws(mean, precision, draws)
        return mean + draws.normal(self.dim) / precision.sqrt()

    @property
    def log_z(self) -> Tensor:
        _, precision = self._constants(torch.float64)
        if self._dense_form:
            return dense_log_z(precision)
        return self.dim / 2 * LOG_2PI - 0.5 * precision.log().sum()
