"""R-hat, effective sample size, Monte-Carlo error, autocorrelation and E-BFMI of recorded chains, on their device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops import checks
from .special import beta_quantile

_BLOCK = 1 << 22  # draws * chains * elements looked at together: 32 MiB in float64, and a few times that in work space

Rows = Tensor  # (d, chains, draws) float64


def check_samples(samples: Any, name: str = "samples") -> None:
    """samples # (draws, chains, *event): a tensor of real numbers."""
    if not isinstance(samples, Tensor):
        raise TypeError(f"{name} must be a tensor of shape (draws, chains, *event), got {type(samples).__name__}")
    if samples.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {samples.dtype}")
    if samples.ndim < 2:
        raise ValueError(f"{name} must have shape (draws, chains, *event), got {tuple(samples.shape)}")


def by_element(samples: Tensor, statistic: Callable[[Rows], Tensor]) -> Tensor:
    """statistic((d, chains, draws)) -> (..., d) of every element of the event, some at a time: (..., *event)."""
    check_samples(samples)
    draws, chains = samples.shape[:2]
    flat = samples.detach().reshape(draws, chains, math.prod(samples.shape[2:]))
    width = max(1, _BLOCK // max(1, draws * chains))
    parts = [
        statistic(flat[:, :, at : at + width].permute(2, 1, 0).contiguous().double())
        for at in range(0, max(1, flat.shape[2]), width)
    ]
    joined = torch.cat(parts, -1)
    return joined.reshape((*joined.shape[:-1], *samples.shape[2:]))


def valid(rows: Rows, chains: int = 1) -> Tensor:
    """Elements without NaN, of enough draws and chains. (d,)"""
    enough = rows.shape[2] >= 4 and rows.shape[1] >= chains
    return ~rows.isnan().flatten(1).any(1) & enough


def only_valid(statistic: Callable[[Rows], Tensor], chains: int = 1) -> Callable[[Rows], Tensor]:
    """The statistic where an element is valid, NaN elsewhere."""

    def guarded(rows: Rows) -> Tensor:
        if rows.shape[2] < 4 or rows.shape[1] < chains or not rows.shape[0]:
            return rows.new_full(rows.shape[:1], math.nan)
        return torch.where(valid(rows, chains), statistic(rows), math.nan)

    return guarded


def split(rows: Rows) -> Rows:
    """First and second half of every chain as chains of their own; the middle draw of an odd number is left out."""
    half = rows.shape[2] // 2
    return torch.cat([rows[:, :, :half], rows[:, :, rows.shape[2] - half :]], 1)


def normal_scores(rows: Rows) -> Rows:
    """Phi^-1((rank - 3/8) / (N + 1/4)), rank among all chains, ties sharing theirs. Source: Blom 1958."""
    ordered, order = rows.flatten(1).sort(1)
    size = ordered.shape[1]
    place = torch.arange(size, device=rows.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(starts, place, 0).cummax(1).values
    ends = torch.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    last = torch.where(ends, place, size).flip(1).cummin(1).values.flip(1)
    # Twice a shared rank is a whole number, so 2 N - 1 values of Phi^-1 serve all elements.
    twice = torch.arange(2 * size - 1, device=rows.device, dtype=torch.float64)
    table = torch.special.ndtri((0.5 * twice + 1.0 - 0.375) / (size + 0.25))
    return torch.empty_like(ordered).scatter_(1, order, table[first + last]).view(rows.shape)


def folded(rows: Rows) -> Rows:
    """|x - median|."""
    ordered = in_order(rows)
    last = ordered.shape[1] - 1
    middle = 0.5 * (ordered[:, last // 2] + ordered[:, (last + 1) // 2])
    return (rows - middle[:, None, None]).abs()


def in_order(rows: Rows) -> Tensor:
    """All draws of all chains, sorted. (d, chains * draws)"""
    return rows.flatten(1).sort(1).values


def quantiles(ordered: Tensor, prob: float) -> Tensor:
    """The quantile of sorted draws, R's type 7. (d,)"""
    at = ordered.shape[1] * prob + (1.0 - prob)
    k = int(min(max(math.floor(at), 1), ordered.shape[1] - 1))
    return ordered[:, k - 1] + min(max(at - k, 0.0), 1.0) * (ordered[:, k] - ordered[:, k - 1])


def plain_rhat(rows: Rows) -> Tensor:
    """sqrt((B / W + n - 1) / n), B/n the variance of chain means, W the mean variance inside chains. (d,)"""
    n = rows.shape[2]
    low, high = rows.aminmax(dim=2)
    within = torch.where(low == high, 0.0, rows.var(2)).mean(1)
    means = torch.where(low == high, low, rows.mean(2))
    return ((n * means.var(1) / within + n - 1) / n).sqrt()


def rank_rhat(halves: Rows, scores: Rows) -> Tensor:
    """The larger of R-hat of the normal scores and of the folded draws' normal scores. (d,)"""
    bulk, tail = plain_rhat(scores), plain_rhat(normal_scores(folded(halves)))
    return torch.where(tail > bulk, tail, bulk)


def _fast_length(n: int) -> int:
    """The smallest 2^a 3^b 5^c >= n."""
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three
            while two < n:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def _power(centred: Rows) -> Tensor:
    return torch.fft.rfft(centred, n=_fast_length(2 * centred.shape[2])).abs().square()


def effective(rows: Rows) -> Tensor:
    """N / tau, tau = -1 + 2 sum_t rho_t by Geyer's initial monotone sequence over the pairs rho_{2k} + rho_{2k+1}. (d,)

    Source: Geyer 1992; combination of chains: Vehtari et al. 2021, eqs. (10) to (12).
    """
    _, m, n = rows.shape
    size = m * n
    means = rows.mean(2)
    power = _power(rows - means[:, :, None]).mean(1)
    covariance = torch.fft.irfft(power, n=_fast_length(2 * n))[:, :n] / n
    inside = covariance[:, 0] * n / (n - 1.0)
    total = covariance[:, 0] + (means.var(1) if m > 1 else 0.0)
    rho = 1.0 - (inside[:, None] - covariance) / total[:, None]
    rho[:, 0] = 1.0
    last_pair = max((n - 3) // 2, 0)
    even = rho[:, 0 : 2 * last_pair + 2 : 2]
    pairs = even + rho[:, 1 : 2 * last_pair + 2 : 2]
    stop = (pairs > 0).long().cumprod(1).sum(1, keepdim=True).clamp(max=last_pair)
    before = torch.arange(last_pair + 1, device=rows.device) < stop
    kept = torch.where(before, pairs.cummin(1).values, 0.0).sum(1)
    at_stop = even.gather(1, stop)[:, 0]
    last = torch.where((at_stop > 0) | (pairs.gather(1, stop)[:, 0] >= 0), at_stop, 0.0)
    tau = (-1.0 + 2.0 * kept + last).clamp(min=1.0 / math.log10(size))
    low, high = rows.flatten(1).aminmax(dim=1)
    ess = torch.where(rho[:, 1].isnan(), math.nan, size / tau)
    return torch.where(high - low < 1e-15, float(size), ess)  # constant: every draw says all, as ArviZ has it


def effective_below(rows: Rows, level: Tensor) -> Tensor:
    """ESS of the indicator of x <= level. (d,)"""
    return effective(split((rows <= level[:, None, None]).double()))


def effective_tail(rows: Rows) -> Tensor:
    """The smaller of the ESS of the 5 % and of the 95 % quantile. (d,)"""
    ordered = in_order(rows)
    return torch.minimum(*(effective_below(rows, quantiles(ordered, p)) for p in (0.05, 0.95)))


def deviations(rows: Rows) -> Rows:
    """(x - mean)^2 over all chains."""
    return (rows - rows.mean((1, 2), keepdim=True)).square()


def sd_error(rows: Rows) -> Tensor:
    """sqrt((mean d^2 - (mean d)^2) / ESS(d) / (4 mean d)), d = (x - mean)^2: the delta method. (d,)"""
    d = deviations(rows)
    mean = d.mean((1, 2))
    return ((d.square().mean((1, 2)) - mean.square()) / effective(split(d)) / mean / 4.0).sqrt()


def quantile_error(rows: Rows, prob: float) -> Tensor:
    """Half the distance of the order statistics at the 16 % and 84 % quantiles of Beta(ESS p + 1, ESS (1 - p) + 1). (d,)"""
    ordered = in_order(rows)
    ess = effective_below(rows, quantiles(ordered, prob))
    size = ordered.shape[1]
    low, high = (size * beta_quantile(ess * prob + 1, ess * (1 - prob) + 1, p) - 1 for p in (0.1586553, 0.8413447))
    first = low.clamp(min=0.0).floor().long()[:, None]
    last = high.clamp(max=size - 1.0).ceil().long()[:, None]
    return (ordered.gather(1, last) - ordered.gather(1, first))[:, 0] / 2.0


def _prob(prob: Any) -> float:
    prob = checks.number(prob, "prob")
    if not 0.0 < prob < 1.0:
        raise ValueError(f"prob must be between 0 and 1, got {prob:g}")
    return prob


def _kind(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def rhat(samples: Tensor, method: str = "rank") -> Tensor:
    """R-hat = sqrt((B / W + n - 1) / n): 1 where chains agree. (*event)

    B/n is the variance of the chains' means and W the mean variance inside chains of n draws.

    Args:
        samples: (draws, chains, *event).
        method: "rank" (the larger of R-hat of rank-normalised split chains and of folded ones), "split" (of split chains),
            "z_scale" (of rank-normalised split chains), "folded" or "identity" (of the chains as they are).

    NaN where an element holds NaN, and everywhere with fewer than 4 draws or 2 chains; infinite where chains are stuck at
    different values.

    Source: Gelman and Rubin 1992; Vehtari et al. 2021, sec. 4. Agrees with ArviZ.
    """
    methods = {
        "rank": lambda rows: rank_rhat(split(rows), normal_scores(split(rows))),
        "split": lambda rows: plain_rhat(split(rows)),
        "z_scale": lambda rows: plain_rhat(normal_scores(split(rows))),
        "folded": lambda rows: plain_rhat(normal_scores(folded(split(rows)))),
        "identity": plain_rhat,
    }
    _kind("method", method, tuple(methods))
    return by_element(samples, only_valid(methods[method], chains=2))


def ess(samples: Tensor, kind: str = "bulk", *, prob: float = 0.5) -> Tensor:
    """N / (1 + 2 sum_t rho_t): how many independent draws are worth as much as all N. (*event)

    Args:
        samples: (draws, chains, *event).
        kind: "bulk" (of rank-normalised draws), "tail" (the smaller of those of the 5 % and 95 % quantiles), "mean", "sd"
            or "quantile" (of the quantile `prob`).
        prob: the quantile's, for kind="quantile".

    NaN where an element holds NaN, and everywhere with fewer than 4 draws; N where all draws are equal. At most N log10 N.

    Source: Geyer 1992; Vehtari et al. 2021. Agrees with ArviZ.
    """
    prob = _prob(prob)
    kinds = {
        "bulk": lambda rows: effective(normal_scores(split(rows))),
        "tail": effective_tail,
        "mean": lambda rows: effective(split(rows)),
        "sd": lambda rows: effective(split(deviations(rows))),
        "quantile": lambda rows: effective_below(rows, quantiles(in_order(rows), prob)),
    }
    _kind("kind", kind, tuple(kinds))
    return by_element(samples, only_valid(kinds[kind]))


def mcse(samples: Tensor, kind: str = "mean", *, prob: float = 0.5) -> Tensor:
    """sd / sqrt(ESS): the standard error of an average over the draws, and its likes. (*event)

    Args:
        samples: (draws, chains, *event).
        kind: "mean", "sd" (the error of the standard deviation) or "quantile" (of the quantile `prob`).
        prob: the quantile's, for kind="quantile".

    NaN where an element holds NaN, and everywhere with fewer than 4 draws.

    Source: Vehtari et al. 2021, sec. 4; Kenney and Keeping 1951 (sd). Agrees with ArviZ.
    """
    prob = _prob(prob)
    kinds = {
        "mean": lambda rows: rows.flatten(1).std(1) / effective(split(rows)).sqrt(),
        "sd": sd_error,
        "quantile": lambda rows: quantile_error(rows, prob),
    }
    _kind("kind", kind, tuple(kinds))
    return by_element(samples, only_valid(kinds[kind]))


def autocorrelation(samples: Tensor, max_lag: int | None = None) -> Tensor:
    """rho_t = sum_s (x_s - m)(x_{s+t} - m) / sum_s (x_s - m)^2 of each chain, by FFT. (lags, chains, *event)

    Args:
        samples: (draws, chains, *event).
        max_lag: the largest t; None for draws - 1.

    NaN for a chain that is constant or holds NaN.
    """
    check_samples(samples)
    draws = samples.shape[0]
    if max_lag is None:
        max_lag = draws - 1
    if type(max_lag) is not int or not 0 <= max_lag < draws:
        raise ValueError(f"max_lag must be an int from 0 to draws - 1 = {draws - 1}, got {max_lag!r}")

    def statistic(rows: Rows) -> Tensor:
        covariance = torch.fft.irfft(_power(rows - rows.mean(2, keepdim=True)), n=_fast_length(2 * draws))[:, :, : max_lag + 1]
        low, high = rows.aminmax(dim=2, keepdim=True)
        return torch.where(low == high, math.nan, covariance / covariance[:, :, :1]).permute(2, 1, 0)

    return by_element(samples, statistic)


def bfmi(hamiltonians: Tensor) -> Tensor:
    """E-BFMI = mean (H_t - H_{t-1})^2 / var H of each chain; below 0.3 the momentum explores energies too slowly. (chains,)

    Args:
        hamiltonians: (draws, chains), energy plus kinetic energy, such as run.stats.hamiltonian.

    NaN with fewer than 2 draws. Meant for momenta that are drawn afresh before every draw: thinning raises it, momenta that
    persist lower it.

    Source: Betancourt 2016, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo".
    """
    check_samples(hamiltonians, "hamiltonians")
    if hamiltonians.ndim != 2:
        raise ValueError(f"hamiltonians must have shape (draws, chains), got {tuple(hamiltonians.shape)}")
    h = hamiltonians.detach().double()
    if h.shape[0] < 2:
        return h.new_full(h.shape[1:], math.nan)
    return h.diff(dim=0).square().mean(0) / h.var(0)
