"""The phi^4 field on a periodic square lattice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import AnalyticEnergy, dimension, scalar, tensors


class PhiFour(AnalyticEnergy):
    """E(phi) = sum_x 1/2 sum_mu (phi_{x + mu} - phi_x)^2 + 1/2 m2 phi_x^2 + l phi_x^4 on an H x W torus, mu in two directions.

    m2 < 0 gives two phases, phi near +-sqrt(-m2 / (4 l)). No exact sampler and no closed form of Z.

    Args:
        shape: (H, W), the event's shape.
        mass2: m2, of either sign.
        coupling: l >= 0; above 0 unless m2 > 0.
        trainable, dtype: see `AnalyticEnergy`.

    Raises:
        TypeError, ValueError: a bad shape, or numbers for which exp(-E) has no integral.

    Descriptor: `phi_four` with the integers H, W.
    """

    mass2: Tensor
    coupling: Tensor

    def __init__(
        self, shape: tuple[int, int], mass2: Any = -1.0, coupling: Any = 0.5, *, trainable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise TypeError(f"shape must be a pair (H, W), got {shape!r}")
        sides = (dimension(shape[0], "shape[0]"), dimension(shape[1], "shape[1]"))
        made = tensors(dtype, mass2=mass2, coupling=coupling)
        scalar(**made)
        if made["coupling"] < 0 or (made["coupling"] == 0 and made["mass2"] <= 0):
            raise ValueError(
                f"coupling must be above 0, or 0 with mass2 above 0, for exp(-E) to have an integral; got coupling "
                f"{made['coupling'].item():g}, mass2 {made['mass2'].item():g}"
            )
        super().__init__(sides, trainable, made, arranged=sides)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return 4.0 + self.mass2.to(dtype), self.coupling.to(dtype)

    @staticmethod
    def _linear(phi: Tensor, diagonal: Tensor) -> Tensor:
        """(m2 - Laplacian) phi; summing over links by parts, E = sum phi (1/2 of this + l phi^3)."""
        linear = phi * diagonal
        for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
            linear.sub_(phi.roll(shift, axis))
        return linear

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        diagonal, coupling = constants
        return (rows * (0.5 * self._linear(rows, diagonal) + coupling * rows**3)).sum((1, 2))

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        diagonal, coupling = constants
        linear = self._linear(rows, diagonal)
        cube = rows.square().mul_(rows).mul_(coupling)
        g = torch.add(linear, cube, alpha=4.0)
        return cube.add_(linear, alpha=0.5).mul_(rows).sum((1, 2)), g

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        diagonal, coupling = constants
        cube = rows.square().mul_(rows).mul_(coupling)
        return self._linear(rows, diagonal).add_(cube, alpha=4.0)

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        return "phi_four", self.event_shape, [self.mass2, self.coupling], None
