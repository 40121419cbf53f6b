"""Tolerances beside the dtype they belong to, and the contract's bound on normals."""

from __future__ import annotations

import torch
from torch import Tensor

# One Langevin update of numbers of order one: a few roundings of the storage type.
UPDATE = {torch.float32: 2e-6, torch.float64: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def assert_normals_agree(a: Tensor, b: Tensor) -> None:
    """|a - b| <= 2 float32 ulp where |b| >= 1, and 1e-6 below: the random-number contract."""
    a, b = a.double().cpu(), b.double().cpu()
    ulp = torch.finfo(torch.float32).eps * 2.0 ** b.abs().clamp_min(1.0).log2().floor()
    bound = torch.where(b.abs() >= 1.0, 2.0 * ulp, 1e-6)
    worst = ((a - b).abs() / bound).max().item()
    assert worst <= 1.0, f"normals differ by {worst:.2f} times the bound"
