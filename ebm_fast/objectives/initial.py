"""Where chains start: uniform or Gaussian noise, rows of data, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.ops import checks

Init = tuple[str, float, float] | tuple[str, float] | Tensor | Callable[[int, int, int, int], Tensor]
"""("uniform", lo, hi) | ("normal", std) | rows (m, *event) to choose from | function -> (n, *event) of
(n, seed, step, chain_offset), where row i is to be the state of chain chain_offset + i"""


class InitialStates:
    """x_0 ~ U(lo, hi), N(0, std^2), a row of a tensor chosen uniformly, or what a function returns.

    Calling it with (n, seed, step, chain_offset) gives new states (n, *event), row i a function of seed, step and
    the chain index chain_offset + i alone. Raises TypeError or ValueError naming `init` when it is of no such form
    or does not fit the event shape, and TypeError naming `dtype` when noise is to be of no floating-point type.
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
            if init.dim() == 0 or len(init) == 0 or tuple(init.shape[1:]) != self.event_shape:
                raise ValueError(
                    f"init: expected (m, *{self.event_shape}) with m >= 1, got {tuple(init.shape)}"
                )
            init = init.detach().to(self.device, dtype)
        elif isinstance(init, tuple | list):
            if (*init[:1], len(init)) not in (("uniform", 3), ("normal", 2)):
                raise ValueError(f"init: expected ('uniform', lo, hi) or ('normal', std), got {tuple(init)}")
            if not dtype.is_floating_point:
                raise TypeError(f"dtype: expected a floating-point type for init={tuple(init)}, got {dtype}")
            numbers = [checks.number(value, f"each number of init={init}") for value in init[1:]]
            if (len(numbers) == 2 and numbers[0] >= numbers[1]) or (len(numbers) == 1 and numbers[0] <= 0):
                raise ValueError(f"init: expected lo < hi and std > 0, got {tuple(init)}")
        elif not callable(init):
            raise TypeError(
                "init: expected ('uniform', lo, hi), ('normal', std), a tensor or a callable, "
                f"got {type(init).__name__}"
            )
        self.init: Any = init

    def __call__(self, n: int, seed: int, step: int, chain_offset: int = 0) -> Tensor:  # (n, *event)
        """New states for chains chain_offset..chain_offset+n-1; `step` counts the calls of one seed."""
        init = self.init
        if isinstance(init, Tensor):
            words = torch.empty(n, 1, dtype=torch.int32, device=self.device)
            ops.bits_(words, seed=seed, step=step, purpose="init", chain_offset=chain_offset)
            # The high half of word * m / 2^32 is uniform on 0..m-1, and no division is needed on the device.
            rows = ((words.long() & 0xFFFFFFFF) * len(init)) >> 32
            return init[rows.squeeze(1)]
        if callable(init):
            states = init(n, seed, step, chain_offset)
            if not isinstance(states, Tensor):
                raise TypeError(f"init: expected it to return a tensor, got {type(states).__name__}")
            if tuple(states.shape) != (n, *self.event_shape):
                raise ValueError(
                    f"init: expected it to return {(n, *self.event_shape)}, got {tuple(states.shape)}"
                )
            return states.detach().to(self.device, self.dtype, copy=True)
        # Uniforms of type float16 do not exist: its smallest number is too large.
        dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        states = torch.empty(n, *self.event_shape, dtype=dtype, device=self.device)
        if init[0] == "uniform":
            lo, hi = init[1:]
            ops.uniform_(states, seed=seed, step=step, purpose="init", chain_offset=chain_offset)
            return states.mul_(hi - lo).add_(lo).to(self.dtype)
        ops.normal_(states, seed=seed, step=step, purpose="init", chain_offset=chain_offset)
        return states.mul_(init[1]).to(self.dtype)
