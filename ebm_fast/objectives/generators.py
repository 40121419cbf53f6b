"""Bregman generators Psi as functions of the log ratio r = log u, without overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ebm_fast.objectives.numerics import bounded_exp, bounded_expm1, softplus, wide
from ebm_fast.ops import checks


class Generator(Protocol):
    """S0(u) = -Psi(u) + u Psi'(u) and S1(u) = Psi'(u) of a strictly convex Psi, at u = exp(r), elementwise.

    They satisfy S0'(u) = u S1'(u) (thesis (4.6)). `slope` is S0'(1) = Psi''(1): the factor on the gradient of maximum
    likelihood where the noise is the model itself.
    """

    @property
    def slope(self) -> float: ...
    def s0(self, r: Tensor) -> Tensor: ...
    def s1(self, r: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Logistic:
    """Psi(u) = u log u - (nu + u) log(nu + u) + nu log nu:  S0 = nu log(1 + u/nu),  S1 = log(u / (nu + u)),  slope nu/(1 + nu).

    Noise-contrastive estimation with nu noise samples a datum; slope 1/2 for nu = 1.
    """

    nu: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.nu, "nu")

    @property
    def slope(self) -> float:
        return self.nu / (1.0 + self.nu)

    def s0(self, r: Tensor) -> Tensor:
        return self.nu * softplus(wide(r) - math.log(self.nu))

    def s1(self, r: Tensor) -> Tensor:
        return -softplus(math.log(self.nu) - wide(r))


@dataclass(frozen=True)
class KullbackLeibler:
    """Psi(u) = u log u:  S0 = u,  S1 = 1 + log u,  slope 1: the likelihood, its normaliser by importance sampling."""

    slope = 1.0

    def s0(self, r: Tensor) -> Tensor:
        return bounded_exp(wide(r))

    def s1(self, r: Tensor) -> Tensor:
        return 1.0 + wide(r)


@dataclass(frozen=True)
class Squared:
    """Psi(u) = u^2 / 2:  S0 = u^2 / 2,  S1 = u,  slope 1: least squares between the ratios."""

    slope = 1.0

    def s0(self, r: Tensor) -> Tensor:
        return 0.5 * bounded_exp(2.0 * wide(r))

    def s1(self, r: Tensor) -> Tensor:
        return bounded_exp(wide(r))


@dataclass(frozen=True)
class ItakuraSaito:
    """Psi(u) = -log u:  S0 = log u - 1,  S1 = -1/u,  slope 1. On data 1/u enters: the KL case with the roles exchanged."""

    slope = 1.0

    def s0(self, r: Tensor) -> Tensor:
        return wide(r) - 1.0

    def s1(self, r: Tensor) -> Tensor:
        return -bounded_exp(-wide(r))


@dataclass(frozen=True)
class Power:
    """Basu's power divergence, Psi(u) = (u^(1+a) - u) / a, a > 0:  S0 = u^(1+a),  S1 = (1 + a)(u^a - 1)/a + 1,  slope 1 + a.

    The limit a -> 0 is `KullbackLeibler`; a = 1 is twice `Squared`, up to constants. Larger a trusts outliers less.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        _positive(self.alpha, "alpha")

    @property
    def slope(self) -> float:
        return 1.0 + self.alpha

    def s0(self, r: Tensor) -> Tensor:
        return bounded_exp((1.0 + self.alpha) * wide(r))

    def s1(self, r: Tensor) -> Tensor:
        return (1.0 + self.alpha) / self.alpha * bounded_expm1(self.alpha * wide(r)) + 1.0


def _positive(value: float, name: str) -> None:
    if not checks.number(value, name, low=0.0) > 0.0:
        raise ValueError(f"{name} must be above 0, got {value}")


GENERATORS: dict[str, Generator] = {
    "logistic": Logistic(),
    "kl": KullbackLeibler(),
    "squared": Squared(),
    "itakura_saito": ItakuraSaito(),
    "power": Power(),
}


def as_generator(generator: str | Generator) -> Generator:
    """A generator, or the one of that name; TypeError or ValueError otherwise."""
    if isinstance(generator, str):
        if generator not in GENERATORS:
            raise ValueError(
                f"generator: expected one of {', '.join(GENERATORS)}, or an object, got {generator!r}"
            )
        return GENERATORS[generator]
    if not all(hasattr(generator, name) for name in ("s0", "s1", "slope")) or isinstance(generator, type):
        raise TypeError(
            f"generator: expected a name, or an object with s0(r), s1(r) and slope, got {generator!r}"
        )
    return generator


def bregman_loss(
    log_ratio_data: Tensor,  # any shape
    log_ratio_noise: Tensor,  # any shape
    generator: str | Generator = "logistic",
) -> Tensor:  # ()
    """L = mean S0(exp r_noise) - mean S1(exp r_data), r = log of the ratio model / noise at noise and data.

    Up to a constant, the expected Bregman divergence of Psi between the ratio data / noise and exp(r). Raises ValueError
    for empty tensors. Source: Gutmann and Hirayama 2011; thesis (4.8).
    """
    for name, r in (("log_ratio_data", log_ratio_data), ("log_ratio_noise", log_ratio_noise)):
        if not r.numel():
            raise ValueError(f"{name}: expected at least one log ratio, got shape {tuple(r.shape)}")
    chosen = as_generator(generator)
    return chosen.s0(log_ratio_noise).mean() - chosen.s1(log_ratio_data).mean()
