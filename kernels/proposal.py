"""Start of a trajectory: momentum, its product with a factor, kinetic energy, first kick and drift (op `propose_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient_of, stride
from .normal import normals
from .philox import (
    HALF_TILE,
    TILE,
    WIDE_FROM,
    geometry,
    on_device_of,
    place_of,
    side_by_side,
    tile_of_blocks,
    tile_words,
)


@triton.jit
def start(
    chain, block, exists, element, mask, x, proposal, momentum, grad, scale, kick_at, drift_at, persistence_at, fresh_at, rng,
    kick, drift, persistence, fresh, purpose, seed, step, chain_offset, INDEX: tl.constexpr, TILE: tl.constexpr,
    KICK_STRIDE: tl.constexpr, DRIFT_STRIDE: tl.constexpr, PERSISTENCE_STRIDE: tl.constexpr, PERSISTENT: tl.constexpr,
):  # fmt: skip
    """Does a tile's work; returns the refreshed momentum, before the kick # (TILE, 4)."""
    FLOAT: tl.constexpr = x.dtype.element_ty
    a, b, c, d = tile_words(block, chain, rng, seed, step, purpose, chain_offset)
    z0, z1, z2, z3 = normals(a, b, c, d)
    refreshed = side_by_side(z0, z1, z2, z3, TILE).to(FLOAT)
    if PERSISTENT:
        c = coefficient_of(chain, exists, persistence, persistence_at, PERSISTENCE_STRIDE, FLOAT)
        n = coefficient_of(chain, exists, fresh, fresh_at, PERSISTENCE_STRIDE, FLOAT)
        refreshed = tl.fma(n, refreshed, c * tl.load(momentum + element, mask=mask))
    if scale is not None:
        sigma = tl.load(scale + place_of(block, INDEX), mask=mask)
    p = refreshed
    if grad is not None:
        k = coefficient_of(chain, exists, kick, kick_at, KICK_STRIDE, FLOAT)
        if scale is not None:
            k = k * sigma
        p = tl.fma(-k, tl.load(grad + element, mask=mask), p)
    if momentum is not None:
        tl.store(momentum + element, p, mask=mask)
    if proposal is not None:
        h = coefficient_of(chain, exists, drift, drift_at, DRIFT_STRIDE, FLOAT)
        if scale is not None:
            h = h * sigma
        tl.store(proposal + element, tl.fma(h, p, tl.load(x + element, mask=mask)), mask=mask)
    return refreshed


@triton.jit(do_not_specialize=[
    "kick", "drift", "persistence", "fresh", "purpose", "seed", "step", "chain_offset", "chains", "blocks", "dim", "per_chain",
])  # fmt: skip
def proposal_kernel(
    x, proposal, momentum, grad, scale, kinetic, kick_at, drift_at, persistence_at, fresh_at, rng, kick, drift, persistence,
    fresh, purpose, seed: tl.int64, step: tl.int64, chain_offset: tl.int64, chains, blocks, dim, per_chain, INDEX: tl.constexpr,
    WHOLE: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, KICK_STRIDE: tl.constexpr, DRIFT_STRIDE: tl.constexpr,
    PERSISTENCE_STRIDE: tl.constexpr, PERSISTENT: tl.constexpr,
):  # fmt: skip
    if kinetic is None:
        chain, block, exists, element, mask = tile_of_blocks(blocks, dim, per_chain, INDEX, WHOLE, TILE)
        start(chain, block, exists, element, mask, x, proposal, momentum, grad, scale, kick_at, drift_at, persistence_at,
              fresh_at, rng, kick, drift, persistence, fresh, purpose, seed, step, chain_offset, INDEX, TILE, KICK_STRIDE,
              DRIFT_STRIDE, PERSISTENCE_STRIDE, PERSISTENT)  # fmt: skip
    else:
        COLUMNS: tl.constexpr = TILE // ROWS
        first = tl.program_id(0).to(INDEX) * ROWS
        lane = tl.arange(0, TILE)
        chain = first + lane // COLUMNS
        total = tl.zeros((TILE,), dtype=tl.float64)
        at = 0 * per_chain  # as wide as it
        while at < per_chain:
            block = at + lane % COLUMNS
            exists = (chain < chains) & (block < per_chain)
            place = place_of(block, INDEX)
            if WHOLE:
                element = (chain * per_chain + block)[:, None] * 4 + tl.arange(0, 4)[None, :]
                mask = tl.broadcast_to(exists[:, None], (TILE, 4))
            else:
                element = chain[:, None] * dim + place
                mask = exists[:, None] & (place < dim)
            p = start(chain, block.to(tl.uint32), exists, element, mask, x, proposal, momentum, grad, scale, kick_at, drift_at,
                      persistence_at, fresh_at, rng, kick, drift, persistence, fresh, purpose, seed, step, chain_offset, INDEX,
                      TILE, KICK_STRIDE, DRIFT_STRIDE, PERSISTENCE_STRIDE, PERSISTENT)  # fmt: skip
            p = tl.where(mask, p, 0.0).to(tl.float64)
            total += tl.sum(p * p, axis=1)
            at += COLUMNS
        row = first + tl.arange(0, ROWS)
        tl.store(kinetic + row, 0.5 * tl.sum(tl.reshape(total, (ROWS, COLUMNS)), axis=1), mask=row < chains)


DENSE_ROWS, DENSE_COLUMNS = 16, 32  # chains of a program, elements of the factor at a time


@triton.jit
def normals_of_rows(first, at, rng, dim, purpose, seed, step, chain_offset, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """z of elements at ... at + COLUMNS - 1 of ROWS chains, 0 beyond the event # (ROWS, COLUMNS)."""
    BLOCKS: tl.constexpr = COLUMNS // 4
    lane = tl.arange(0, ROWS * BLOCKS)
    block = (at // 4 + lane % BLOCKS).to(tl.uint32)
    a, b, c, d = tile_words(block, first + lane // BLOCKS, rng, seed, step, purpose, chain_offset)
    z0, z1, z2, z3 = normals(a, b, c, d)
    z = tl.reshape(side_by_side(z0, z1, z2, z3, ROWS * BLOCKS), (ROWS, COLUMNS))
    return tl.where((at + tl.arange(0, COLUMNS) < dim)[None, :], z, 0.0)


@triton.jit
def part_of_factor(factor, at, column, dim, COLUMNS: tl.constexpr):
    """Rows at ... at + COLUMNS - 1 of the factor's upper triangle # (COLUMNS, COLUMNS)."""
    row = at + tl.arange(0, COLUMNS)
    above = (row[:, None] <= column[None, :]) & (column < dim)[None, :]
    return tl.load(factor + row[:, None] * dim + column[None, :], mask=above, other=0.0)


@triton.jit(do_not_specialize=["kick", "drift", "purpose", "seed", "step", "chain_offset", "chains", "dim"])
def dense_kernel(
    x, proposal, momentum, grad, factor, kinetic, kick_at, drift_at, rng, kick, drift, purpose, seed: tl.int64, step: tl.int64,
    chain_offset: tl.int64, chains, dim, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    KICK_STRIDE: tl.constexpr, DRIFT_STRIDE: tl.constexpr,
):  # fmt: skip
    """K = |z|^2 / 2; v = z R'; v -= kick g; proposal = x + drift v, of float32. The normals are drawn anew for every COLUMNS
    columns: they cannot be kept, for a program takes no slice of its registers."""
    first = tl.program_id(0).to(INDEX) * ROWS
    row = first + tl.arange(0, ROWS)
    exists = row < chains
    k = coefficient_of(row, exists, kick, kick_at, KICK_STRIDE, tl.float32)
    h = coefficient_of(row, exists, drift, drift_at, DRIFT_STRIDE, tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float64)
    at = 0 * dim  # as wide as it
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        v = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        before = 0 * dim
        while before < at:
            z = normals_of_rows(first, before, rng, dim, purpose, seed, step, chain_offset, ROWS, COLUMNS)
            v = tl.dot(z, part_of_factor(factor, before, column, dim, COLUMNS), v, input_precision="ieee")
            before += COLUMNS
        z = normals_of_rows(first, at, rng, dim, purpose, seed, step, chain_offset, ROWS, COLUMNS)
        v = tl.dot(z, part_of_factor(factor, at, column, dim, COLUMNS), v, input_precision="ieee")
        wide = z.to(tl.float64)
        total += tl.sum(wide * wide, axis=1)
        mask = exists[:, None] & (column < dim)[None, :]
        place = row[:, None] * dim + column[None, :]
        if grad is not None:
            v = tl.fma(-k, tl.load(grad + place, mask=mask, other=0.0), v)
        if momentum is not None:
            tl.store(momentum + place, v, mask=mask)
        if proposal is not None:
            tl.store(proposal + place, tl.fma(h, v, tl.load(x + place, mask=mask, other=0.0)), mask=mask)
        at += COLUMNS
    if kinetic is not None:
        tl.store(kinetic + row, 0.5 * total, mask=exists)


def rows_in_tile(per_chain: int) -> tuple[int, int, int]:
    """TILE, ROWS and warps for events of `per_chain` blocks, decided by the event alone, as an order of summation must be."""
    if per_chain > TILE:
        return TILE, 1, 16
    return HALF_TILE, max(HALF_TILE // triton.next_power_of_2(per_chain), 1), 4


def propose_(
    x: torch.Tensor, proposal: torch.Tensor | None, momentum: torch.Tensor | None, grad: torch.Tensor | None,
    scale: torch.Tensor | None, factor: torch.Tensor | None, kinetic: torch.Tensor | None, kick_at: torch.Tensor | None,
    drift_at: torch.Tensor | None, persistence_at: torch.Tensor | None, fresh_at: torch.Tensor | None, rng: torch.Tensor | None,
    kick: float, drift: float, persistence: float, fresh: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """p = c p + n z; K = |p|^2 / 2; [p = p R';] p -= kick scale g; proposal = x + drift scale p."""
    if factor is not None:
        chains, dim = x.shape[0], factor.shape[0]
        with on_device_of(x):
            dense_kernel[((chains + DENSE_ROWS - 1) // DENSE_ROWS,)](
                x, proposal, momentum, grad, factor, kinetic, kick_at, drift_at, rng, kick, drift, purpose, seed, step,
                chain_offset, chains, dim, tl.int64 if x.numel() >= WIDE_FROM else tl.int32, DENSE_ROWS,
                16 if dim <= 16 else DENSE_COLUMNS, stride(kick_at), stride(drift_at), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
        return
    persistent = persistence_at is not None or persistence != 0.0
    grid, (*sizes, index, whole, tile) = geometry(x, TILE if grad is None and not persistent else HALF_TILE)
    rows, warps = 1, 4
    if kinetic is not None:
        tile, rows, warps = rows_in_tile(sizes[2])
        grid = ((x.shape[0] + rows - 1) // rows,)
    numbers = as_passed(x.dtype, kick, drift, persistence, fresh)
    with on_device_of(x):
        proposal_kernel[grid](
            x, proposal, momentum, grad, scale, kinetic, kick_at, drift_at, persistence_at, fresh_at, rng, *numbers, purpose,
            seed, step, chain_offset, x.shape[0], *sizes, index, whole, tile, rows, stride(kick_at), stride(drift_at),
            stride(persistence_at), persistent,
            num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
