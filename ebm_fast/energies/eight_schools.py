"""The posterior of the eight schools, a hierarchical model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .base import AnalyticEnergy, positive, scalar, tensors

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


class EightSchools(AnalyticEnergy):
    """E(x) = 1/2 sum_j z_j^2 + 1/2 sum_j ((y_j - mu - tau z_j) / sigma_j)^2 + mu^2 / (2 m^2) + log(1 + (tau / s)^2) - log tau.

    x = (mu, log tau, z_1 .. z_J), the non-centred form: effects theta_j = mu + tau z_j, priors mu ~ N(0, m^2) and
    tau ~ half-Cauchy(s), and -log tau the Jacobian of log tau. No exact sampler and no closed form of Z.

    Args:
        y: (J,) measured effects; by default the eight of the source.
        sigma: (J,) their standard errors.
        mu_scale: m > 0.
        tau_scale: s > 0.
        trainable: makes mu_scale and tau_scale parameters; the data stay buffers. dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a number that is not above 0.

    Descriptor: `eight_schools` with the integer J. Source: Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5.
    """

    y: Tensor
    sigma: Tensor
    mu_scale: Tensor
    tau_scale: Tensor

    def __init__(
        self, y: Any = EFFECTS, sigma: Any = ERRORS, mu_scale: Any = 5.0, tau_scale: Any = 5.0, *, trainable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        made = tensors(dtype, y=y, sigma=sigma, mu_scale=mu_scale, tau_scale=tau_scale)
        fixed = {"y": made.pop("y"), "sigma": made.pop("sigma")}
        if fixed["y"].ndim != 1 or not fixed["y"].numel():
            raise ValueError(f"y must have shape (J,), got {tuple(fixed['y'].shape)}")
        if fixed["sigma"].shape != fixed["y"].shape:
            raise ValueError(f"sigma must have shape {tuple(fixed['y'].shape)} as y, got {tuple(fixed['sigma'].shape)}")
        scalar(**made)
        positive(sigma=fixed["sigma"], **made)
        super().__init__((2 + fixed["y"].numel(),), trainable, made, fixed)

    def effects(self, x: Tensor) -> Tensor:  # (n, 2 + J) -> (n, J)
        """theta_j = mu + tau z_j."""
        return x[:, :1] + x[:, 1:2].exp() * x[:, 2:]

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        weight = self.sigma.to(dtype).square().reciprocal()
        return self.y.to(dtype), weight, self.mu_scale.to(dtype).square().reciprocal(), self.tau_scale.to(dtype).log()

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        y, weight, mu_precision, log_s = constants
        mu, log_tau, z = rows[:, 0], rows[:, 1], rows[:, 2:]
        tau = log_tau.exp().clamp(max=torch.finfo(rows.dtype).max)
        misfit = mu.unsqueeze(1) + tau.unsqueeze(1) * z - y
        prior = 0.5 * mu_precision * mu.square() - logsigmoid(-2.0 * (log_tau - log_s)) - log_tau
        return 0.5 * (z.square() + weight * misfit.square()).sum(1) + prior

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        y, weight, mu_precision, log_s = constants
        mu, log_tau, z = rows[:, :1], rows[:, 1:2], rows[:, 2:]
        tau = log_tau.exp().clamp_(max=torch.finfo(rows.dtype).max)  # 0 z stays 0 where tau overflows
        shrunk = z * tau
        misfit = (shrunk + mu).sub_(y)
        pull = misfit * weight
        ratio = (log_tau - log_s).mul_(-2.0)
        pulled = mu * mu_precision
        total = torch.addcmul(misfit.mul_(pull), z, z).sum(1, keepdim=True)
        e = torch.addcmul(total, mu, pulled).mul_(0.5).sub_(logsigmoid(ratio)).sub_(log_tau).squeeze(1)
        g_mu = pulled.add_(pull.sum(1, keepdim=True))
        # 2 sigmoid(2 (log tau - log s)) - 1 = -tanh(log s - log tau)
        g_tau = (pull * shrunk).sum(1, keepdim=True).sub_(ratio.mul_(0.5).tanh_())
        return e, torch.cat((g_mu, g_tau, torch.addcmul(z, pull, tau)), 1)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        parts = [self.mu_scale, self.tau_scale, self.y, self.sigma.double().reciprocal()]
        return "eight_schools", (self.y.numel(),), parts, None
