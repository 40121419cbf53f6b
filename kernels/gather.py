"""Rows of a buffer, some of them restarted (op `gather_`): the arithmetic of csrc/core/gather.h."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient
from .normal import normals, word_to_uniform
from .philox import (
    HALF_TILE,
    geometry,
    on_device_of,
    place_of,
    side_by_side,
    start_of,
    stored_as,
    tile_of_blocks,
    tile_words,
)


@triton.jit(do_not_specialize=[
    "rate", "shift", "spread", "size", "count", "coin", "purpose", "seed", "step", "chain_offset", "blocks", "dim", "per_chain",
])  # fmt: skip
def gather_kernel(
    out, source, slots, rows, fresh, rng, rate, shift, spread, size: tl.int64, count: tl.int64, coin, purpose, seed: tl.int64,
    step: tl.int64, chain_offset: tl.int64, blocks, dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr,
    TILE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = out.dtype.element_ty
    FLOAT: tl.constexpr = tl.float64 if tl.float64 == DTYPE else tl.float32
    chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    zero = block & 0
    word, _, _, _ = tile_words(zero, chain, rng, seed, step, coin, chain_offset)
    restarted = exists & (word_to_uniform(word) <= rate)
    if fresh is not None:
        tl.store(fresh + chain, restarted.to(tl.uint8), mask=exists & (block == 0))
    slot = tl.load(slots + chain, mask=exists, other=0)
    known = (slot >= 0) & (slot < size)
    place = place_of(block, INDEX)
    old = mask & (known & (restarted == 0))[:, None]
    y = tl.load(source + start_of(slot, dim, WHOLE)[:, None] + place, mask=old, other=float("nan"))
    # Most programs have no row to restart and skip the arithmetic.
    if tl.max(restarted.to(tl.int32), axis=0) > 0:
        if KIND == 0:
            which, _, _, _ = tile_words(zero, chain, rng, seed, step, purpose, chain_offset)
            row = ((which.to(tl.uint64) * count.to(tl.uint64)) >> 32).to(tl.int64)
            new = tl.load(rows + start_of(row, dim, WHOLE)[:, None] + place, mask=mask & restarted[:, None], other=0.0)
        else:
            a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
            if KIND == 1:
                a, b, c, d = word_to_uniform(a), word_to_uniform(b), word_to_uniform(c), word_to_uniform(d)
            else:
                a, b, c, d = normals(a, b, c, d)
            z = side_by_side(a, b, c, d, TILE).to(FLOAT) * coefficient(spread, FLOAT) + coefficient(shift, FLOAT)
            new = stored_as(z, DTYPE)
        y = tl.where(restarted[:, None], new, y)
    tl.store(out + element, y, mask=mask)


def gather_(
    out: torch.Tensor, source: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor | None, fresh: torch.Tensor | None,
    rng: torch.Tensor | None, kind: int, rate: float, shift: float, spread: float, coin: int, purpose: int, seed: int, step: int,
    chain_offset: int,
) -> None:  # fmt: skip
    """x_i = source[slots_i], or where u_i <= rate: shift + spread u, shift + spread z, or a row of `rows`; NaN outside source."""
    grid, shape = geometry(out, HALF_TILE)
    with on_device_of(out):
        gather_kernel[grid](
            out, source, slots, rows, None if fresh is None else fresh.view(torch.uint8), rng, rate,
            *as_passed(out.dtype, shift, spread), source.shape[0], 0 if rows is None else rows.shape[0], coin, purpose, seed,
            step, chain_offset, *shape, kind, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
