"""What native code knows of an analytic energy: a kind and packed float32 parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.chain import PACKED, PRECISIONS


@dataclass(frozen=True, eq=False)
class Descriptor:
    """E(x) = native(kind, dim, integers, parameters; x) + offset, with x flattened to dim numbers.

    Args:
        kind: a name in `ebm_fast.ops.chain.PACKED`.
        dim: numbers in an event.
        integers: sizes that the kind needs beside dim: (M,) of "mixture", (H, W) of "phi_four", (N,) of
            "logistic_regression", (J,) of "eight_schools", (activation, H, w_1 ... w_H) of "mlp", else ().
        parameters: (k,) float32, contiguous, packed in the order that stands beside the kind in `PACKED`.
        offset: constant by which the energy exceeds the native value.
        precision: of the matrix products, a name in `PRECISIONS`; other than "float32" of kind "mlp" alone. See `MLPEnergy`.

    Raises:
        ValueError: an unknown kind or precision, or parameters of another length than kind, dim and integers ask for.
    """

    kind: str
    dim: int
    integers: tuple[int, ...]
    parameters: Tensor  # (k,)
    offset: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in PACKED:
            raise ValueError(f"kind must be one of {', '.join(PACKED)}, got {self.kind!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.precision != "float32" and self.kind != "mlp":
            raise ValueError(f"precision must be 'float32' for kind {self.kind!r}, got {self.precision!r}")
        try:
            length = PACKED[self.kind](self.dim, *self.integers)
        except TypeError:
            raise ValueError(f"integers: wrong number of them for kind {self.kind!r}: {self.integers}") from None
        if length < 0:
            raise ValueError(f"integers {self.integers} do not fit kind {self.kind!r} of {self.dim} numbers")
        p = self.parameters
        if p.shape != (length,) or p.dtype is not torch.float32 or not p.is_contiguous():
            raise ValueError(
                f"parameters of kind {self.kind!r} with dim {self.dim} and integers {self.integers} must be contiguous, float32, "
                f"of shape ({length},), got {tuple(p.shape)}, {p.dtype}"
            )
