"""Noise by counter: raw words, uniforms, normals and signs (op `noise_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .normal import normals, word_to_uniform
from .philox import geometry, on_device_of, side_by_side, stored_as, tile_of_blocks, tile_words


@triton.jit
def sign(w):
    return ((w & 0x80000000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["purpose", "seed", "step", "chain_offset", "blocks", "dim", "per_chain"])
def noise_kernel(
    out, rng, purpose, seed: tl.int64, step: tl.int64, chain_offset: tl.int64, blocks, dim, per_chain, INDEX: tl.constexpr,
    WHOLE: tl.constexpr, TILE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    chain, block, _, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
    if KIND == 1:
        a, b, c, d = word_to_uniform(a), word_to_uniform(b), word_to_uniform(c), word_to_uniform(d)
    elif KIND == 2:
        a, b, c, d = normals(a, b, c, d)
    elif KIND == 3:
        a, b, c, d = sign(a), sign(b), sign(c), sign(d)
    tl.store(out + element, stored_as(side_by_side(a, b, c, d, TILE), out.dtype.element_ty), mask=mask)


def noise_(
    out: torch.Tensor, rng: torch.Tensor | None, kind: int, purpose: int, seed: int, step: int, chain_offset: int
) -> None:
    """Fill out # (n, *event); kind 0 raw words (int32), 1 uniform, 2 normal, 3 signs."""
    grid, shape = geometry(out)
    with on_device_of(out):
        noise_kernel[grid](out, rng, purpose, seed, step, chain_offset, *shape, kind, num_warps=4, enable_fp_fusion=False)
