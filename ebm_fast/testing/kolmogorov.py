"""Kolmogorov-Smirnov tests of independent draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..diagnostics.special import kolmogorov_tail, normal_quantile
from ..ops import checks
from .result import POWER, Comparison, TestResult, check_alpha, combine, failure


def _detectable(alpha: float, effective: float) -> float:
    """Distance that is found: the critical one, and what the empirical function may lack where the true ones differ most."""
    return (math.sqrt(math.log(2.0 / alpha) / 2.0) + 0.5 * normal_quantile(POWER)) / math.sqrt(effective)


def compare_samples(a: Tensor, b: Tensor, alpha: float, name: str, share: float = 1.0) -> Comparison:
    """sup |F_a - F_b| of independent draws # (n,), (m,)."""
    a, b = a.flatten().double().sort().values, b.flatten().double().sort().values
    both = torch.cat([a, b])
    F, G = (torch.searchsorted(c, both, right=True).double() / c.numel() for c in (a, b))
    distance = (F - G).abs().max().item()
    effective = share * a.numel() * b.numel() / (a.numel() + b.numel())
    p = kolmogorov_tail(math.sqrt(effective) * distance)
    return Comparison(name, math.nan, math.nan, math.nan, distance, p, _detectable(alpha, effective))


def ks_test(
    draws: Tensor,  # (n,)
    law: Tensor | Callable[[Tensor], Tensor],
    *,
    effective: float | None = None,
    alpha: float = 1e-6,
) -> TestResult:
    """D = sup |F_n - F|;  P(D > e) <= 2 exp(-2 n e^2) for every n (Dvoretzky, Kiefer, Wolfowitz, Massart).

    The p-value is Kolmogorov's limit law at sqrt(n) D, of which that bound is the leading term: below 1e-3 they are equal, so
    a test at 1e-6 holds for every n. With two samples n is n m / (n + m).

    Args:
        draws: independent draws (n,).
        law: distribution function (n,) -> (n,) of numbers in [0, 1], or independent draws (m,) of the law.
        effective: number of independent draws that `draws` are worth, if less than n, such as `diagnostics.ess`.
        alpha: false-alarm rate.

    Returns:
        TestResult; `detectable` is the distance of the distribution functions that is found with probability 0.99.

    Raises:
        TypeError, ValueError: a bad argument, or a distribution function outside of [0, 1].

    Source: Kolmogorov 1933, Smirnov 1948; Massart 1990 (the constant 2).
    """
    alpha = check_alpha(alpha)
    if not isinstance(draws, Tensor) or draws.ndim != 1 or not draws.numel():
        got = tuple(draws.shape) if isinstance(draws, Tensor) else type(draws).__name__
        raise ValueError(f"draws must be a tensor of shape (n,), got {got}")
    n = draws.numel()
    if effective is None:
        worth = float(n)
    else:
        worth = checks.number(effective, "effective")
        if not 0.0 < worth <= n:
            raise ValueError(f"effective must be between 0 and the number of draws, {n}, got {worth:g}")
    unit = "of distance between the distribution functions"
    lost = int(draws.isnan().sum())
    if lost:
        return failure("Kolmogorov-Smirnov", f"{lost} of {n} draws are NaN", alpha, unit)
    if isinstance(law, Tensor):
        if law.ndim != 1 or not law.numel():
            raise ValueError(f"law must be a distribution function or draws of shape (m,), got shape {tuple(law.shape)}")
        m = law.numel()
        share = worth * (n + m) / (n * (worth + m))
        found = compare_samples(draws, law.to(draws.device), alpha, f"{n} draws and {m}", share=share)
        return combine("Kolmogorov-Smirnov", [found], alpha, unit)
    if not callable(law):
        raise TypeError(f"law must be a distribution function or a tensor of draws, got {type(law).__name__}")
    ordered = draws.double().sort().values
    F = law(ordered)
    if not isinstance(F, Tensor) or F.shape != ordered.shape:
        raise ValueError(f"law must return ({n},) numbers for draws ({n},)")
    F = F.double()
    if not bool(((F >= -1e-9) & (F <= 1.0 + 1e-9)).all()):
        raise ValueError("law must return numbers in [0, 1], the values of a distribution function")
    # Draws of a discrete law repeat: F_n jumps once for all of them, and F(x-) is F just below x.
    below = torch.searchsorted(ordered, ordered).double() / n
    upto = torch.searchsorted(ordered, ordered, right=True).double() / n
    lower = law(torch.nextafter(ordered, torch.full_like(ordered, -math.inf))).double()
    distance = torch.maximum((upto - F).abs().max(), (below - lower).abs().max()).item()
    p = kolmogorov_tail(math.sqrt(worth) * distance)
    found = Comparison(f"{n} draws", math.nan, math.nan, math.nan, distance, p, _detectable(alpha, worth))
    return combine("Kolmogorov-Smirnov", [found], alpha, unit)
