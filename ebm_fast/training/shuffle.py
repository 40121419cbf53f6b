"""Random keys whose ranking is a shuffle: a function of (seed, step) alone, the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm_fast import ops


def shuffle_keys(
    n: int, *, seed: int, step: int, purpose: str, device: torch.device | str | None = None
) -> Tensor:
    """key_i = word_i n + i, (n,) int64: random and all different, so that every sort ranks them alike."""
    words = torch.empty(1, n, dtype=torch.int32, device=device)
    ops.bits_(words, seed=seed, step=step, purpose=purpose)
    return words.squeeze(0).long() * n + torch.arange(n, device=device)
