"""One-dimensional laws and energies whose expectations are exact: the trapezoidal rule on analytic functions, float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Quadratic(nn.Module):
    """E(x) = p (x - m)^2 / 2 + c, float64, so that p_theta = N(m, 1/p) and log Z = log(2 pi / p) / 2 - c."""

    def __init__(self, m: float = 0.0, p: float = 1.0, c: float | None = None) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.tensor(m, dtype=torch.float64))
        self.p = nn.Parameter(torch.tensor(p, dtype=torch.float64))
        if c is not None:
            self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:  # (n, 1) -> (n,)
        e = 0.5 * self.p * (x.squeeze(1) - self.m).square()
        return e + self.c if hasattr(self, "c") else e

    def log_z(self) -> float:
        return 0.5 * (LOG_2PI - math.log(self.p.item())) - (self.c.item() if hasattr(self, "c") else 0.0)


def grid(mean: float = 0.0, reach: float = 24.0, points: int = 4001) -> Tensor:  # (points, 1)
    return torch.linspace(mean - reach, mean + reach, points, dtype=torch.float64).unsqueeze(1)


def log_normal(x: Tensor, mean: float, std: float) -> Tensor:  # (n, 1) -> (n,)
    return -0.5 * ((x.squeeze(1) - mean) / std).square() - math.log(std) - 0.5 * LOG_2PI


def expectation(values: Tensor, log_p: Tensor, x: Tensor) -> Tensor:
    """int values(x) p(x) dx on an equidistant grid x # (points, 1), values # (points,)."""
    return (values * log_p.exp()).sum() * (x[1, 0] - x[0, 0])


def gradient(loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:  # (k,)
    """All numbers of the gradient; zero where the loss does not depend on a parameter."""
    wanted = list(parameters)
    found = torch.autograd.grad(loss, wanted, allow_unused=True, retain_graph=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(wanted, found, strict=True)])


def newton(loss: Callable[[], Tensor], parameters: list[nn.Parameter], steps: int = 30) -> Tensor:
    """Minimise over parameters of one number each; returns the Hessian there # (k, k)."""
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
        rows = [torch.autograd.grad(g, parameters, retain_graph=True, allow_unused=True) for g in gradients]
        hessian = torch.stack([torch.stack([torch.zeros_like(g) if e is None else e for e in row])
                               for row, g in zip(rows, gradients, strict=True)])  # fmt: skip
        step = torch.linalg.solve(hessian, torch.stack(gradients).detach())
        with torch.no_grad():
            # Far from the minimum a full step may leave the region where the Hessian is positive.
            step = step * min(1.0, 0.5 / step.abs().max().item())
            for p, change in zip(parameters, step, strict=True):
                p -= change
        if step.abs().max() < 1e-13:
            break
    return hessian.detach()
