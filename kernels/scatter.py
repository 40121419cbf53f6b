"""Rows written back to a buffer where they are finite (op `scatter_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .philox import on_device_of
from .rows import row_geometry, rows_of

INF = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=["size", "count"])
def scatter_kernel(
    target, slots, x, size: tl.int64, count, dim, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    FLOAT: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    row, exists = rows_of(count, INDEX, ROWS)
    slot = tl.load(slots + row, mask=exists, other=-1)
    kept = exists & (slot >= 0) & (slot < size)
    bad = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    at = 0 * dim  # as wide as it
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        mask = kept[:, None] & (column < dim)[None, :]
        a = tl.load(x + row[:, None] * dim + column[None, :], mask=mask, other=0.0)
        bad |= (tl.abs(a.to(FLOAT)) < INF).to(tl.int32) ^ 1
        at += COLUMNS
    kept = kept & (tl.max(bad, axis=1) == 0)
    at = 0 * dim
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        mask = kept[:, None] & (column < dim)[None, :]
        a = tl.load(x + row[:, None] * dim + column[None, :], mask=mask, other=0.0)
        tl.store(target + slot[:, None] * dim + column[None, :], a, mask=mask)
        at += COLUMNS


def scatter_(target: torch.Tensor, slots: torch.Tensor, x: torch.Tensor) -> None:
    """target[slots_i] = x_i where every element of x_i is finite and slots_i exists."""
    n = x.shape[0]
    grid, shape, warps = row_geometry(x, n, x.numel() // n)
    with on_device_of(x):
        scatter_kernel[grid](target, slots, x, target.shape[0], *shape, num_warps=warps, enable_fp_fusion=False)
