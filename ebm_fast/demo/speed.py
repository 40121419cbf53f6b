"""Sampling speed of the library beside the same loop in plain PyTorch, paired and interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import ebm_fast as ef

_COMPARED = 20  # steps after which the library is compared with its reference
Energy = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Speed:
    """Median seconds of one sampling step of all chains, for each way of doing it or a part of it."""

    num_chains: int
    plain: float
    """The loop in plain PyTorch: gradient by autograd, ``randn_like``, update."""
    library: float
    """``ef.langevin_`` on the same network and the same number of chains."""
    gradient: float
    """The network's gradient alone, which both have to compute."""
    plain_update: float
    """What plain PyTorch does beside the gradient: noise and update."""
    library_update: float
    """The fused update with its noise, ``ef.ops.langevin_step_``."""
    ratio: float
    """Median over the rounds of plain / library within one round."""
    update_ratio: float
    """The same of plain_update / library_update."""
    difference: float
    """Largest difference in any pixel between ``ef.langevin_`` and its reference in plain PyTorch, same seed."""
    rounds: int


def measure_speed(
    energy: Energy, x0: torch.Tensor, *, step_size: float, noise_std: float, seconds: float = 15.0
) -> Speed:
    """Compare with the reference; then time the five loops of `Speed` in turn, round after round; take medians.

    Load on the machine that comes and goes hits all five alike, and the ratio is taken within each round.

    Args:
        energy: the trained network, (n, *event) -> (n,), in evaluation mode, its parameters without
            gradients.
        x0: (n, *event), where the chains start.
        step_size, noise_std: of the Langevin update.
        seconds: roughly how long to measure.
    """
    x, grad = x0.clone(), torch.randn_like(x0)
    options: dict[str, Any] = {"step_size": step_size, "noise_std": noise_std, "seed": 0}

    ours, reference = (
        ef.langevin_(x0.clone(), energy, num_steps=_COMPARED, strategy=strategy, **options)
        for strategy in ("auto", "reference")
    )

    def plain(steps: int) -> None:
        plain_langevin(energy, x0.clone(), steps, step_size, noise_std)

    def library(steps: int) -> None:
        ef.langevin_(x0.clone(), energy, num_steps=steps, **options)

    def gradient(steps: int) -> None:
        leaf = x0.clone().requires_grad_(True)
        for _ in range(steps):
            torch.autograd.grad(energy(leaf).sum(), leaf)

    def plain_update(steps: int) -> None:
        for _ in range(steps):
            x.add_(grad, alpha=-step_size).add_(torch.randn_like(x), alpha=noise_std)

    def library_update(steps: int) -> None:
        for step in range(steps):
            ef.ops.langevin_step_(x, grad, step=step, **options)

    loops = [plain, library, gradient, plain_update, library_update]
    # Short rounds, so that whatever else the machine does falls on all loops alike; within a round, as many steps
    # of each loop as fill its share, found by one call after a warm-up.
    rounds = 51
    counts = []
    for loop in loops:
        loop(2)
        counts.append(max(1, int(seconds / rounds / len(loops) / _time(loop, 3))))
    times = [[_time(loop, count) for loop, count in zip(loops, counts, strict=True)] for _ in range(rounds)]
    return Speed(
        len(x0),
        **{
            loop.__name__: statistics.median(column)
            for loop, column in zip(loops, zip(*times, strict=True), strict=True)
        },
        ratio=statistics.median(row[0] / row[1] for row in times),
        update_ratio=statistics.median(row[3] / row[4] for row in times),
        difference=(ours - reference).abs().max().item(),
        rounds=rounds,
    )


def plain_langevin(
    energy: Energy, x: torch.Tensor, num_steps: int, step_size: float, noise_std: float
) -> torch.Tensor:
    """x ← x − step_size ∇E(x) + noise_std z, num_steps times, as one writes it in plain PyTorch."""
    for _ in range(num_steps):
        x.requires_grad_(True)
        grad = torch.autograd.grad(energy(x).sum(), x)[0]
        x = x.detach() - step_size * grad + noise_std * torch.randn_like(x)
    return x


def _time(loop: Callable[[int], None], steps: int) -> float:
    start = time.perf_counter()
    loop(steps)
    return (time.perf_counter() - start) / steps
