"""Where chains start: uniform or Gaussian noise, rows of data, or a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_fast import ops

Init = tuple[str, float, float] | tuple[str, float] | Tensor | Callable[[int, int, int], Tensor]
"""("uniform", lo, hi) | ("normal", std) | rows (m, *event) to choose from | function (n, seed, step) -> (n, *event)"""


class InitialStates:
    """x_0 ~ U(lo, hi), N(0, std^2), a row of a tensor chosen uniformly, or what a function returns.

    Calling it with (n, seed, step) gives new states (n, *event) that depend on these and the chain index alone.
    Raises TypeError or ValueError naming `init` when it is of no such form, or does not fit event shape or dtype.
    """

    def __init__(
        self,
        init: Init,
        event_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.event_shape = tuple(event_shape)
        self.device, self.dtype = torch.empty(0, device=device).device, dtype
        if isinstance(init, Tensor):
            if len(init) == 0 or tuple(init.shape[1:]) != self.event_shape:
                raise ValueError(
                    f"init: expected (m, *{self.event_shape}) with m >= 1, got {tuple(init.shape)}"
                )
            init = init.detach().to(self.device, dtype)
        elif isinstance(init, tuple | list):
            kind, *numbers = init
            known = {"uniform": 2, "normal": 1}.get(kind)
            if known != len(numbers) or not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"init: expected ('uniform', lo, hi) or ('normal', std), got {tuple(init)}")
            if (kind == "uniform" and numbers[0] >= numbers[1]) or (kind == "normal" and numbers[0] <= 0):
                raise ValueError(f"init: expected lo < hi and std > 0, got {tuple(init)}")
        elif not callable(init):
            raise TypeError(
                "init: expected ('uniform', lo, hi), ('normal', std), a tensor or a callable, "
                f"got {type(init).__name__}"
            )
        self.init: Any = init

    def __call__(self, n: int, seed: int, step: int) -> Tensor:  # (n, *event)
        """New states for chains 0..n-1; `step` counts the calls of one seed."""
        init = self.init
        if isinstance(init, Tensor):
            words = torch.empty(n, 1, dtype=torch.int32, device=self.device)
            ops.bits_(words, seed=seed, step=step, purpose="init")
            # The high half of word * m / 2^32 is uniform on 0..m-1, and no division is needed on the device.
            rows = ((words.long() & 0xFFFFFFFF) * len(init)) >> 32
            return init[rows.squeeze(1)]
        if callable(init):
            states = init(n, seed, step)
            if tuple(states.shape) != (n, *self.event_shape):
                raise ValueError(
                    f"init: expected it to return {(n, *self.event_shape)}, got {tuple(states.shape)}"
                )
            return states.detach().to(self.device, self.dtype, copy=True)
        states = torch.empty(n, *self.event_shape, dtype=self.dtype, device=self.device)
        if init[0] == "uniform":
            lo, hi = init[1:]
            return ops.uniform_(states, seed=seed, step=step, purpose="init").mul_(hi - lo).add_(lo)
        return ops.normal_(states, seed=seed, step=step, purpose="init").mul_(init[1])
