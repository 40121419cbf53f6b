"""Kick and drift of the leapfrog integrator (op `leapfrog_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient_of, stride
from .philox import HALF_TILE, geometry, on_device_of, place_of, tile_of_blocks


@triton.jit(do_not_specialize=["kick", "drift", "blocks", "dim", "per_chain"])
def leapfrog_kernel(
    x, momentum, grad, scale, kick_at, drift_at, kick, drift, blocks, dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr,
    TILE: tl.constexpr, KICK_STRIDE: tl.constexpr, DRIFT_STRIDE: tl.constexpr, DRIFT: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = x.dtype.element_ty
    chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    k = coefficient_of(chain, exists, kick, kick_at, KICK_STRIDE, FLOAT)
    d = coefficient_of(chain, exists, drift, drift_at, DRIFT_STRIDE, FLOAT)
    if scale is not None:
        sigma = tl.load(scale + place_of(block, INDEX), mask=mask)
        k = k * sigma
        d = d * sigma
    p = tl.fma(-k, tl.load(grad + element, mask=mask), tl.load(momentum + element, mask=mask))
    tl.store(momentum + element, p, mask=mask)
    if DRIFT:
        tl.store(x + element, tl.fma(d, p, tl.load(x + element, mask=mask)), mask=mask)


def leapfrog_(
    x: torch.Tensor, momentum: torch.Tensor, grad: torch.Tensor, scale: torch.Tensor | None, kick_at: torch.Tensor | None,
    drift_at: torch.Tensor | None, kick: float, drift: float,
) -> None:  # fmt: skip
    """p -= kick scale g; x += drift scale p."""
    # where nothing belongs to a chain or to a place in the event, all events are one: its length is rarely odd
    per_chain = scale is not None or stride(kick_at) or stride(drift_at)
    grid, shape = geometry(x if per_chain else x.view(1, -1), HALF_TILE)
    with on_device_of(x):
        leapfrog_kernel[grid](
            x, momentum, grad, scale, kick_at, drift_at, *as_passed(x.dtype, kick, drift), *shape, stride(kick_at),
            stride(drift_at), drift_at is not None or drift != 0.0, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
