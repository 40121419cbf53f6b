"""Energies along a ladder of noise levels that are numbered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class LevelEnergy(nn.Module):
    """E(x, t) = |x|^2 / 2 + F(x, t), t = 0 ... L-1 the level: what `DiffusionRecoveryLikelihood` trains on vectors.

    F is a multilayer perceptron with SiLU, in which each hidden layer adds a learned vector of the level. Far out the square
    wins over F, which grows linearly, so that every level has a density.
    `dim`: numbers in an event # (n, dim); `num_levels`: L; `widths`: of the hidden layers. Raises ValueError naming the argument.
    """

    def __init__(self, dim: int, num_levels: int, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        sizes = (dim, *widths)
        if not widths or any(type(size) is not int or size < 1 for size in (*sizes, num_levels)):
            raise ValueError(
                "dim, num_levels, widths: expected ints of at least 1 and a hidden layer, "
                f"got {dim}, {num_levels}, {tuple(widths)}"
            )
        self.dim, self.num_levels = dim, num_levels
        self.hidden = nn.ModuleList(nn.Linear(into, out) for into, out in itertools.pairwise(sizes))
        self.levels = nn.ModuleList(nn.Embedding(num_levels, out) for out in widths)
        self.last = nn.Linear(sizes[-1], 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # (n, dim), (n,) int64 -> (n,)
        """E(x, t)."""
        if tuple(x.shape[1:]) != (self.dim,):
            raise ValueError(f"x: expected (n, {self.dim}), got {tuple(x.shape)}")
        h = x
        for layer, level in zip(self.hidden, self.levels, strict=True):
            h = functional.silu(layer(h) + level(t))
        return 0.5 * x.square().sum(1) + self.last(h).squeeze(1)
