"""Underdamped Langevin dynamics: B, A, O and A (op `baoab_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient_of, stride
from .normal import normals
from .philox import HALF_TILE, geometry, on_device_of, place_of, side_by_side, tile_of_blocks, tile_words


@triton.jit(do_not_specialize=[
    "kick", "drift", "persistence", "noise_std", "purpose", "seed", "step", "chain_offset", "blocks", "dim", "per_chain",
])  # fmt: skip
def baoab_kernel(
    x, momentum, grad, scale, active, kick_at, drift_at, persistence_at, noise_std_at, rng, kick, drift, persistence, noise_std,
    purpose, seed: tl.int64, step: tl.int64, chain_offset: tl.int64, blocks, dim, per_chain, INDEX: tl.constexpr,
    WHOLE: tl.constexpr, TILE: tl.constexpr, KICK_STRIDE: tl.constexpr, DRIFT_STRIDE: tl.constexpr,
    PERSISTENCE_STRIDE: tl.constexpr, NOISE_STRIDE: tl.constexpr, NOISE: tl.constexpr, KICKS: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = x.dtype.element_ty
    chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    if active is not None:
        exists = exists & (tl.load(active + chain, mask=exists, other=0) != 0)
        mask = mask & exists[:, None]
    k = coefficient_of(chain, exists, kick, kick_at, KICK_STRIDE, FLOAT)
    h = coefficient_of(chain, exists, drift, drift_at, DRIFT_STRIDE, FLOAT)
    if scale is not None:
        sigma = tl.load(scale + place_of(block, INDEX), mask=mask)
        k = k * sigma
        h = h * sigma
    p = tl.load(momentum + element, mask=mask)
    g = tl.load(grad + element, mask=mask)
    for _ in tl.static_range(KICKS):
        p = tl.fma(-k, g, p)
    y = tl.fma(h, p, tl.load(x + element, mask=mask))
    p = coefficient_of(chain, exists, persistence, persistence_at, PERSISTENCE_STRIDE, FLOAT) * p
    if NOISE:
        a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
        z0, z1, z2, z3 = normals(a, b, c, d)
        n = coefficient_of(chain, exists, noise_std, noise_std_at, NOISE_STRIDE, FLOAT)
        p = tl.fma(n, side_by_side(z0, z1, z2, z3, TILE).to(FLOAT), p)
    tl.store(momentum + element, p, mask=mask)
    tl.store(x + element, tl.fma(h, p, y), mask=mask)


def baoab_(
    x: torch.Tensor, momentum: torch.Tensor, grad: torch.Tensor, scale: torch.Tensor | None, active: torch.Tensor | None,
    kick_at: torch.Tensor | None, drift_at: torch.Tensor | None, persistence_at: torch.Tensor | None,
    noise_std_at: torch.Tensor | None, rng: torch.Tensor | None, kick: float, drift: float, persistence: float,
    noise_std: float, kicks: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """p -= kick scale g (kicks times); x += drift scale p; p = c p + n z; x += drift scale p."""
    grid, shape = geometry(x, HALF_TILE)
    tensors = (kick_at, drift_at, persistence_at, noise_std_at)
    with on_device_of(x):
        baoab_kernel[grid](
            x, momentum, grad, scale, None if active is None else active.view(torch.uint8), *tensors, rng,
            *as_passed(x.dtype, kick, drift, persistence, noise_std), purpose, seed, step, chain_offset, *shape,
            *map(stride, tensors), noise_std_at is not None or noise_std != 0.0, kicks, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
