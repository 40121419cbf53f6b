"""Inputs of the ops' tests: tensors by name, the same for every backend, with awkward shapes and poisoned outputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# one element, odd events, blocks of four, events of several tiles, few and many chains, images, no event at all
SHAPES = [(1, 1), (1, 1000), (63, 5), (7, 3, 5), (1000, 2), (3, 1000), (5, 64), (2, 1, 8, 8), (300, 1), (1000,), (40, 33),
          (2, 5001)]  # fmt: skip
DTYPES = [torch.float32, torch.float64]
COUNTER: dict[str, Any] = {"seed": 2**63 + 1, "step": 2**33, "chain_offset": 17}


class Drawn:
    """Draws tensors of one case from a seed of its own."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 5) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(self.shape if shape is None else shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.dtype if dtype is None else dtype).to(self.device)

    def positive(self, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64) + 0.5
        return drawn.to(self.dtype).to(self.device)

    def poison(self, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        kind = self.dtype if dtype is None else dtype
        return torch.full(self.shape if shape is None else shape, math.nan, dtype=kind, device=self.device)

    def coefficient(self, kind: str | float, size: float = 0.3) -> float | Tensor:
        """A number, or size times numbers in [0.5, 1.5]: one a chain ("n") or one on the device ("0")."""
        if not isinstance(kind, str):
            return kind
        return size * (self.positive(self.shape[:1]) if kind == "n" else self.positive(()))


def assert_same(fast: dict[str, Any], truth: dict[str, Any], tolerance: float) -> None:
    """Every tensor of a case, written or not, is what the reference left."""
    for name, wanted in truth.items():
        if isinstance(wanted, Tensor):
            torch.testing.assert_close(
                fast[name].cpu(), wanted, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
            )


def chains_of(case: dict[str, Any], first: int, last: int, shared: tuple[str, ...] = ("scale",)) -> dict[str, Any]:
    """The same case for chains [first, last) alone."""
    part = {
        name: value[first:last].clone() if isinstance(value, Tensor) and value.ndim and name not in shared else value
        for name, value in case.items()
    }
    if "chain_offset" in part:
        part["chain_offset"] += first
    return part
