"""End of a trajectory: last kick, kinetic energy, Metropolis decision, selection, counters (op `metropolis_`)."""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl

from .coefficients import as_passed, coefficient, coefficient_of, stride
from .normal import log_unit, word_to_uniform
from .philox import on_device_of, tile_words
from .rows import row_geometry, rows_of

INF = tl.constexpr(float("inf"))


@triton.jit
def last_kick(momentum, proposal_grad, scale, k, element, column, mask, in_event, KICK: tl.constexpr):
    p = tl.load(momentum + element, mask=mask, other=0.0)
    if KICK:
        if scale is not None:
            k = k * tl.load(scale + column, mask=in_event)[None, :]
        p = tl.fma(-k, tl.load(proposal_grad + element, mask=mask, other=0.0), p)
    return p


@triton.jit(do_not_specialize=["kick", "beta", "max_error", "purpose", "seed", "step", "chain_offset", "chains"])
def metropolis_kernel(
    x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before, kinetic, scale, log_ratio, counters,
    kick_at, beta_at, rng, kick, beta: tl.int64, max_error: tl.int64, purpose, seed: tl.int64, step: tl.int64,
    chain_offset: tl.int64, chains, dim, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KICK: tl.constexpr,
    KICK_STRIDE: tl.constexpr, BETA_STRIDE: tl.constexpr,
):  # fmt: skip
    FLOAT: tl.constexpr = x.dtype.element_ty
    row, exists = rows_of(chains, INDEX, ROWS)
    k = coefficient_of(row, exists, kick, kick_at, KICK_STRIDE, FLOAT)

    before = tl.zeros((ROWS,), dtype=tl.float64)
    after = before
    if kinetic is not None:
        before = tl.load(kinetic + row, mask=exists, other=0.0)
    if momentum is not None:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
        at = 0 * dim  # as wide as it
        while at < dim:
            column = at + tl.arange(0, COLUMNS)
            in_event = column < dim
            mask = exists[:, None] & in_event[None, :]
            p = last_kick(momentum, proposal_grad, scale, k, row[:, None] * dim + column[None, :], column, mask, in_event, KICK)
            p = tl.where(mask, p, 0.0).to(tl.float64)
            total = tl.fma(p, p, total)
            at += COLUMNS
        after = 0.5 * tl.sum(total, axis=1)

    stored = tl.load(energy + row, mask=exists, other=0.0)
    offered = tl.load(proposal_energy + row, mask=exists, other=0.0)
    old = stored.to(tl.float64)
    new = offered.to(tl.float64)
    if beta_at is not None:
        b = tl.load(beta_at + row * BETA_STRIDE, mask=exists, other=0.0).to(tl.float64)
    else:
        b = coefficient(beta, tl.float64)
    a = b * (old - new) + (before - after)
    if log_ratio is not None:
        a = a + tl.load(log_ratio + row, mask=exists, other=0.0)
    finite = (tl.abs(new) < INF) & (after < INF) & (a == a)
    word, _, _, _ = tile_words(tl.zeros((ROWS,), dtype=tl.uint32), row, rng, seed, step, purpose, chain_offset)
    accepted = exists & finite & (log_unit(word_to_uniform(word)).to(tl.float64) <= a)
    if counters is not None:
        sums = counters + row * 5
        probabilities = tl.load(sums, mask=exists, other=0.0)
        acceptances = tl.load(sums + 1, mask=exists, other=0.0)
        divergences = tl.load(sums + 2, mask=exists, other=0.0)
    # A chain's numbers are loaded by every thread of its row and stored by one: none may be overwritten before all have read.
    tl.debug_barrier()
    tl.store(energy + row, tl.where(accepted, offered, stored), mask=exists)
    if counters is not None:
        probability = tl.where(finite, tl.exp(tl.where(a < 0.0, a, 0.0)), 0.0)
        tl.store(sums, probabilities + probability, mask=exists)
        tl.store(sums + 1, acceptances + accepted.to(tl.float64), mask=exists)
        divergent = (finite == 0) | (a < -coefficient(max_error, tl.float64))
        tl.store(sums + 2, divergences + divergent.to(tl.float64), mask=exists)
        tl.store(sums + 3, probability, mask=exists)
        tl.store(sums + 4, tl.where(accepted, b * new + after, b * old + before), mask=exists)

    at = 0 * dim  # as wide as it
    while at < dim:
        column = at + tl.arange(0, COLUMNS)
        in_event = column < dim
        element = row[:, None] * dim + column[None, :]
        mask = exists[:, None] & in_event[None, :]
        chosen = accepted[:, None] & in_event[None, :]
        if momentum_before is not None:
            kept = -tl.load(momentum_before + element, mask=mask & (chosen == 0), other=0.0)
            p = last_kick(momentum, proposal_grad, scale, k, element, column, chosen, in_event, KICK)
            tl.store(momentum + element, tl.where(chosen, p, kept), mask=mask)
        if grad is not None:
            tl.store(grad + element, tl.load(proposal_grad + element, mask=chosen), mask=chosen)
        tl.store(x + element, tl.load(proposal + element, mask=chosen), mask=chosen)
        at += COLUMNS


def metropolis_(
    x: torch.Tensor, proposal: torch.Tensor, energy: torch.Tensor, proposal_energy: torch.Tensor, grad: torch.Tensor | None,
    proposal_grad: torch.Tensor | None, momentum: torch.Tensor | None, momentum_before: torch.Tensor | None,
    kinetic: torch.Tensor | None, scale: torch.Tensor | None, log_ratio: torch.Tensor | None, counters: torch.Tensor | None,
    kick_at: torch.Tensor | None, beta_at: torch.Tensor | None, rng: torch.Tensor | None, kick: float, beta: float,
    max_error: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """a = beta (E - E') + K - K' + r; where log u <= a: x, E, g = x', E', g'."""
    chains = x.shape[0]
    grid, shape, warps = row_geometry(x, chains, x.numel() // chains)
    with on_device_of(x):
        metropolis_kernel[grid](
            x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before, kinetic, scale, log_ratio,
            counters, kick_at, beta_at, rng, *as_passed(x.dtype, kick), *as_passed(torch.float64, beta, max_error), purpose,
            seed, step, chain_offset, *shape, kick_at is not None or kick != 0.0, stride(kick_at), stride(beta_at),
            num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
