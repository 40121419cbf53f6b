"""Correct kernels in a few lines of torch, and the same with a fault planted; targets that can be drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]

DIM = 8
RHO = 0.6
COVARIANCE = RHO * torch.ones(DIM, DIM) + (1 - RHO) * torch.eye(DIM)
PRECISION = torch.linalg.inv(COVARIANCE)
ROOT = torch.linalg.cholesky(COVARIANCE)


def energy(x: Tensor) -> Tensor:
    return 0.5 * ((x @ PRECISION) * x).sum(1)


def draws(n: int) -> Tensor:
    return torch.randn(n, DIM) @ ROOT.T


def normal_energy(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def normal_draws(n: int) -> Tensor:
    return torch.randn(n, DIM)


def _noise(x: Tensor, reused: bool) -> Tensor:
    z = torch.randn_like(x)
    if reused:
        z[:, 4:8] = z[:, 0:4]
    return z


def random_walk(
    ratio: float = 1.0, reused: bool = False, step: float = 0.6, target: Callable[[Tensor], Tensor] = energy
) -> Kernel:
    """`ratio` multiplies the log of the acceptance ratio."""

    def kernel(x: Tensor) -> Tensor:
        y = x + step * _noise(x, reused)
        accepted = torch.rand(len(x)).log() < ratio * (target(x) - target(y))
        return torch.where(accepted[:, None], y, x)

    return kernel


def autoregressive(noise: float = 1.0, reused: bool = False, persistence: float = 0.6) -> Kernel:
    """x' = c x + sqrt(1 - c^2) z, exact for independent normals; `noise` multiplies its noise."""

    def kernel(x: Tensor) -> Tensor:
        return persistence * x + noise * math.sqrt(1 - persistence**2) * _noise(x, reused)

    return kernel


def gibbs(noise: float = 1.0, random_order: bool = False) -> Kernel:
    """Every element from its conditional law given the others, in order; or one of them, drawn per chain."""
    std = PRECISION.diagonal().rsqrt()

    def update(x: Tensor, i: Tensor) -> Tensor:
        rows = PRECISION[i]
        own = x.gather(1, i[:, None])[:, 0]
        mean = own - (rows * x).sum(1) / PRECISION.diagonal()[i]
        return x.scatter(1, i[:, None], (mean + noise * std[i] * torch.randn(len(x)))[:, None])

    def kernel(x: Tensor) -> Tensor:
        if random_order:
            return update(x, torch.randint(DIM, (len(x),)))
        for i in range(DIM):
            x = update(x, torch.full((len(x),), i))
        return x

    return kernel


def multiplicative(hastings: bool = True, step: float = 0.5) -> Kernel:
    """x' = x exp(step z) on the Gamma density x^2 exp(-x), whose Hastings correction is x' / x."""

    def kernel(x: Tensor) -> Tensor:
        y = x * (step * torch.randn_like(x)).exp()
        log_ratio = 2 * (y / x).log() - (y - x) + ((y / x).log() if hastings else 0.0)
        return torch.where(torch.rand_like(x).log() < log_ratio, y, x)

    return kernel


def gamma_draws(n: int) -> Tensor:
    return -torch.rand(n, 3).log().sum(1, keepdim=True)


def chain(seed: int, draws: int, chains: int, phi: float = 0.5) -> Tensor:
    """Stationary x_t = phi x_{t-1} + sqrt(1 - phi^2) z_t. (draws, chains)"""
    z = torch.randn(draws, chains, generator=torch.Generator().manual_seed(seed)).numpy().astype("float64")
    z[1:] *= math.sqrt(1 - phi * phi)
    for t in range(1, draws):
        z[t] += phi * z[t - 1]
    return torch.from_numpy(z)
