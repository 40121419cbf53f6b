"""Distribution functions in float64 that PyTorch lacks, to the far tails."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_TINY = 1e-300


def _beta_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The continued fraction of I_x(a, b) by Lentz's method, for x < (a + 1) / (a + b + 2)."""

    def away(t: Tensor) -> Tensor:
        return torch.where(t.abs() < _TINY, _TINY, t)

    c, d = torch.ones_like(x), 1.0 / away(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 5000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d, c = 1.0 / away(1.0 + even * d), away(1.0 + even / c)
        value = value * d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d, c = 1.0 / away(1.0 + odd * d), away(1.0 + odd / c)
        change = d * c
        value = value * change
        if m % 8 == 0 and not bool(((change - 1.0).abs() > 1e-12).any()):
            break
    return value


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """I_x(a, b) = int_0^x t^(a-1) (1-t)^(b-1) dt / B(a, b), the distribution function of Beta(a, b). All # (k,)

    a, b > 0 and 0 <= x <= 1, broadcast. Source: Press et al., Numerical Recipes, 3rd edition, eq. (6.4.5).
    """
    a, b, x = torch.broadcast_tensors(*(t.double() for t in (a, b, x)))
    swapped = x > (a + 1.0) / (a + b + 2.0)
    p, q, y = torch.where(swapped, b, a), torch.where(swapped, a, b), torch.where(swapped, 1.0 - x, x)
    log_front = torch.lgamma(p + q) - torch.lgamma(p) - torch.lgamma(q) + torch.xlogy(p, y) + q * torch.log1p(-y)
    lower = log_front.exp() * _beta_fraction(p, q, y) / p
    return torch.where(swapped, 1.0 - lower, lower)


def beta_quantile(a: Tensor, b: Tensor, p: float) -> Tensor:
    """x with I_x(a, b) = p, for a, b >= 1 and p away from 0 and 1, by Newton's method inside a shrinking bracket. # (k,)"""
    a, b = torch.broadcast_tensors(a.double(), b.double())
    mean = a / (a + b)
    sd = (mean * (1.0 - mean) / (a + b + 1.0)).sqrt()
    z = torch.special.ndtri(mean.new_tensor(p))
    low, high = torch.zeros_like(mean), torch.ones_like(mean)
    x = (mean + z * sd).clamp(1e-12, 1.0 - 1e-12)
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    for _ in range(100):
        excess = betainc(a, b, x) - p
        low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
        density = (torch.xlogy(a - 1.0, x) + (b - 1.0) * torch.log1p(-x) - log_beta).exp()
        following = x - excess / density
        inside = (following > low) & (following < high)
        following = torch.where(inside, following, 0.5 * (low + high))
        moved = ((following - x).abs() > 1e-10 * sd).any()
        x = following
        if not bool(moved):
            break
    return x


def normal_two_sided(z: float) -> float:
    """P(|Z| > |z|) of a standard normal Z."""
    return math.erfc(abs(z) / math.sqrt(2.0)) if not math.isnan(z) else math.nan


def normal_quantile(p: float) -> float:
    """z with P(Z <= z) = p."""
    return torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()


def student_tail(t: Tensor, freedom: float) -> Tensor:
    """P(|T| > |t|) of Student's distribution = I_{v / (v + t^2)}(v / 2, 1 / 2), v degrees of freedom. # (k,)"""
    v = torch.full_like(t, freedom)
    return betainc(0.5 * v, torch.full_like(v, 0.5), v / (v + t * t))


def student_two_sided(t: float, freedom: float) -> float:
    """`student_tail` of one number."""
    if math.isnan(t) or math.isinf(t):
        return math.nan if math.isnan(t) else 0.0
    return student_tail(torch.tensor([t], dtype=torch.float64), freedom).item()


@functools.lru_cache(maxsize=1024)
def student_quantile(alpha: float, freedom: float) -> float:
    """t with P(|T| > t) = alpha."""
    grid = 2.0 ** torch.arange(-4, 60, dtype=torch.float64)
    for _ in range(8):  # a hundred candidates at once cost as much as one
        at = int((student_tail(grid, freedom) > alpha).sum())
        low, high = (grid[at - 1] if at else torch.zeros_like(grid[0])), grid[min(at, len(grid) - 1)]
        grid = low + (high - low) * torch.linspace(0.0, 1.0, 129, dtype=torch.float64)
    return high.item()


def chi_square_tail(x: float, freedom: float) -> float:
    """P(X > x) of a chi-square variable = Q(k / 2, x / 2), k degrees of freedom."""
    half = torch.tensor([freedom, x], dtype=torch.float64) / 2
    return torch.special.gammaincc(half[0], half[1]).item()


def chi_square_quantile(alpha: float, freedom: float) -> float:
    """x with P(X > x) = alpha."""
    low, high = 0.0, freedom + 10.0
    while chi_square_tail(high, freedom) > alpha:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if chi_square_tail(middle, freedom) > alpha else (low, middle)
    return high


def kolmogorov_tail(t: float) -> float:
    """P(K > t) = 2 sum_{k >= 1} (-1)^(k-1) exp(-2 k^2 t^2), the limit law of sqrt(n) sup |F_n - F|.

    Source: Kolmogorov 1933; below t = 1 by the other side of Jacobi's identity, which converges there.
    """
    if math.isnan(t) or t <= 0.0:
        return math.nan if math.isnan(t) else 1.0
    if t >= 1.0:
        return 2.0 * sum((-1) ** (k - 1) * math.exp(-2.0 * k * k * t * t) for k in range(1, 12))
    series = sum(math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8.0 * t * t)) for k in range(1, 12))
    return 1.0 - math.sqrt(2.0 * math.pi) / t * series


def noncentral_chi_square_tail(x: float, freedom: float, noncentrality: float) -> float:
    """P(X > x) = sum_j Poisson(j; l / 2) P(chi-square of k + 2 j degrees > x), l the noncentrality."""
    half = 0.5 * noncentrality
    reach = 12.0 * math.sqrt(half) + 40.0
    j = torch.arange(max(0.0, math.floor(half - reach)), half + reach, dtype=torch.float64)
    weight = (torch.xlogy(j, torch.tensor(half, dtype=torch.float64)) - half - torch.lgamma(j + 1.0)).exp()
    return (weight * torch.special.gammaincc(0.5 * freedom + j, torch.full_like(j, 0.5 * x))).sum().item()
