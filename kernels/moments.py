"""Streaming mean and sum of squared deviations (op `moments_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .philox import HALF_TILE, geometry, on_device_of, tile_of_blocks


@triton.jit
def quotient(a, b, dtype: tl.constexpr):
    """a / b rounded to nearest, which Triton's `/` is not in float32."""
    if dtype == tl.float32:
        q = tl.div_rn(a, b)
    else:
        q = a / b
    return q


@triton.jit(do_not_specialize=["count", "blocks", "dim", "per_chain"])
def moments_kernel(
    x, mean, squares, count_at, count: tl.int64, blocks, dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = x.dtype.element_ty
    _, _, _, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    if count_at is not None:
        n = tl.load(count_at)
    else:
        n = count
    y = tl.load(x + element, mask=mask)
    m = tl.load(mean + element, mask=mask)
    difference = y - m
    m += quotient(difference, n.to(FLOAT), FLOAT)
    tl.store(mean + element, m, mask=mask)
    s = tl.load(squares + element, mask=mask)
    tl.store(squares + element, tl.fma(difference, y - m, s), mask=mask)


def moments_(
    x: torch.Tensor, mean: torch.Tensor, squares: torch.Tensor, count_at: torch.Tensor | None, count: int
) -> None:
    """d = x - mean; mean += d / count; squares += d (x - mean)."""
    grid, shape = geometry(x.view(1, -1), HALF_TILE)
    with on_device_of(x):
        moments_kernel[grid](x, mean, squares, count_at, count, *shape, num_warps=4, enable_fp_fusion=False)
