"""The divergence guard: sizes of state, gradient and momentum, decision, mask and sum of norms (op `guard_`)."""
# mypy: allow-untyped-defs

import math

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient, stride
from .philox import on_device_of
from .rows import row_geometry, rows_of

INF = tl.constexpr(float("inf"))
LARGEST_NORMAL = tl.constexpr(6.77)  # sqrt(66 ln 2), see csrc/core/normal.h


@triton.jit
def add(squares, largest, at, element, mask, NARROW: tl.constexpr):
    a = tl.load(at + element, mask=mask, other=0.0).to(tl.float64)
    if NARROW:
        largest = tl.maximum(largest, tl.abs(a))
    return tl.fma(a, a, squares), largest


@triton.jit
def size_of(squares, largest, NARROW: tl.constexpr):
    """Norm, and bound on every element: see reference/guard.py # (ROWS,)"""
    norm = tl.sqrt(tl.sum(squares, axis=1))
    bound = norm
    if NARROW:
        bound = tl.where(norm < INF, tl.max(largest, axis=1), norm)
    return norm, bound


@triton.jit
def number_of(row, exists, number, at, STRIDE: tl.constexpr):
    if at is not None:
        c = tl.load(at + row * STRIDE, mask=exists, other=0.0).to(tl.float64)
    else:
        c = coefficient(number, tl.float64)
    return c


@triton.jit(
    do_not_specialize=[
        "step_size", "noise_std", "stretch", "heavy_ball", "prior_precision", "clip", "limit", "step", "chains",
    ]
)  # fmt: skip
def guard_kernel(
    x, grad, momentum, energy, divergence_step, active, norm_sum, step_size_at, noise_std_at, stretch_at, rng,
    step_size: tl.int64, noise_std: tl.int64, stretch: tl.int64, heavy_ball: tl.int64, prior_precision: tl.int64,
    clip: tl.int64, limit: tl.int64, step: tl.int64, chains, dim, INDEX: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, STEP_STRIDE: tl.constexpr, NOISE_STRIDE: tl.constexpr, STRETCH_STRIDE: tl.constexpr,
    CLIP: tl.constexpr, CLIP_NORM: tl.constexpr, KINETIC: tl.constexpr,
):  # fmt: skip
    NARROW: tl.constexpr = x.dtype.element_ty == tl.float16
    row, exists = rows_of(chains, INDEX, ROWS)
    alive = exists
    if divergence_step is not None:
        before = tl.load(divergence_step + row, mask=exists, other=-1)
        alive = exists & (before < 0)
    if norm_sum is not None:
        norms = tl.load(norm_sum + row, mask=exists, other=0.0)

    zero = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    g2, g1, x2, x1, p2, p1 = zero, zero, zero, zero, zero, zero
    at = 0 * dim  # as wide as it
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        mask = exists[:, None] & (column < dim)[None, :]
        element = row[:, None] * dim + column[None, :]
        g2, g1 = add(g2, g1, grad, element, mask, NARROW)
        if divergence_step is not None:
            x2, x1 = add(x2, x1, x, element, mask, NARROW)
            if momentum is not None:
                p2, p1 = add(p2, p1, momentum, element, mask, NARROW)
        at += COLUMNS
    norm, slope = size_of(g2, g1, NARROW)

    if divergence_step is not None:
        _, far = size_of(x2, x1, NARROW)
        _, speed = size_of(p2, p1, NARROW)
        if CLIP or CLIP_NORM:
            most = coefficient(clip, tl.float64)
            above = slope > most
            if CLIP_NORM:
                above = above & (slope < INF)
            slope = tl.where(above, most, slope)
        s = number_of(row, exists, step_size, step_size_at, STEP_STRIDE)
        n = LARGEST_NORMAL * number_of(row, exists, noise_std, noise_std_at, NOISE_STRIDE)
        sigma = number_of(row, exists, stretch, stretch_at, STRETCH_STRIDE)
        if KINETIC:
            reach = far + s * sigma * (speed + s * sigma * slope + n)
        else:
            area = s * sigma * sigma
            reach = far * (1.0 + area * tl.abs(coefficient(prior_precision, tl.float64))) + area * slope
            reach = reach + tl.abs(coefficient(heavy_ball, tl.float64)) * speed + sigma * n
        e = tl.load(energy + row, mask=exists, other=0.0)
        alive = alive & (tl.abs(e) < INF) & (reach <= coefficient(limit, tl.float64))
        now = step
        if rng is not None:
            now = tl.load(rng + 1) + step
    # A chain's numbers are loaded by every thread of its row and stored by one: none may be overwritten before all have read.
    tl.debug_barrier()
    if divergence_step is not None:
        tl.store(divergence_step + row, tl.where(alive | (before >= 0), before, now), mask=exists)
    if active is not None:
        tl.store(active + row, alive.to(tl.uint8), mask=exists)
    if norm_sum is not None:
        if x.dtype.element_ty != tl.float64:
            norm = norm.to(tl.float32).to(tl.float64)
        tl.store(norm_sum + row, tl.where(alive, norms + norm, norms), mask=exists)


def guard_(
    x: torch.Tensor, grad: torch.Tensor, momentum: torch.Tensor | None, energy: torch.Tensor | None,
    divergence_step: torch.Tensor | None, active: torch.Tensor | None, norm_sum: torch.Tensor | None,
    step_size_at: torch.Tensor | None, noise_std_at: torch.Tensor | None, stretch_at: torch.Tensor | None,
    rng: torch.Tensor | None, step_size: float, noise_std: float, stretch: float, heavy_ball: float, prior_precision: float,
    grad_clip: float, grad_clip_norm: float, kinetic: bool, step: int,
) -> None:  # fmt: skip
    """Freeze chains that cannot take their next step, sum the gradient norms of the others."""
    chains = x.shape[0]
    dim = x.numel() // chains
    grid, shape, warps = row_geometry(x, chains, dim)
    clips, clips_norm = grad_clip < math.inf, grad_clip == math.inf and grad_clip_norm < math.inf
    clip = grad_clip * math.sqrt(dim) if clips else grad_clip_norm
    numbers = (step_size, noise_std, stretch, heavy_ball, prior_precision, clip, torch.finfo(x.dtype).max)
    mask = None if active is None else active.view(torch.uint8)
    with on_device_of(x):
        guard_kernel[grid](
            x, grad, momentum, energy, divergence_step, mask, norm_sum, step_size_at, noise_std_at, stretch_at, rng,
            *as_passed(torch.float64, *numbers), step, *shape, stride(step_size_at), stride(noise_std_at), stride(stretch_at),
            clips, clips_norm, kinetic, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
