"""Replica-exchange swaps of neighbouring temperatures (op `swap_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .normal import log_unit, word_to_uniform
from .philox import on_device_of, tile_words
from .rows import row_geometry, rows_of

INF = tl.constexpr(float("inf"))


@triton.jit
def exchange(at, other, mask):
    a = tl.load(at, mask=mask)
    b = tl.load(other, mask=mask)
    tl.store(at, b, mask=mask)
    tl.store(other, a, mask=mask)


@triton.jit(do_not_specialize=["replicas", "parity", "per_chain", "purpose", "seed", "step", "chain_offset", "pairs"])
def swap_kernel(
    x, energy, betas, grad, labels, counters, rng, replicas, parity, per_chain, purpose, seed: tl.int64, step: tl.int64,
    chain_offset: tl.int64, pairs, dim, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pair, exists = rows_of(pairs, INDEX, ROWS)
    chain = pair // per_chain
    j = parity + 2 * (pair - chain * per_chain)
    row = chain * replicas + j
    first = tl.load(energy + row, mask=exists, other=0.0)
    second = tl.load(energy + row + 1, mask=exists, other=0.0)
    e0 = first.to(tl.float64)
    e1 = second.to(tl.float64)
    a = (tl.load(betas + j, mask=exists, other=0.0) - tl.load(betas + j + 1, mask=exists, other=0.0)) * (e0 - e1)
    finite = (tl.abs(e0) < INF) & (tl.abs(e1) < INF)
    w0, w1, w2, w3 = tile_words((j // 4).to(tl.uint32), chain, rng, seed, step, purpose, chain_offset)
    word = tl.where(j % 4 < 2, tl.where(j % 4 == 0, w0, w1), tl.where(j % 4 == 2, w2, w3))
    swapped = exists & finite & (log_unit(word_to_uniform(word)).to(tl.float64) <= a)
    if labels is not None:
        first_label = tl.load(labels + row, mask=exists, other=0)
        second_label = tl.load(labels + row + 1, mask=exists, other=0)
    if counters is not None:
        sums = counters + (chain * (replicas - 1) + j) * 2
        probabilities = tl.load(sums, mask=exists, other=0.0)
        swaps = tl.load(sums + 1, mask=exists, other=0.0)
    # A pair's numbers are loaded by every thread of its row and stored by one: none may be overwritten before all have read.
    tl.debug_barrier()
    tl.store(energy + row, tl.where(swapped, second, first), mask=exists)
    tl.store(energy + row + 1, tl.where(swapped, first, second), mask=exists)
    if labels is not None:
        tl.store(labels + row, tl.where(swapped, second_label, first_label), mask=exists)
        tl.store(labels + row + 1, tl.where(swapped, first_label, second_label), mask=exists)
    if counters is not None:
        probability = tl.where(finite, tl.exp(tl.where(a < 0.0, a, 0.0)), 0.0)
        tl.store(sums, probabilities + probability, mask=exists)
        tl.store(sums + 1, swaps + swapped.to(tl.float64), mask=exists)

    at = 0 * dim  # as wide as it
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        mask = swapped[:, None] & (column < dim)[None, :]
        element = row[:, None] * dim + column[None, :]
        exchange(x + element, x + element + dim, mask)
        if grad is not None:
            exchange(grad + element, grad + element + dim, mask)
        at += COLUMNS


def swap_(
    x: torch.Tensor, energy: torch.Tensor, betas: torch.Tensor, grad: torch.Tensor | None, labels: torch.Tensor | None,
    counters: torch.Tensor | None, rng: torch.Tensor | None, parity: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """Neighbours j, j + 1 (j = parity, parity + 2, ...) change places where log u_j <= (b_j - b_{j+1}) (E_j - E_{j+1})."""
    chains, replicas = energy.shape
    per_chain = (replicas - parity) // 2
    if not per_chain:
        return
    grid, shape, warps = row_geometry(x, chains * per_chain, x.numel() // (chains * replicas))
    with on_device_of(x):
        swap_kernel[grid](
            x, energy, betas, grad, labels, counters, rng, replicas, parity, per_chain, purpose, seed, step, chain_offset,
            *shape, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
