"""Whole chains on an energy that a user wrote as a Triton function (op `chain_`): one launch, one chain a thread, in registers.

The steps are those of csrc/core/transition.h; the loop around them is that of csrc/cpu/chain.h.
"""
# mypy: allow-untyped-defs

import math

import torch
import triton
import triton.language as tl

from ..ops.purposes import PURPOSES
from ..ops.user_energy import registered
from .coefficients import as_passed, coefficient
from .moments import quotient
from .philox import on_device_of
from .transition import (
    baoa,
    chosen,
    decide,
    kicked,
    langevin_pass,
    largest_scale,
    may_go_on,
    negative,
    normal_event,
    random_walk_proposal,
    refreshed,
    shrink_of,
    square_sum,
    trajectory,
)
from .user_energy import arguments_of, block_of, evaluate, lanes_of, load_event, shape_of, store_event

LANGEVIN = tl.constexpr(PURPOSES["langevin"])
ACCEPT = tl.constexpr(PURPOSES["accept"])
MOMENTUM = tl.constexpr(PURPOSES["momentum"])
PROPOSAL = tl.constexpr(PURPOSES["proposal"])


@triton.jit
def scheduled(number, at, chain, t, CHAIN_STRIDE: tl.constexpr, step_stride):
    """A coefficient at step t: a number, or each chain's."""
    if at is not None:
        c = tl.load(at + t.to(tl.int64) * step_stride + chain * CHAIN_STRIDE)
    else:
        c = number
    return c


@triton.jit
def add_moments(mean, squares, x, count, exists):
    """d = x - mean; mean += d / count; squares += d (x - mean), in memory: a thread alone reads and writes its chain's."""
    for i in tl.static_range(len(x)):
        m = tl.load(mean + i)
        off = x[i] - m
        m += quotient(off, tl.zeros_like(off) + count, tl.float32)
        s = tl.fma(off, x[i] - m, tl.load(squares + i))
        tl.store(mean + i, m, mask=exists)
        tl.store(squares + i, s, mask=exists)


@triton.jit(do_not_specialize=[
    "step_size", "noise_std", "beta", "persistence", "step_size_row", "noise_std_row", "beta_row", "persistence_row", "max_error",
    "heavy_ball", "prior_precision", "grad_clip", "grad_clip_norm", "step_lo", "step_hi", "noise_lo", "noise_hi", "steps", "thin",
    "count", "leapfrogs", "seed", "step", "chain_offset", "chains",
])  # fmt: skip
def chain_kernel(
    x, parameters, energy, grad, momentum, ending, scale, step_size_at, noise_std_at, beta_at, persistence_at, leapfrogs_at,
    divergence_step, norm_sum, samples, energies, hamiltonians, counters, mean, squares, rng, step_size, noise_std, beta,
    persistence, step_size_row: tl.int64, noise_std_row: tl.int64, beta_row: tl.int64, persistence_row: tl.int64,
    max_error: tl.int64, heavy_ball, prior_precision, grad_clip, grad_clip_norm, step_lo, step_hi, noise_lo, noise_hi, steps,
    thin, count: tl.int64, leapfrogs, seed: tl.int64, step: tl.int64, chain_offset: tl.int64, chains, ENERGY: tl.constexpr,
    KEY: tl.constexpr, DIM: tl.constexpr, COUNT: tl.constexpr, LAYOUT: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
    STEP_SIZE_STRIDE: tl.constexpr, NOISE_STRIDE: tl.constexpr, BETA_STRIDE: tl.constexpr, PERSISTENCE_STRIDE: tl.constexpr,
    TRANSITION: tl.constexpr, CARRIED: tl.constexpr, FLIP: tl.constexpr, NOISE_FIRST: tl.constexpr, GUARD: tl.constexpr,
    NOISE: tl.constexpr, HEAVY: tl.constexpr, CLIP: tl.constexpr, CLIP_NORM: tl.constexpr,
    STEP_CLAMP: tl.constexpr, NOISE_CLAMP: tl.constexpr,
):  # fmt: skip
    chain, exists = lanes_of(chains, BLOCK)
    at = chain.to(INDEX) * DIM
    q = arguments_of(parameters, COUNT, LAYOUT)
    # Langevin without a look at the energy leaves it out of the loop
    VALUES: tl.constexpr = TRANSITION != "langevin" or (not NOISE_FIRST and (GUARD or energies is not None))
    NEEDS_GRAD: tl.constexpr = TRANSITION != "random_walk" and not (TRANSITION == "langevin" and NOISE_FIRST)
    y = load_event(x + at, DIM)
    p = y
    if momentum is not None:
        p = load_event(momentum + at, DIM)
    e = tl.zeros((BLOCK,), dtype=tl.float32)
    g = y
    if CARRIED:
        e = tl.load(energy + chain)
        if NEEDS_GRAD:
            g = load_event(grad + at, DIM)
    else:
        e, g = evaluate(y, q, ENERGY, BLOCK)
    frozen = chain < 0
    if GUARD:
        frozen = tl.load(divergence_step + chain) >= 0
        stretch = largest_scale(scale, DIM)
    norms = tl.zeros((BLOCK,), dtype=tl.float64)
    probabilities = tl.zeros((BLOCK,), dtype=tl.float64)
    probability = probabilities
    hamiltonian = probabilities
    acceptances = tl.zeros((BLOCK,), dtype=tl.int32)
    divergences = acceptances
    if counters is not None:
        probability = tl.load(counters + chain.to(tl.int64) * 5 + 3)
        hamiltonian = tl.load(counters + chain.to(tl.int64) * 5 + 4)
    limit = coefficient(max_error, tl.float64)
    first = step
    if rng is not None:
        first += tl.load(rng + 1)

    t = 0 * steps
    while t < steps:
        s = scheduled(step_size, step_size_at, chain, t, STEP_SIZE_STRIDE, step_size_row)
        b = scheduled(beta, beta_at, chain, t, BETA_STRIDE, beta_row)
        c = scheduled(persistence, persistence_at, chain, t, PERSISTENCE_STRIDE, persistence_row)
        n = scheduled(noise_std, noise_std_at, chain, t, NOISE_STRIDE, noise_std_row)
        if TRANSITION == "langevin":
            z = y
            if NOISE:
                z = normal_event(chain, rng, seed, step + t, LANGEVIN, chain_offset, DIM, BLOCK)
            if NOISE_FIRST:
                noised, _ = langevin_pass(y, y, p, z, s, n, s, scale, heavy_ball, prior_precision, grad_clip, step_lo, step_hi,
                                          noise_lo, noise_hi, HEAVY, CLIP, CLIP_NORM, STEP_CLAMP, NOISE_CLAMP, False,
                                          NOISE)  # fmt: skip
                if GUARD:
                    noised = chosen(frozen, y, noised)
                y = noised
                e_here, g_here = evaluate(y, q, ENERGY, BLOCK)
            else:
                e_here = e
                g_here = g
            if GUARD:
                fine = may_go_on(e_here, y, g_here, p, s, n, stretch, grad_clip, grad_clip_norm, heavy_ball, prior_precision,
                                 False, HEAVY, CLIP, CLIP_NORM, BLOCK)  # fmt: skip
                tl.store(divergence_step + chain, (first + t) + tl.zeros((BLOCK,), dtype=tl.int64),
                         mask=exists & (fine == 0) & (frozen == 0))  # fmt: skip
                frozen = frozen | (fine == 0)
            shrink = s
            if CLIP_NORM or norm_sum is not None:
                norm = tl.sqrt(square_sum(g_here, BLOCK)).to(tl.float32)
                if norm_sum is not None:
                    norms += tl.where(frozen, 0.0, norm).to(tl.float64)
                if CLIP_NORM:
                    shrink = shrink_of(norm, grad_clip_norm)
            moved, v = langevin_pass(y, g_here, p, z, s, n, shrink, scale, heavy_ball, prior_precision, grad_clip, step_lo,
                                     step_hi, noise_lo, noise_hi, HEAVY, CLIP, CLIP_NORM, STEP_CLAMP,
                                     NOISE_CLAMP and not NOISE_FIRST, True, NOISE and not NOISE_FIRST)  # fmt: skip
            if GUARD:
                moved = chosen(frozen, y, moved)
                if HEAVY:
                    v = chosen(frozen, p, v)
            y = moved
            if HEAVY:
                p = v
            if not NOISE_FIRST:
                e_next, g = evaluate(y, q, ENERGY, BLOCK)
                if VALUES:
                    e = e_next
        elif TRANSITION == "baoab":
            if GUARD:
                fine = may_go_on(e, y, g, p, s, n, stretch, grad_clip, grad_clip_norm, heavy_ball, prior_precision, True, True,
                                 CLIP, CLIP_NORM, BLOCK)  # fmt: skip
                tl.store(divergence_step + chain, (first + t) + tl.zeros((BLOCK,), dtype=tl.int64),
                         mask=exists & (fine == 0) & (frozen == 0))  # fmt: skip
                frozen = frozen | (fine == 0)
            if norm_sum is not None:
                norms += tl.where(frozen, 0.0, tl.sqrt(square_sum(g, BLOCK)).to(tl.float32)).to(tl.float64)
            z = normal_event(chain, rng, seed, step + t, MOMENTUM, chain_offset, DIM, BLOCK)
            moved, r = baoa(y, p, g, z, s, c, n, scale)
            if GUARD:
                moved = chosen(frozen, y, moved)
            y = moved
            e, g = evaluate(y, q, ENERGY, BLOCK)
            r = kicked(r, g, 0.5 * s, scale)
            if GUARD:
                r = chosen(frozen, p, r)
            p = r
        else:
            before = tl.zeros((BLOCK,), dtype=tl.float64)
            after = before
            if TRANSITION == "random_walk":
                z = normal_event(chain, rng, seed, step + t, PROPOSAL, chain_offset, DIM, BLOCK)
                proposal = random_walk_proposal(y, z, s, scale)
                e_new, h = evaluate(proposal, q, ENERGY, BLOCK)
            else:
                fresh = normal_event(chain, rng, seed, step + t, MOMENTUM, chain_offset, DIM, BLOCK)
                if FLIP:
                    fresh = refreshed(p, fresh, c)
                length = leapfrogs
                if leapfrogs_at is not None:
                    length = tl.load(leapfrogs_at + t)
                before = 0.5 * square_sum(fresh, BLOCK)
                proposal, end, e_new, h = trajectory(y, fresh, g, q, s, b, length, scale, ENERGY, BLOCK)
                after = 0.5 * square_sum(end, BLOCK)
                if ending is not None:
                    store_event(ending + at, proposal, exists)
                    p = end
            accepted, probability, hamiltonian, divergent = decide(
                e, e_new, before, after, b, chain, rng, seed, step + t, ACCEPT, chain_offset, limit, BLOCK
            )
            if counters is not None:
                probabilities += probability
                acceptances += accepted.to(tl.int32)
                divergences += divergent.to(tl.int32)
            y = chosen(accepted, proposal, y)
            e = tl.where(accepted, e_new, e)
            if TRANSITION == "hmc":
                g = chosen(accepted, h, g)
                if FLIP:
                    p = chosen(accepted, end, negative(fresh))
        if mean is not None:
            add_moments(mean + at, squares + at, y, (count + t + 1).to(tl.float32), exists)
        if (t + 1) % thin == 0:
            row = ((t + 1) // thin - 1).to(tl.int64) * chains
            if samples is not None:
                store_event(samples + row * DIM + at, y, exists)
            if energies is not None:
                if VALUES:
                    tl.store(energies + row + chain, e, mask=exists)
                else:
                    e_row, _ = evaluate(y, q, ENERGY, BLOCK)
                    tl.store(energies + row + chain, e_row, mask=exists)
            if hamiltonians is not None:
                if TRANSITION == "baoab":
                    tl.store(hamiltonians + row + chain, e.to(tl.float64) + 0.5 * square_sum(p, BLOCK), mask=exists)
                else:
                    tl.store(hamiltonians + row + chain, hamiltonian, mask=exists)
        t += 1

    store_event(x + at, y, exists)
    if momentum is not None:
        store_event(momentum + at, p, exists)
    if energy is not None or grad is not None:
        if not VALUES or (grad is not None and not NEEDS_GRAD):
            e, g = evaluate(y, q, ENERGY, BLOCK)
        if energy is not None:
            tl.store(energy + chain, e, mask=exists)
        if grad is not None:
            store_event(grad + at, g, exists)
    if norm_sum is not None:
        tl.store(norm_sum + chain, tl.load(norm_sum + chain) + norms, mask=exists)
    if counters is not None:
        sums = counters + chain.to(tl.int64) * 5
        probabilities += tl.load(sums)
        accepted_before = tl.load(sums + 1)
        divergent_before = tl.load(sums + 2)
        tl.store(sums, probabilities, mask=exists)
        tl.store(sums + 1, accepted_before + acceptances.to(tl.float64), mask=exists)
        tl.store(sums + 2, divergent_before + divergences.to(tl.float64), mask=exists)
        tl.store(sums + 3, probability, mask=exists)
        tl.store(sums + 4, hamiltonian, mask=exists)


def strides(at: torch.Tensor | None) -> tuple[int, int]:
    """From one chain's coefficient to the next and from one step's to the next, of shapes (), (n,), (steps, 1), (steps, n)."""
    if at is None or not at.ndim:
        return 0, 0
    return int(at.shape[-1] > 1), at.shape[-1] if at.ndim == 2 else 0


def chain_(
    x: torch.Tensor, parameters: torch.Tensor, energy: torch.Tensor | None, grad: torch.Tensor | None,
    momentum: torch.Tensor | None, proposal: torch.Tensor | None, scale: torch.Tensor | None,
    step_size_at: torch.Tensor | None, noise_std_at: torch.Tensor | None, beta_at: torch.Tensor | None,
    persistence_at: torch.Tensor | None, leapfrogs_at: torch.Tensor | None, divergence_step: torch.Tensor | None,
    norm_sum: torch.Tensor | None, samples: torch.Tensor | None, energies: torch.Tensor | None, hamiltonians: torch.Tensor | None,
    counters: torch.Tensor | None, mean: torch.Tensor | None, squares: torch.Tensor | None, rng: torch.Tensor | None,
    energy_kind: str, integers: list[int], transition: str, steps: int, thin: int, count: int, leapfrogs: int, carried: bool,
    finish: bool, flip: bool, noise_first: bool, guard: bool, step_size: float, noise_std: float, beta: float,
    persistence: float, numbers: list[float], seed: int, step: int, chain_offset: int, precision: str = "float32",
) -> None:  # fmt: skip
    """K steps of a sampler on a user's energy, in place: see ops/chain.py."""
    max_error, heavy_ball, prior, clip, clip_norm, step_lo, step_hi, noise_lo, noise_hi, _ = numbers
    grid, block, warps = block_of(x)
    per_chain, per_step = zip(*map(strides, (step_size_at, noise_std_at, beta_at, persistence_at)))
    with on_device_of(x):
        chain_kernel[grid](
            x, parameters, energy, grad, momentum, proposal, scale, step_size_at, noise_std_at, beta_at, persistence_at,
            leapfrogs_at, divergence_step, norm_sum, samples, energies, hamiltonians, counters, mean, squares, rng, step_size,
            noise_std, beta, persistence, *per_step, *as_passed(torch.float64, max_error), heavy_ball, prior, clip, clip_norm,
            step_lo, step_hi, noise_lo, noise_hi, steps, thin, count, leapfrogs, seed, step, chain_offset, x.shape[0],
            *shape_of(registered(energy_kind), x), block, *per_chain, transition, carried, flip, noise_first, guard,
            noise_std_at is not None or noise_std != 0.0, transition == "langevin" and momentum is not None,
            clip != math.inf, clip_norm != math.inf, step_lo != -math.inf or step_hi != math.inf,
            noise_lo != -math.inf or noise_hi != math.inf, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
