"""Noticing NaN and infinity without stopping the GPU."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor


class FiniteCheck:
    """Raises FloatingPointError naming the tensors that hold a NaN or an infinity.

    On the CPU, or with `immediate`, at once. On CUDA the answer is copied to the host behind the work that is queued
    and read in a later call, one or a few iterations on, so that no call waits for the device; `finish()` waits.
    """

    def __init__(self, immediate: bool = False) -> None:
        self.immediate = immediate
        self._pending: deque[tuple[list[str], Tensor, torch.cuda.Event]] = deque()

    def __call__(self, **tensors: Tensor) -> None:
        while self._pending and self._pending[0][2].query():
            self._judge_oldest()
        if all(tensor.device.type == "cpu" for tensor in tensors.values()):
            # Numbers of the host's cost no operator each, whose code a network's pass has pushed out of the cache.
            _judge(list(tensors), [_is_finite(tensor.detach()) for tensor in tensors.values()])
            return
        flags = torch.stack([_all_finite(tensor.detach()) for tensor in tensors.values()])
        if self.immediate or not flags.is_cuda:
            _judge(list(tensors), flags.tolist())
            return
        answer = torch.empty(len(flags), dtype=torch.bool, device="cpu", pin_memory=True)
        answer.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((list(tensors), answer, event))

    def finish(self) -> None:
        """Wait for every answer still under way."""
        while self._pending:
            self._pending[0][2].synchronize()
            self._judge_oldest()

    def __getstate__(self) -> dict[str, bool]:
        """Events of CUDA can be neither copied nor pickled: a copy waits for the answers, and begins with none."""
        self.finish()
        return {"immediate": self.immediate}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _judge_oldest(self) -> None:
        names, answer, _ = self._pending.popleft()
        _judge(names, answer.tolist())


def _all_finite(tensor: Tensor) -> Tensor:  # -> () bool
    """By the extremes, which a NaN or an infinity takes over: one pass and no temporary as large as the tensor."""
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    low, high = torch.aminmax(tensor)
    return low.isfinite() & high.isfinite()


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.numel() or all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def _judge(names: list[str], flags: list[bool]) -> None:
    bad = [name for name, finite in zip(names, flags, strict=True) if not finite]
    if bad:
        raise FloatingPointError(f"not finite: {', '.join(bad)}")
