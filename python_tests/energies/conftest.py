"""One instance of every analytic energy in float64, with its formula written out and points to evaluate it at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.distributions import Gamma as GammaLaw

from ebm_fast import energies as en

F64 = torch.float64


@pytest.fixture(autouse=True)
def _on_device(device: str, _same_start: None) -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.device(device):
        yield


@dataclass
class Case:
    make: Callable[..., en.AnalyticEnergy]  # keywords trainable, dtype
    formula: Callable[[Tensor], Tensor]  # (n, *event) -> (n,), plain and differentiable
    points: Tensor  # (n, *event), float64

    @property
    def energy(self) -> en.AnalyticEnergy:
        return self.make()


def _numbers(*shape: int) -> Tensor:
    """Fixed numbers in (0, 1) that no generator decides."""
    return (torch.arange(1, math.prod(shape) + 1, dtype=F64) * 0.6180339887498949).frac().reshape(shape)


def gaussian_diagonal() -> Case:
    mean, variance = _numbers(2, 3) - 0.5, _numbers(2, 3) + 0.2
    law = Independent(Normal(mean, variance.sqrt()), 2)
    log_z = 0.5 * (2.0 * math.pi * variance).log().sum()
    return Case(
        lambda **k: en.Gaussian(mean, variance=variance, **k), lambda x: -law.log_prob(x) - log_z, torch.randn(9, 2, 3, dtype=F64)
    )


def gaussian_dense() -> Case:
    root = _numbers(4, 4) - 0.4 + torch.eye(4, dtype=F64)
    mean, covariance = _numbers(4), root @ root.T
    law = MultivariateNormal(mean, covariance)
    log_z = 0.5 * torch.logdet(2.0 * math.pi * covariance)
    return Case(
        lambda **k: en.Gaussian(mean, covariance=covariance, **k), lambda x: -law.log_prob(x) - log_z,
        torch.randn(9, 4, dtype=F64),
    )  # fmt: skip


def mixture() -> Case:
    means, stds, weights = 8.0 * (_numbers(5, 2) - 0.5), 0.3 + _numbers(5, 2), 0.1 + _numbers(5)
    law = MixtureSameFamily(Categorical(weights), Independent(Normal(means, stds), 1))
    return Case(
        lambda **k: en.GaussianMixture(means, stds, weights, **k), lambda x: -law.log_prob(x), 3.0 * torch.randn(9, 2, dtype=F64)
    )


def isotropic_mixture() -> Case:
    means, stds = 8.0 * (_numbers(3, 7) - 0.5), 0.5 + _numbers(3)
    law = MixtureSameFamily(Categorical(torch.ones(3, dtype=F64)), Independent(Normal(means, stds[:, None]), 1))
    return Case(
        lambda **k: en.GaussianMixture(means, stds, **k), lambda x: -law.log_prob(x), 3.0 * torch.randn(9, 7, dtype=F64)
    )


def gamma() -> Case:
    k, r = torch.tensor([0.4, 1.0, 2.5, 30.0], dtype=F64), torch.tensor([1.0, 0.5, 3.0, 8.0], dtype=F64)
    log_z = (torch.lgamma(k) - k * r.log()).sum()
    return Case(
        lambda **o: en.Gamma(k, r, **o), lambda x: -GammaLaw(k, r).log_prob(x).sum(1) - log_z, 0.1 + torch.rand(9, 4, dtype=F64)
    )


def double_well() -> Case:
    return Case(
        lambda **k: en.DoubleWell(1.5, 0.8, dim=3, **k), lambda x: (1.5 * (x**2 - 0.8**2) ** 2).sum(1),
        torch.randn(9, 3, dtype=F64),
    )  # fmt: skip


def rosenbrock() -> Case:
    def formula(x: Tensor) -> Tensor:
        return (x[:, 0] - 0.5) ** 2 + sum(4.0 * (x[:, i] - x[:, i - 1] ** 2) ** 2 for i in range(1, 4))

    return Case(lambda **k: en.Rosenbrock(4, 0.5, 4.0, **k), formula, torch.randn(9, 4, dtype=F64))


def funnel() -> Case:
    def formula(x: Tensor) -> Tensor:
        v = x[:, 0]
        return v**2 / (2 * 1.5**2) + 0.5 * torch.exp(-v) * (x[:, 1:] ** 2).sum(1) + (5 - 1) / 2 * v

    return Case(lambda **k: en.Funnel(5, 1.5, **k), formula, torch.randn(9, 5, dtype=F64))


def ring() -> Case:
    return Case(
        lambda **k: en.Ring(3, 2.0, 0.4, **k), lambda x: (x.norm(dim=1) - 2.0) ** 2 / (2 * 0.4**2), torch.randn(9, 3, dtype=F64)
    )


def phi_four() -> Case:
    def formula(x: Tensor) -> Tensor:
        height, width = x.shape[1:]
        total = (0.5 * -0.7 * x**2 + 0.3 * x**4).sum((1, 2))
        for i in range(height):
            for j in range(width):
                total = total + 0.5 * (x[:, (i + 1) % height, j] - x[:, i, j]) ** 2
                total = total + 0.5 * (x[:, i, (j + 1) % width] - x[:, i, j]) ** 2
        return total

    return Case(lambda **k: en.PhiFour((3, 5), -0.7, 0.3, **k), formula, torch.randn(9, 3, 5, dtype=F64))


def linear_regression() -> Case:
    features = torch.cat((torch.ones(12, 1, dtype=F64), _numbers(12, 2) * 3.0), 1)
    y = features @ torch.tensor([1.0, -2.0, 0.5], dtype=F64) + _numbers(12) - 0.5
    return Case(
        lambda **k: en.LinearRegression(features, y, 0.7, 0.3, **k),
        lambda b: 0.5 * ((y - b @ features.T) ** 2).sum(1) / 0.7**2 + 0.5 * 0.3 * (b**2).sum(1), torch.randn(9, 3, dtype=F64),
    )  # fmt: skip


def logistic_regression() -> Case:
    features, y = _numbers(15, 3) * 4.0 - 2.0, (_numbers(15) > 0.4).double()

    def formula(b: Tensor) -> Tensor:
        logits = b @ features.T
        likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(y).sum(1)
        return 0.5 * 0.3 * (b**2).sum(1) - likelihood

    return Case(lambda **k: en.LogisticRegression(features, y, 0.3, **k), formula, torch.randn(9, 3, dtype=F64))


def eight_schools() -> Case:
    def formula(x: Tensor) -> Tensor:
        mu, log_tau, z = x[:, 0], x[:, 1], x[:, 2:]
        y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=F64)
        sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=F64)
        tau = log_tau.exp()
        total = 0.5 * (z**2).sum(1) + mu**2 / (2 * 4.0**2) + (1 + (tau / 6.0) ** 2).log() - log_tau
        return total + 0.5 * (((y - mu[:, None] - tau[:, None] * z) / sigma) ** 2).sum(1)

    return Case(
        lambda **k: en.EightSchools(mu_scale=4.0, tau_scale=6.0, **k), formula, torch.randn(9, 10, dtype=F64)
    )


EXACT = [
    gaussian_diagonal, gaussian_dense, mixture, isotropic_mixture, gamma, double_well, rosenbrock, funnel, ring,
    linear_regression,
]  # fmt: skip
INEXACT = [phi_four, logistic_regression, eight_schools]
_SCALARS = (double_well, rosenbrock, funnel, ring, phi_four, eight_schools)


def _made(request: pytest.FixtureRequest) -> Case:
    made = request.param()
    if request.param in _SCALARS:  # plain numbers become float32 unless asked otherwise
        make = made.make
        made.make = lambda **k: make(**{"dtype": F64, **k})
    return made


@pytest.fixture(params=EXACT + INEXACT, ids=lambda case: case.__name__)
def case(request: pytest.FixtureRequest, _on_device: None) -> Case:
    return _made(request)


@pytest.fixture(params=EXACT, ids=lambda case: case.__name__)
def exact_case(request: pytest.FixtureRequest, _on_device: None) -> Case:
    """Those with exact sampler and log Z."""
    return _made(request)


@pytest.fixture(params=INEXACT, ids=lambda case: case.__name__)
def inexact_case(request: pytest.FixtureRequest, _on_device: None) -> Case:
    return _made(request)
