"""Discrete targets small enough to enumerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..diagnostics.special import chi_square_quantile, chi_square_tail, noncentral_chi_square_tail
from ..ops import checks
from .result import POWER, Comparison, TestResult, check_alpha, combine, failure

MOST_STATES = 1 << 16
_BATCH = 1 << 14


class Enumeration(NamedTuple):
    """All states (S, *event), their probabilities (S,) float64, and log Z."""

    states: Tensor
    probabilities: Tensor
    log_z: float


def _shape(num_units: Any) -> tuple[int, ...]:
    shape = (num_units,) if isinstance(num_units, int) else tuple(num_units)
    if not shape or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"num_units must be a number of units or a shape of such, got {num_units!r}")
    return shape


def enumerate_states(
    energy: Callable[[Tensor], Tensor],
    num_units: int | Sequence[int],
    values: Sequence[float] = (0.0, 1.0),
    *,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Enumeration:
    """p(x) = exp(-E(x) / T) / Z of every x in values^num_units, up to 2^16 states.

    The state of index k has the digits of k in base len(values), the first unit the most significant: `state_index`.

    Args:
        energy: (n, *event) -> (n,).
        num_units: number of units, or the shape of an event.
        values: the values that a unit takes.
        temperature: T > 0.
        dtype, device: of the states that the energy is asked for; sums are in float64.

    Returns:
        Enumeration(states (S, *event), probabilities (S,), log_z).

    Raises:
        ValueError: more than 2^16 states, an energy of wrong shape, NaN or minus infinity among its values, or T <= 0.
    """
    shape = _shape(num_units)
    units, base = math.prod(shape), len(values)
    if base < 2 or base**units > MOST_STATES:
        raise ValueError(f"{base} values of {units} units: {base**units} states, between 2 and {MOST_STATES} can be enumerated")
    if checks.number(temperature, "temperature", low=0.0) == 0.0:
        raise ValueError("temperature must be positive")
    index = torch.arange(base**units, device=device)
    digits = (index[:, None] // base ** torch.arange(units - 1, -1, -1, device=device)) % base
    states = torch.tensor(values, dtype=dtype, device=device)[digits].reshape(-1, *shape)
    with torch.no_grad():
        parts = [energy(states[at : at + _BATCH]) for at in range(0, len(states), _BATCH)]
    for part, at in zip(parts, range(0, len(states), _BATCH)):
        wanted = (min(_BATCH, len(states) - at),)
        if not isinstance(part, Tensor) or part.shape != wanted:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"energy must return {wanted} numbers, got {got}")
    log_weight = -torch.cat(parts).double() / temperature
    if bool((log_weight.isnan() | (log_weight == math.inf)).any()) or not bool(torch.isfinite(log_weight).any()):
        raise ValueError("energy must be a number or infinity for every state, and finite for one")
    log_z = log_weight.logsumexp(0)
    return Enumeration(states, (log_weight - log_z).exp(), log_z.item())


def state_index(x: Tensor, values: Sequence[float] = (0.0, 1.0)) -> Tensor:
    """The index in `enumerate_states` of each state. x # (n, *event) -> (n,) int64

    Raises:
        ValueError: an element is none of `values`.
    """
    if not isinstance(x, Tensor) or x.ndim < 2:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a tensor of shape (n, *event), got {got}")
    flat = x.reshape(x.shape[0], -1)
    known = torch.tensor(values, dtype=flat.dtype, device=flat.device)
    equal = flat[:, :, None] == known
    if not bool(equal.any(2).all()):
        raise ValueError(f"x must hold the values {tuple(values)} only")
    weight = len(values) ** torch.arange(flat.shape[1] - 1, -1, -1, device=flat.device)
    return (equal.long().argmax(2) * weight).sum(1)


def _merged(counts: Tensor, p: Tensor, total: float, least: float) -> tuple[Tensor, Tensor]:
    """Cells in order of probability, the smallest put together until each expects `least` counts."""
    order = p.argsort()
    counts, p = counts[order], p[order]
    expected = (p * total).tolist()
    edges, filled = [], 0.0
    for k, e in enumerate(expected):
        filled += e
        if filled >= least:
            edges.append(k)
            filled = 0.0
    if not edges:
        return counts.sum().reshape(1), p.sum().reshape(1)
    group = torch.bucketize(torch.arange(len(p)), torch.tensor(edges)).clamp(max=len(edges) - 1)
    zeros = torch.zeros(len(edges), dtype=torch.float64)
    return zeros.index_add(0, group, counts), zeros.index_add(0, group, p)


def _detectable(freedom: int, critical: float, total: float) -> float:
    """w with P(X > critical) = 0.99 for X of noncentrality total w^2."""
    low, high = 0.0, 1.0
    while noncentral_chi_square_tail(critical, freedom, high) < POWER:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if noncentral_chi_square_tail(critical, freedom, middle) < POWER else (low, middle)
    return math.sqrt(high / total)


def chi_square_test(
    states: Tensor,
    probabilities: Tensor,  # (S,)
    *,
    counts: bool = False,
    effective: float | None = None,
    min_expected: float = 10.0,
    alpha: float = 1e-6,
) -> TestResult:
    """X = sum_k (O_k - m p_k)^2 / (m p_k) against chi-square with one degree of freedom less than there are cells.

    Args:
        states: index of the state of each of m independent draws, integers of any shape; or, with counts=True, how often each
            state was seen (S,).
        probabilities: p (S,), such as `enumerate_states(...).probabilities`; summing to 1.
        counts: what `states` holds.
        effective: number of independent draws that the m are worth: X is scaled by effective / m.
        min_expected: cells that expect fewer counts are merged, the rarest first.
        alpha: false-alarm rate.

    Returns:
        TestResult; `detectable` is w = sqrt(sum_k (q_k - p_k)^2 / p_k) of the wrong probabilities q that are found with
        probability 0.99: an error of 5 % of all probabilities, of either sign, is w = 0.05.

    Raises:
        ValueError: states out of range, probabilities that are none, or fewer than two cells after merging.

    Source: Pearson 1900; Cohen 1988 (w).
    """
    alpha = check_alpha(alpha)
    if not isinstance(probabilities, Tensor) or probabilities.ndim != 1:
        got = tuple(probabilities.shape) if isinstance(probabilities, Tensor) else type(probabilities).__name__
        raise ValueError(f"probabilities must be a tensor of shape (S,), got {got}")
    p = probabilities.detach().double().cpu()
    if not bool((p >= 0).all()) or abs(p.sum().item() - 1.0) > 1e-4:
        raise ValueError(f"probabilities must be at least 0 and sum to 1, got a sum of {p.sum().item():g}")
    p = p / p.sum()
    if not isinstance(states, Tensor) or states.is_floating_point() or states.is_complex() or states.dtype == torch.bool:
        kind = str(states.dtype) if isinstance(states, Tensor) else type(states).__name__
        raise TypeError(f"states must be a tensor of integers, got {kind}")
    seen = states.detach().cpu().long().flatten()
    if counts:
        if states.shape != probabilities.shape or bool((seen < 0).any()):
            raise ValueError(f"states must hold {len(p)} counts of at least 0, got shape {tuple(states.shape)}")
    else:
        if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= len(p)):
            raise ValueError(f"states must be in 0 ... {len(p) - 1}, got {int(seen.min())} to {int(seen.max())}")
        seen = torch.bincount(seen, minlength=len(p))
    total = int(seen.sum())
    worth = float(total) if effective is None else checks.number(effective, "effective", low=0.0)
    if worth > total:
        raise ValueError(f"effective must be at most the number of draws, {total}, got {worth:g}")
    unit = "w = sqrt(sum (q - p)^2 / p)"
    impossible = int(seen[p == 0].sum())
    if impossible:
        return failure("chi-square", f"{impossible} of {total} draws have probability 0", alpha, unit)
    observed, q = _merged(seen.double(), p, worth, min_expected)
    if len(q) < 2:
        raise ValueError(f"{total} draws, worth {worth:g}, fill fewer than two cells of {min_expected:g} expected counts each")
    expected = q * total
    statistic = ((observed - expected).square() / expected).sum().item() * worth / total
    freedom = len(q) - 1
    power = _detectable(freedom, chi_square_quantile(alpha, freedom), worth)
    found = Comparison(
        f"{len(q)} cells", math.nan, math.nan, math.nan, statistic, chi_square_tail(statistic, freedom), power
    )
    return combine("chi-square", [found], alpha, unit)
