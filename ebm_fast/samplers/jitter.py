"""Random numbers that the host itself needs, by Philox4x32-10 in NumPy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..ops.purposes import purpose_tag

_STEPS = 256  # drawn at once: many cost little more than one
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=16)
def _numbers(seed: int, part: int, purpose: str) -> list[list[float]]:
    """Of the steps from `part` * _STEPS on. # (4, _STEPS)"""
    step, low = np.arange(_STEPS, dtype=np.uint64) + np.uint64(part * _STEPS & 2**64 - 1), np.uint64(_MASK)
    half = np.uint64(32)
    c: list[Any] = [np.zeros_like(step), np.zeros_like(step), step & low, (step >> half & np.uint64(0xFFFFFF)) << np.uint64(8)]
    c[3] |= np.uint64(purpose_tag(purpose))
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [b >> half ^ c[1] ^ np.uint64(k0), b & low, a >> half ^ c[3] ^ np.uint64(k1), a & low]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return (np.stack(c) * 2.0**-32 + 2.0**-33).tolist()


def uniform_numbers(seed: int, step: int, count: int, purpose: str, element: int) -> list[float]:
    """u in (0, 1] of steps step ... step + count - 1: element `element` (0 ... 3) of chain 0 in the random-number contract; the
    same for every batch of chains. Of a step that is taken by itself without NumPy, whose code is out of the cache by then."""
    first, at = divmod(step, _STEPS)
    if at + count <= _STEPS:
        return _numbers(seed, first, purpose)[element][at : at + count]
    parts = range(first, (step + count - 1) // _STEPS + 1)
    return [number for part in parts for number in _numbers(seed, part, purpose)[element]][at : at + count]
