"""A score network in the place of an energy, for samplers that ask for gradients alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn


class ScoreAsEnergy(nn.Module):
    """grad E(x) = -s(x); E itself is not known."""

    has_values = False

    def __init__(self, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.score = score  # nn.Module registers a module

    def forward(self, x: Tensor, **condition: Any) -> NoReturn:
        raise TypeError(
            "a score network has a gradient but no energy: use a sampler without accept and reject (Langevin, "
            "UnderdampedLangevin, AnnealedLangevin)"
        )

    def grad(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n, *event)
        """-s(x), without a graph."""
        with torch.no_grad():
            s = self.score(x, **condition)
        if not isinstance(s, Tensor) or s.shape != x.shape:
            got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
            raise ValueError(f"score: expected scores {tuple(x.shape)} for x {tuple(x.shape)}, got {got}")
        return -s.to(x.dtype)

    def energy_and_grad(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:  # (n, *event) -> (n,), (n, *event)
        """(zeros that stand for the unknown energies, -s(x)), without a graph."""
        return x.new_zeros(len(x)), self.grad(x, **condition)


def from_score(score: Callable[..., Tensor]) -> ScoreAsEnergy:
    """An object with grad E(x) = -s(x), by which Langevin samplers run on a score network s(x, **condition).

    There is no E: recorded energies are 0, calling the object is a TypeError, and samplers that accept and reject refuse it.

    Raises:
        TypeError: not callable.
        ValueError: scores of another shape than x, when a sampler asks for them.
    """
    if not callable(score) or isinstance(score, type):
        raise TypeError(f"score must be callable, (n, *event) -> (n, *event), got {type(score).__name__}")
    return ScoreAsEnergy(score)
