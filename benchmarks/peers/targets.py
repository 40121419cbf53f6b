"""The targets of P9: their numbers in NumPy, shared by both sides, and their energies in jax.numpy for one chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a jax.Array; JAX is imported only where a peer runs


@dataclass(frozen=True)
class Target:
    """E with p(x) proportional to exp(-E(x)), lengths of trajectories that suit it, and starting points of the chains."""

    name: str
    dim: int
    numbers: dict[str, np.ndarray]  # float64
    jax_energy: Callable[[dict[str, np.ndarray]], Callable[[Array], Array]]
    num_leapfrog: int  # of HMC, for all contestants
    best: dict[str, int]  # the L of most effective samples a second out of 3, 5, 8, 10, 14, 20
    timed: int  # proposals a timed call
    jitter: float = 0.0  # of ebm_fast's step size at its best
    spread: float = 1.0

    def start(self, num_chains: int, seed: int = 0) -> np.ndarray:
        """spread N(0, I). # -> (n, dim) float32"""
        draws = np.random.default_rng(seed).standard_normal((num_chains, self.dim))
        return (self.spread * draws).astype(np.float32)

    def energy(self) -> Callable[[Array], Array]:
        """E of one chain in jax.numpy, float32. # (dim,) -> ()"""
        return self.jax_energy(self.numbers)


def _product(a: Array, b: Array) -> Array:
    """In float32: on a GPU JAX would round both factors to tf32, and all contestants have the same energy."""
    import jax.numpy as jnp

    return jnp.matmul(a, b, precision="highest")


def gaussian_dense(dim: int = 100, condition: float = 100.0) -> Target:
    """1/2 x' P x; P^-1 = D Q diag(l) Q' D: l spans `condition`, D scales from 0.1 to 10, Q a random rotation."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    spectrum = np.geomspace(condition**-0.5, condition**0.5, dim)
    scales = rng.permutation(np.geomspace(0.1, 10.0, dim))
    covariance = scales[:, None] * (rotation * spectrum) @ rotation.T * scales
    precision = (rotation / spectrum) @ rotation.T / scales[:, None] / scales
    numbers = {"precision": (precision + precision.T) / 2, "covariance": covariance}
    return Target(
        "gaussian", dim, numbers, _gaussian, num_leapfrog=10, best={"ebm_fast": 14, "peers": 14}, timed=100, jitter=0.5,
    )  # fmt: skip


def _gaussian(numbers: dict[str, np.ndarray]) -> Callable[[Array], Array]:
    import jax
    import jax.numpy as jnp

    precision = jnp.asarray(numbers["precision"], jnp.float32)

    # Differentiation does not know that P is symmetric and would multiply twice.
    @jax.custom_vjp
    def energy(x):
        return 0.5 * _product(x, _product(precision, x))

    def forward(x):
        grad = _product(precision, x)
        return 0.5 * _product(x, grad), grad

    energy.defvjp(forward, lambda grad, bar: (bar * grad,))
    return energy


def logistic_regression(prior_precision: float = 1.0) -> Target:
    """sum_n softplus(-t_n x_n.b) + 1/2 a |b|^2 on scikit-learn's breast-cancer data, standardised, with an intercept: d = 31."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = np.concatenate([np.ones((len(x), 1)), x], 1)
    numbers = {"x": x, "y": data.target.astype(np.float64), "prior_precision": np.array(prior_precision)}
    return Target(
        "logistic", x.shape[1], numbers, _logistic, num_leapfrog=10, best={"ebm_fast": 10, "peers": 20}, timed=40,
    )  # fmt: skip


def _logistic(numbers: dict[str, np.ndarray]) -> Callable[[Array], Array]:
    import jax
    import jax.numpy as jnp

    signed = jnp.asarray((2 * numbers["y"] - 1)[:, None] * numbers["x"], jnp.float32)
    prior_precision = float(numbers["prior_precision"])
    return lambda b: jax.nn.softplus(_product(-signed, b)).sum() + 0.5 * prior_precision * _product(b, b)


def eight_schools() -> Target:
    """Rubin's eight schools, non-centred: x = (mu, log tau, z_1 .. z_8), mu ~ N(0, 5), tau ~ half-Cauchy(5)."""
    numbers = {
        "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
        "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
        "scales": np.array([5.0, 5.0]),
    }
    return Target(
        "eight_schools", 10, numbers, _eight_schools, num_leapfrog=4, best={"ebm_fast": 3, "peers": 5}, timed=400,
    )  # fmt: skip


def _eight_schools(numbers: dict[str, np.ndarray]) -> Callable[[Array], Array]:
    import jax.numpy as jnp

    y, sigma = (jnp.asarray(numbers[name], jnp.float32) for name in ("y", "sigma"))
    mu_scale, tau_scale = map(float, numbers["scales"])

    def energy(x):
        mu, log_tau, z = x[0], x[1], x[2:]
        tau = jnp.exp(log_tau)
        fit = (y - mu - tau * z) / sigma
        prior = 0.5 * (mu / mu_scale) ** 2 + jnp.log1p((tau / tau_scale) ** 2) - log_tau
        return 0.5 * (_product(z, z) + _product(fit, fit)) + prior

    return energy


def mixture(num_modes: int = 8, radius: float = 5.0) -> Target:
    """-log of the mean of 8 unit Gaussians on a circle: neighbours 3.8 standard deviations apart."""
    angle = 2 * np.pi * np.arange(num_modes) / num_modes
    numbers = {"means": radius * np.stack([np.cos(angle), np.sin(angle)], 1)}
    return Target(
        "mixture", 2, numbers, _mixture, num_leapfrog=8, best={"ebm_fast": 8, "peers": 8}, timed=400, spread=radius,
    )  # fmt: skip


def _mixture(numbers: dict[str, np.ndarray]) -> Callable[[Array], Array]:
    import jax
    import jax.numpy as jnp

    means = jnp.asarray(numbers["means"], jnp.float32)
    return lambda x: -jax.nn.logsumexp(-0.5 * jnp.square(x - means).sum(1))


TARGETS = {target.name: target for target in (gaussian_dense(), logistic_regression(), eight_schools(), mixture())}
