"""Objectives with a second player, in the table of the comparison: the generators, their optimiser, their turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.noise.foreign import torch_seeded
from ebm_fast.objectives import players
from ebm_fast.training import Alternating

if TYPE_CHECKING:
    from .methods import Problem

GENERATOR_RATE = 4e-3
FLOW_RATE, FLOW_BETAS = 1e-2, (0.5, 0.9)  # of a flow that the energy learns from alone: fast, with a short memory


def fce(p: Problem) -> Alternating:
    """Flow contrastive estimation; the flow, helped by likelihood of its own, moves in every other iteration."""
    return _alternating(
        p, lambda: ef.FlowContrastive(p.energy, _flow(), likelihood_weight=1.0, log_z=p.log_z, seed=p.seed), every=2
    )


def ace(p: Problem) -> Alternating:
    """Adversarial contrastive estimation: a noisy network beside the static noise."""
    return _alternating(
        p,
        lambda: ef.AdversarialContrastive(
            p.energy, _network(), p.noise(), base_weight=0.5, entropy_weight=0.1, num_noise=2, log_z=p.log_z, seed=p.seed
        ),
    )


def variational(p: Problem) -> Alternating:
    """Maximum likelihood against the samples of a flow, which moves ten times as fast as the energy."""
    return _alternating(p, lambda: ef.VariationalMLE(p.energy, _flow(), seed=p.seed), FLOW_RATE, FLOW_BETAS)


def _alternating(
    p: Problem, make: Callable[[], Any], rate: float = GENERATOR_RATE, betas: tuple[float, float] = (0.9, 0.999), **turns: int
) -> Alternating:
    with torch_seeded(p.seed):
        objective = make()
    optimizer = torch.optim.Adam(objective.generator_parameters(), rate, betas, fused=True)
    return Alternating(objective, optimizer, **turns)


def _flow() -> Any:
    """Four affine couplings: of the flows at hand the one that takes the least time."""
    import zuko

    return zuko.flows.RealNVP(features=2, transforms=4, hidden_features=(64,))


def _network() -> players.Generator:
    net = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    return players.Generator(net, latent_shape=4, std=0.3)
