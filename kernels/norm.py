"""Euclidean norm of each chain's event (op `event_norm`), summed in float64 in an order that only `dim` decides."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .philox import WIDE_FROM, on_device_of


@triton.jit(do_not_specialize=["chains"])
def norm_kernel(x, out, chains, dim, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    at = 0 * dim  # as wide as it
    while at < dim:  # `range` over a run-time end breaks the interpreter of Triton <= 3.6 under numpy >= 2.4
        column = at + tl.arange(0, COLUMNS)
        mask = (row < chains)[:, None] & (column < dim)[None, :]
        a = tl.load(x + row[:, None] * dim + column[None, :], mask=mask, other=0.0).to(tl.float64)
        total = tl.fma(a, a, total)
        at += COLUMNS
    tl.store(out + row, tl.sqrt(tl.sum(total, axis=1)).to(out.dtype.element_ty), mask=row < chains)


def event_norm(x: torch.Tensor) -> torch.Tensor:
    """norm_i = sqrt(sum_d x_id^2). x # (n, *event) -> (n,)"""
    chains = x.shape[0]
    dim = x.numel() // chains
    out = x.new_empty(chains, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    columns = min(triton.next_power_of_2(dim), 1024)
    rows = 1024 // columns
    index = tl.int64 if x.numel() >= WIDE_FROM else tl.int32
    with on_device_of(x):
        norm_kernel[((chains + rows - 1) // rows,)](
            x, out, chains, dim, index, rows, columns, num_warps=4, enable_fp_fusion=False
        )
    return out
