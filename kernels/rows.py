"""Programs that own whole events, for what is summed or decided per chain: ROWS chains, COLUMNS elements at a time.

The interpreter of Triton 3.2 takes a false mask of one element for none, so what is stored per row is masked by `exists` alone.
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .philox import WIDE_FROM


@triton.jit
def rows_of(rows, INDEX: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows and whether they exist # (ROWS,)."""
    row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
    return row, row < rows


def tile_for(dim: int) -> tuple[int, int, int]:
    """ROWS, COLUMNS and warps, decided by `dim` alone, as an order of summation must be; a long event gets a large program."""
    if dim > 4096:
        return 1, 4096, 16
    columns = min(triton.next_power_of_2(max(dim, 1)), 1024)
    return min(1024 // columns, 128), columns, 4


def row_geometry(x: torch.Tensor, rows: int, dim: int) -> tuple[tuple[int], tuple[int, int, tl.dtype, int, int], int]:
    """Grid, (rows, dim, INDEX, ROWS, COLUMNS) and warps for rows of x of `dim` elements each."""
    per_program, columns, warps = tile_for(dim)
    index = tl.int64 if x.numel() >= WIDE_FROM else tl.int32
    return ((rows + per_program - 1) // per_program,), (rows, dim, index, per_program, columns), warps
