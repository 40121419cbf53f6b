"""The replay buffer of persistent chains: on the model's device, drawn and written without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.objectives.initial import Init, InitialStates
from ebm_fast.ops import checks


class Draw(NamedTuple):
    """What `ReplayBuffer.draw` took: starting states, and where the ends of the chains are to be written."""

    x: Tensor  # (n, *event), a copy
    slots: Tensor  # (n,) int64, all different
    y: Tensor | None  # (n,) int64, the class of each slot
    fresh: Tensor  # (n,) bool, restarted from `init`


class ReplayBuffer:
    """Slot i holds a chain; a draw takes n different slots, each restarted from `init` with probability R.

    `init`: ("uniform", lo, hi), ("normal", std), rows (m, *event) to choose from, or a function (n, seed, step,
    chain_offset) -> (n, *event); it fills the buffer and restarts slots. `rejuvenation` is R: 0 never restarts, 1
    always does. `seed`: 64 bits; None draws one from torch's generator. `chain_offset`: global index of slot 0, r size
    for rank r, so that buffers of one seed hold chains of their own: it shifts the noise of `init` and of the restarts.
    With `num_classes`, slots belong to classes in equal blocks: slot i to class i // (size / num_classes).
    Everything random is a function of (seed, chain_offset, number of the draw), and stays on `device`: `draw` and
    `write` wait for nothing. Sources: Tieleman 2008 (persistent chains); Du and Mordatch 2019 (buffer, R = 5 %).
    Raises TypeError or ValueError naming the argument.
    """

    def __init__(
        self,
        size: int,
        event_shape: Sequence[int],
        *,
        init: Init,
        rejuvenation: float = 0.05,
        num_classes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        chain_offset: int = 0,
    ) -> None:
        check_count(size, "size", 1)
        if isinstance(event_shape, (int, str)) or not all(type(d) is int and d > 0 for d in event_shape):
            raise ValueError(f"event_shape: expected the positive sizes of a state, such as (1, 28, 28), got {event_shape!r}")
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype: expected a torch.dtype such as torch.float32, got {dtype!r}")
        seed = ops.fresh_seed() if seed is None else seed
        checks.counter(seed, 0, chain_offset, None, torch.empty(size, 0, device="meta"))
        if num_classes is not None:
            check_count(num_classes, "num_classes", 1)
        checks.number(rejuvenation, "rejuvenation")
        if not 0.0 <= rejuvenation <= 1.0:
            raise ValueError(f"rejuvenation: expected a probability in [0, 1], got {rejuvenation}")
        if num_classes is not None and size % num_classes:
            raise ValueError(f"size: expected a multiple of num_classes={num_classes}, got {size}")
        self.size, self.event_shape = size, tuple(event_shape)
        self.rejuvenation, self.num_classes, self.seed = rejuvenation, num_classes, seed
        self.chain_offset = chain_offset
        self.initial = InitialStates(init, event_shape, device=device, dtype=dtype)
        self.num_draws = 0
        self.samples = self.initial(size, seed, 0, chain_offset)

    def draw(self, n: int, y: Tensor | None = None, *, out: Tensor | None = None) -> Draw:
        """n slots without replacement; with labels y (n,) int64, slot j is one of class y[j]. `out` (n, *event) receives x.

        The slots are the first members of a random permutation (`ops.randperm_`), so that a draw costs O(n), whatever the size.
        Raises ValueError when n is more than the buffer (with labels: than one class) holds, or y does not fit. On
        CUDA the range of y is left to the device's own assertion, because reading it would wait.
        """
        check_count(n, "n")
        limit = self.size if y is None or self.num_classes is None else self.size // self.num_classes
        if not 1 <= n <= limit:
            each = "" if limit == self.size else f" for each of its {self.num_classes} classes"
            raise ValueError(f"n: expected 1..{limit}, because the buffer has {limit} slots{each}; got a batch of {n}")
        if y is not None:
            self._check_labels(y, n)
        x = self.samples.new_empty(n, *self.event_shape) if out is None else out
        if x.shape != (n, *self.event_shape) or x.dtype != self.samples.dtype or x.device != self.samples.device:
            raise ValueError(
                f"out: expected {self.samples.dtype} {(n, *self.event_shape)} on {self.samples.device}, "
                f"got {x.dtype} {tuple(x.shape)} on {x.device}"
            )
        self.num_draws += 1
        slots = self._slots(n, y)
        if self.num_classes is not None:
            y = slots // (self.size // self.num_classes)
        return Draw(x, slots, y, self._gather(x, slots))

    def _gather(self, x: Tensor, slots: Tensor) -> Tensor:
        """Writes the slots' states to x, restarted where what is returned says so. (n,) bool"""
        counter: dict[str, Any] = {"seed": self.seed, "step": self.num_draws, "chain_offset": self.chain_offset}
        if self.samples.is_floating_point() and not callable(self.initial.init):
            fresh = torch.empty(len(slots), dtype=torch.bool, device=slots.device)
            ops.gather_(
                x,
                self.samples,
                slots,
                rejuvenation=self.rejuvenation,
                init=self.initial.init,
                fresh=fresh,
                **counter,
            )
            return fresh
        chance = torch.empty(len(slots), 1, device=slots.device)
        fresh = (
            ops.uniform_(chance, purpose="rejuvenation", **counter).squeeze(1) <= self.rejuvenation
        )
        x.copy_(self.samples[slots])
        if self.rejuvenation > 0.0:
            restarted = self.initial(len(slots), **counter)
            x.copy_(torch.where(fresh.view(-1, *[1] * len(self.event_shape)), restarted, x))
        return fresh

    def _slots(self, n: int, y: Tensor | None) -> Tensor:
        slots = torch.empty(n, dtype=torch.int64, device=self.samples.device)
        if y is None:
            return ops.randperm_(slots, self.size, seed=self.seed, step=self.num_draws)
        num_classes = self.num_classes or 1
        members = y.unsqueeze(1) == torch.arange(num_classes, device=slots.device)
        turn = members.cumsum(0).gather(1, y.unsqueeze(1)).squeeze(1) - 1  # how many of the class came before
        return ops.randperm_(
            slots, self.size // num_classes, index=turn, group=y.contiguous(), seed=self.seed, step=self.num_draws
        )

    def _check_labels(self, y: Tensor, n: int) -> None:
        if self.num_classes is None:
            raise ValueError("y: this buffer has no classes (num_classes=None), got labels")
        if y.dtype != torch.int64 or tuple(y.shape) != (n,) or y.device != self.samples.device:
            raise ValueError(
                f"y: expected int64 ({n},) on {self.samples.device}, got {y.dtype} {tuple(y.shape)} on {y.device}"
            )
        if not y.is_cuda and (y.min() < 0 or y.max() >= self.num_classes):
            raise ValueError(f"y: expected labels in 0..{self.num_classes - 1}, got {y.min()}..{y.max()}")

    def write(self, slots: Tensor, x: Tensor) -> None:
        """samples[slots] <- x: the ends of the chains, to slots of one draw (all different), which it copies.

        A row of x that holds a NaN or an infinity leaves its slot as it is, without waiting for the device: a chain
        that has left for good must not be continued.
        """
        n = len(slots) if slots.dim() == 1 else -1
        if slots.dtype != torch.int64 or n < 0 or slots.device != self.samples.device:
            raise ValueError(
                f"slots: expected int64 (n,) on {self.samples.device}, "
                f"got {slots.dtype} {tuple(slots.shape)} on {slots.device}"
            )
        wanted = (n, *self.event_shape)
        if tuple(x.shape) != wanted or x.dtype != self.samples.dtype or x.device != self.samples.device:
            raise ValueError(
                f"x: expected {self.samples.dtype} {wanted} on {self.samples.device}, "
                f"got {x.dtype} {tuple(x.shape)} on {x.device}"
            )
        if self.samples.is_floating_point():
            ops.scatter_(self.samples, slots.contiguous(), x.detach().contiguous())
            return
        checks.indices(slots, "slots", self.size)
        self.samples.index_copy_(0, slots, x)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the chains, and the seed and number of the draws."""
        return {"samples": self.samples.clone(), "seed": self.seed, "num_draws": self.num_draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the buffer that was saved; ValueError when it holds other events."""
        checks.entries(state, "samples", "seed", "num_draws")
        samples = state["samples"]
        if samples.shape != self.samples.shape or samples.dtype != self.samples.dtype:
            raise ValueError(
                f"state: expected samples {self.samples.dtype} {tuple(self.samples.shape)}, "
                f"got {samples.dtype} {tuple(samples.shape)}"
            )
        self.samples.copy_(samples)
        self.seed, self.num_draws = int(state["seed"]), int(state["num_draws"])
