"""Rubin's eight schools, non-centred."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import POSITIVE, Posterior, half_cauchy, half_normal


class EightSchools(Posterior):
    """y_j ~ N(mu + tau z_j, sigma_j), z_j ~ N(0, 1), mu ~ N(0, 5), tau ~ half-Cauchy(5); u = (mu, log tau, z_1 .. z_J).

    Source: Rubin (1981); Gelman et al., Bayesian Data Analysis, section 5.5.
    """

    def __init__(self, data: dict) -> None:
        super().__init__()
        self.register_buffer("y", torch.tensor(data["y"], dtype=torch.float64))
        self.register_buffer("sigma", torch.tensor(data["sigma"], dtype=torch.float64))
        self.dim = data["J"] + 2

    def forward(self, u: Tensor) -> Tensor:  # (n, dim) -> (n,)
        mu, log_tau, z = u[:, 0], u[:, 1], u[:, 2:]
        tau = POSITIVE(log_tau)
        misfit = (self.y - mu[:, None] - tau[:, None] * z) / self.sigma
        prior = half_normal(5.0)(mu) + half_cauchy(5.0)(tau)
        return 0.5 * (misfit.square() + z.square()).sum(1) + prior - POSITIVE.log_abs_det_jacobian(log_tau, tau)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:  # (..., dim) -> name: (...)
        mu, tau = u[..., 0], POSITIVE(u[..., 1])
        theta = mu[..., None] + tau[..., None] * u[..., 2:]
        return {**{f"theta[{j + 1}]": theta[..., j] for j in range(self.dim - 2)}, "mu": mu, "tau": tau}

    def unconstrain(self, parameters: dict[str, Tensor]) -> Tensor:  # name: (...) -> (..., dim)
        mu, tau = parameters["mu"], parameters["tau"]
        z = [(parameters[f"theta[{j + 1}]"] - mu) / tau for j in range(self.dim - 2)]
        return torch.stack([mu, POSITIVE.inv(tau), *z], -1)
