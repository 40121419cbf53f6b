"""Noisy copies of data and their noise (op `perturb_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient_of, stride
from .normal import normals
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


@triton.jit(do_not_specialize=["sigma", "copies", "purpose", "seed", "step", "chain_offset", "blocks", "dim", "per_chain"])
def perturb_kernel(
    out, noise, x, scale, sigma_at, rng, sigma, copies, purpose, seed: tl.int64, step: tl.int64, chain_offset: tl.int64, blocks,
    dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr, TILE: tl.constexpr, STRIDE: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    datum = element
    if COPIED:
        datum = start_of(chain // copies, dim, WHOLE)[:, None] + place_of(block, INDEX)
    y = tl.load(x + datum, mask=mask).to(FLOAT)
    a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
    z0, z1, z2, z3 = normals(a, b, c, d)
    z = side_by_side(z0, z1, z2, z3, TILE).to(FLOAT)
    s = coefficient_of(chain, exists, sigma, sigma_at, STRIDE, FLOAT)
    if scale is not None:
        s = s * tl.load(scale + place_of(block, INDEX), mask=mask)
    tl.store(out + element, stored_as(tl.fma(s, z, y), out.dtype.element_ty), mask=mask)
    if noise is not None:
        tl.store(noise + element, stored_as(z, noise.dtype.element_ty), mask=mask)


def perturb_(
    out: torch.Tensor, noise: torch.Tensor | None, x: torch.Tensor, scale: torch.Tensor | None, sigma_at: torch.Tensor | None,
    rng: torch.Tensor | None, sigma: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """y_i = x_{i // k} + sigma_i scale z_i, k = len(out) / len(x); noise = z."""
    grid, shape = geometry(out, HALF_TILE)
    copies = out.shape[0] // x.shape[0]
    with on_device_of(out):
        perturb_kernel[grid](
            out, noise, x, scale, sigma_at, rng, *as_passed(out.dtype, sigma), copies, purpose, seed, step, chain_offset, *shape,
            stride(sigma_at), copies > 1, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
