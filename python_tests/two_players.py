"""What tests of objectives with two players share: the toy on the plane, alternating rounds, distances by quadrature."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef


def three_gaussians() -> ef.energies.GaussianMixture:
    """One narrow and heavy, two wide; the best single Gaussian is 0.72 nats away."""
    return ef.energies.GaussianMixture([[1.5, 0.0], [-1.0, 1.2], [-1.0, -1.2]], [0.4, 0.6, 0.6], [2.0, 1.0, 1.0])


def network() -> nn.Module:
    """E # (n, 2) -> (n,), two hidden layers of 64."""
    layers = [nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0)]
    return nn.Sequential(*layers)


def alternate(objective: Any, data: Tensor, rounds: int, rates: tuple[float, float], batch_size: int) -> dict[str, Tensor]:
    """One step of each player a round, Adam with cosine schedules; the generator's last metrics."""
    players = [
        (objective, torch.optim.Adam(objective.parameters(), lr=rates[0], betas=(0.5, 0.9))),
        (objective.generator_loss, torch.optim.Adam(objective.generator_parameters(), lr=rates[1], betas=(0.5, 0.9))),
    ]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds) for _, optimizer in players]
    metrics: dict[str, Tensor] = {}
    for _ in range(rounds):
        batch = data[torch.randint(len(data), (batch_size,))]
        for (loss_of, optimizer), schedule in zip(players, schedules, strict=True):
            loss, metrics = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return metrics


class Plane:
    """A square of side 10 in small squares, for integrals over densities."""

    def __init__(self, points: int = 251) -> None:
        axis = torch.linspace(-5, 5, points)
        self.points, self.log_area = torch.cartesian_prod(axis, axis), 2 * math.log((axis[1] - axis[0]).item())

    def log_integral(self, log_f: Tensor) -> float:
        return (log_f.logsumexp(0) + self.log_area).item()

    def distance(self, truth: Any, log_q: Tensor) -> tuple[float, float]:
        """KL(p || q), and the root of E_p (log p - log q)^2."""
        log_p = -truth(self.points) - truth.log_z
        weight, gap = (log_p + self.log_area).exp(), log_p - log_q
        return (weight * gap).sum().item(), (weight * gap.square()).sum().sqrt().item()
