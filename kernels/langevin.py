"""The fused Langevin update (op `langevin_step_`): the arithmetic of csrc/core/langevin.h."""
# mypy: allow-untyped-defs

import math

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient, coefficient_of, stride
from .norm import event_norm
from .normal import normals
from .philox import geometry, on_device_of, place_of, side_by_side, stored_as, tile_of_blocks, tile_words


@triton.jit
def clamp(a, lo, hi):
    """As torch.clamp: a NaN stays a NaN."""
    a = tl.where(a < lo, lo, a)
    return tl.where(a > hi, hi, a)


@triton.jit
def langevin_move(
    y, g, v, s, shrink, grad_clip, prior_precision, momentum, CLIP: tl.constexpr, CLIP_NORM: tl.constexpr, HEAVY: tl.constexpr,
):  # fmt: skip
    """y - s (shrink clip(g) + p y), or y + v with v <- m v - s (shrink clip(g) + p y); y and v."""
    if CLIP:
        g = clamp(g, -grad_clip, grad_clip)
    if CLIP_NORM:
        g = shrink * g
    g = tl.fma(prior_precision, y, g)  # also where it is 0: an infinite state is not repaired
    if HEAVY:
        v = tl.fma(-s, g, momentum * v)
        y = y + v
    else:
        y = tl.fma(-s, g, y)
    return y, v


@triton.jit(do_not_specialize=[
    "step_size", "noise_std", "momentum", "prior_precision", "grad_clip", "step_lo", "step_hi", "noise_lo", "noise_hi",
    "purpose", "seed", "step", "chain_offset", "blocks", "dim", "per_chain",
])  # fmt: skip
def langevin_kernel(
    x, grad, velocity, step_size_at, noise_std_at, grad_scale, active, scale, rng, step_size, noise_std, momentum,
    prior_precision, grad_clip, step_lo, step_hi, noise_lo, noise_hi, purpose, seed: tl.int64, step: tl.int64,
    chain_offset: tl.int64, blocks, dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr, TILE: tl.constexpr,
    STEP_STRIDE: tl.constexpr, NOISE_STRIDE: tl.constexpr, NOISE: tl.constexpr, CLIP: tl.constexpr,
    STEP_CLAMP: tl.constexpr, NOISE_CLAMP: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
    if active is not None:
        exists = exists & (tl.load(active + chain, mask=exists, other=0) != 0)
        mask = mask & exists[:, None]
    y = tl.load(x + element, mask=mask).to(FLOAT)
    if scale is not None:
        sigma = tl.load(scale + place_of(block, INDEX), mask=mask)
    if grad is not None:
        g = tl.load(grad + element, mask=mask).to(FLOAT)
        s = coefficient_of(chain, exists, step_size, step_size_at, STEP_STRIDE, FLOAT)
        if scale is not None:
            s = s * (sigma * sigma)
        shrink = s
        if grad_scale is not None:
            shrink = tl.load(grad_scale + chain, mask=exists)[:, None]
        v = y
        if velocity is not None:
            v = tl.load(velocity + element, mask=mask).to(FLOAT)
        y, v = langevin_move(
            y, g, v, s, shrink, coefficient(grad_clip, FLOAT), coefficient(prior_precision, FLOAT), coefficient(momentum, FLOAT),
            CLIP, grad_scale is not None, velocity is not None,
        )  # fmt: skip
        if velocity is not None:
            tl.store(velocity + element, stored_as(v, velocity.dtype.element_ty), mask=mask)
    if STEP_CLAMP:
        y = clamp(y, coefficient(step_lo, FLOAT), coefficient(step_hi, FLOAT))
    if NOISE:
        a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
        z0, z1, z2, z3 = normals(a, b, c, d)
        n = coefficient_of(chain, exists, noise_std, noise_std_at, NOISE_STRIDE, FLOAT)
        if scale is not None:
            n = n * sigma
        y = tl.fma(n, side_by_side(z0, z1, z2, z3, TILE).to(FLOAT), y)
    if NOISE_CLAMP:
        y = clamp(y, coefficient(noise_lo, FLOAT), coefficient(noise_hi, FLOAT))
    tl.store(x + element, stored_as(y, x.dtype.element_ty), mask=mask)


def langevin_step_(
    x: torch.Tensor, grad: torch.Tensor | None, velocity: torch.Tensor | None, norm_sum: torch.Tensor | None,
    step_size_at: torch.Tensor | None, noise_std_at: torch.Tensor | None, grad_scale: torch.Tensor | None,
    active: torch.Tensor | None, scale: torch.Tensor | None, rng: torch.Tensor | None, step_size: float, noise_std: float,
    momentum: float, prior_precision: float, grad_clip: float, step_lo: float, step_hi: float, noise_lo: float,
    noise_hi: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """y = x - s (grad_scale clip(g) + p x), or with velocity v = m v - s (...), y = x + v; clamp; y += n z; clamp; in place.

    With `scale`: s scale^2 in place of s, n scale in place of n. norm_sum += |grad|, by a kernel of its own: the tiles of this
    one are parts of a chain.
    """
    if norm_sum is not None and grad is not None:
        norm = event_norm(grad)
        norm_sum += norm if active is None else norm.masked_fill(~active.bool(), 0.0)
    grid, shape = geometry(x)
    numbers = (step_size, noise_std, momentum, prior_precision, grad_clip, step_lo, step_hi, noise_lo, noise_hi)
    with on_device_of(x):
        langevin_kernel[grid](
            x, grad, velocity, step_size_at, noise_std_at, grad_scale, None if active is None else active.view(torch.uint8),
            scale, rng, *as_passed(x.dtype, *numbers), purpose, seed, step, chain_offset, *shape, stride(step_size_at),
            stride(noise_std_at), noise_std_at is not None or noise_std != 0.0,
            grad_clip != math.inf, step_lo != -math.inf or step_hi != math.inf, noise_lo != -math.inf or noise_hi != math.inf,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
