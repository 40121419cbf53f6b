"""One table of what a run found and how far it is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .convergence import (
    Rows,
    bfmi,
    by_element,
    check_samples,
    effective,
    effective_below,
    in_order,
    normal_scores,
    quantiles,
    rank_rhat,
    sd_error,
    split,
)

COLUMNS = ("mean", "sd", "mcse_mean", "mcse_sd", "q5", "q95", "ess_bulk", "ess_tail", "r_hat")
_SHOWN = ("mean", "sd", "mcse_mean", "q5", "q95", "ess_bulk", "ess_tail", "r_hat")
_FIRST, _WORST = 20, 5

R_HAT_LIMIT = 1.01
ESS_PER_CHAIN, ESS_ENOUGH = 100, 400
BFMI_LIMIT = 0.3


@dataclass(frozen=True, eq=False)
class Summary(Mapping[str, Tensor]):
    """A mapping from each of `COLUMNS` to a float64 tensor (*event); `str()` is a table.

    Attributes:
        draws, chains: of the samples.
        acceptance, divergences, bfmi: (n,) per chain, None where the run has none; bfmi also where the momentum persists from
            step to step (GHMC, underdamped dynamics).
        warnings: what is wrong, in words; empty if nothing was found.
    """

    columns: dict[str, Tensor]
    draws: int
    chains: int
    acceptance: Tensor | None = None
    divergences: Tensor | None = None
    bfmi: Tensor | None = None
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __str__(self) -> str:
        return "\n".join(_table(self) + _lines(self))

    __repr__ = __str__


def _statistics(rows: Rows) -> Tensor:
    """All columns of elements that hold no NaN. (9, d)"""
    halves = split(rows)
    scores = normal_scores(halves)
    flat = rows.flatten(1)
    sd = flat.std(1)
    ordered = in_order(rows)
    low, high = (quantiles(ordered, p) for p in (0.05, 0.95))
    return torch.stack(
        [
            flat.mean(1),
            sd,
            sd / effective(halves).sqrt(),
            sd_error(rows),
            low,
            high,
            effective(scores),
            torch.minimum(effective_below(rows, low), effective_below(rows, high)),
            rank_rhat(halves, scores) if rows.shape[1] > 1 else torch.full_like(sd, math.nan),
        ]
    )


def _short(rows: Rows) -> Tensor:
    """Columns that one draw or more give; the rest NaN. (9, d)"""
    nothing = rows.new_full(rows.shape[:1], math.nan)
    if not rows[0].numel():
        return nothing.expand(len(COLUMNS), -1)
    flat = rows.flatten(1)
    sd = flat.std(1) if flat.shape[1] > 1 else nothing
    ends = [quantiles(in_order(rows), p) if flat.shape[1] > 1 else flat[:, 0] for p in (0.05, 0.95)]
    return torch.stack([flat.mean(1), sd, nothing, nothing, *ends, nothing, nothing, nothing])


def _all_columns(rows: Rows) -> Tensor:
    if not rows.shape[0]:
        return rows.new_empty(len(COLUMNS), 0)
    values = _short(rows) if rows.shape[2] < 4 else _statistics(rows)
    return torch.where(rows.isnan().flatten(1).any(1), math.nan, values)


def refreshed_hamiltonian(run: Any) -> Tensor | None:
    """Recorded Hamiltonian of a run whose momentum is drawn afresh: one that persists changes the energy slowly by design, and
    E-BFMI says nothing of it. # (draws, n)"""
    persists = "momentum" in getattr(getattr(run, "state", None), "extra", {})
    return None if persists else getattr(getattr(run, "stats", None), "hamiltonian", None)


def summary(run: Any) -> Summary:
    """Mean, sd, MCSE, 5 % and 95 % quantiles, bulk and tail ESS and R-hat of every element; acceptance, divergences, E-BFMI.

    Args:
        run: what `ebm_fast.sample` returns, or samples (draws, chains, *event).

    With fewer than 4 draws MCSE, ESS and R-hat are NaN, with one chain R-hat is; `warnings` says so.

    Raises:
        TypeError, ValueError: no samples in it.

    Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, with its limits: R-hat at most 1.01, ESS at least 100 a
    chain or 400 in all; E-BFMI at least 0.3 (Betancourt 2016).
    """
    stats = None
    samples = run
    if not isinstance(run, Tensor):
        if not hasattr(run, "samples"):
            raise TypeError(f"run must be a Run or a tensor of shape (draws, chains, *event), got {type(run).__name__}")
        samples, stats = run.samples, getattr(run, "stats", None)
        if samples is None:
            raise ValueError("run holds no samples (record=False); run.stats.mean and .variance exist with moments=True")
    check_samples(samples)
    values = by_element(samples, _all_columns)
    hamiltonian = refreshed_hamiltonian(run)
    found = Summary(
        dict(zip(COLUMNS, values)),
        draws=samples.shape[0],
        chains=samples.shape[1],
        acceptance=getattr(stats, "acceptance", None),
        divergences=getattr(stats, "divergences", None),
        bfmi=None if hamiltonian is None or hamiltonian.shape[0] < 4 else bfmi(hamiltonian),
    )
    frozen = getattr(stats, "diverged", None)
    steps = getattr(run, "num_steps", None)
    found.warnings.extend(_warnings(found, 0 if frozen is None else int(frozen.sum()), steps))
    return found


def element_name(index: int, event: torch.Size) -> str:
    """x[i, j] of the element with this flat index."""
    place = []
    for size in reversed(event):
        index, at = divmod(index, size)
        place.append(str(at))
    return f"x[{', '.join(reversed(place))}]" if event else "x"


def _warnings(s: Summary, frozen: int, steps: int | None) -> list[str]:
    """What is wrong, in words."""
    event = s["mean"].shape
    total = s["mean"].numel()
    said = []
    if frozen:
        said.append(f"{frozen} of {s.chains} chains diverged and were frozen: take smaller steps")
    if s.divergences is not None and int(s.divergences.sum()):
        count, hit = int(s.divergences.sum()), int((s.divergences > 0).sum())
        share = f" ({100.0 * count / (steps * s.chains):.2g} % of the proposals)" if steps else ""
        said.append(f"{count} divergences{share} in {hit} of {s.chains} chains: take smaller steps or reparametrise")
    if not total or not s.draws or not s.chains:
        return [*said, "there are no draws"]
    nan = int(s["mean"].isnan().sum())
    if nan:
        said.append(f"{nan} of {total} elements hold NaN")
    if s.draws < 4:
        return [*said, f"{s.draws} draws a chain: MCSE, ESS and R-hat need at least 4"]
    if s.chains < 2:
        said.append("R-hat needs at least 2 chains")
    r_hat = s["r_hat"].flatten()
    high = r_hat > R_HAT_LIMIT
    if bool(high.any()):
        worst = int(torch.where(high, r_hat, -math.inf).argmax())
        said.append(
            f"R-hat is above {R_HAT_LIMIT} for {int(high.sum())} of {total} elements (largest {r_hat[worst].item():.3g} at "
            f"{element_name(worst, event)}): the chains disagree, run them longer"
        )
    needed = min(ESS_PER_CHAIN * s.chains, ESS_ENOUGH)
    for name, what in (("ess_bulk", "bulk ESS"), ("ess_tail", "tail ESS")):
        value = s[name].flatten()
        low = value < needed
        if bool(low.any()):
            worst = int(torch.where(low, value, math.inf).argmin())
            said.append(
                f"{what} is below {needed} for {int(low.sum())} of {total} elements (smallest {value[worst].item():.3g} at "
                f"{element_name(worst, event)}): run longer"
            )
    if s.bfmi is not None and bool((s.bfmi < BFMI_LIMIT).any()):
        said.append(
            f"E-BFMI is below {BFMI_LIMIT} in {int((s.bfmi < BFMI_LIMIT).sum())} of {s.chains} chains (smallest "
            f"{s.bfmi.nan_to_num(math.inf).min().item():.2g}): momenta explore the energies slowly, reparametrise heavy tails"
        )
    return said


def _number(value: float, error: float) -> str:
    """As many decimals as the Monte-Carlo error leaves meaningful, between 2 and 6."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = 3 if not (math.isfinite(error) and error > 0) else min(max(1 - math.floor(math.log10(error)), 2), 6)
    return f"{value:.{decimals}f}"


def _worst(s: Summary, after: int) -> list[int]:
    """Flat indices of the elements with the largest R-hat, then those with the smallest bulk ESS, beyond the first ones."""
    chosen: list[int] = []
    r_hat, ess = (s[name].flatten()[after:] for name in ("r_hat", "ess_bulk"))
    for bad in (r_hat.nan_to_num(-math.inf, math.inf), -ess.nan_to_num(math.inf)):
        ranked = bad.topk(min(_WORST, bad.numel()))
        chosen += [after + i for i, b in zip(ranked.indices.tolist(), ranked.values.tolist()) if b > -math.inf]
    return list(dict.fromkeys(chosen))


def _table(s: Summary) -> list[str]:
    event, total = s["mean"].shape, s["mean"].numel()
    stacked = torch.stack([s[name].flatten() for name in _SHOWN]).cpu()

    def row(i: int) -> list[str]:
        v = dict(zip(_SHOWN, stacked[:, i].tolist()))
        error = v["mcse_mean"]
        cells = [_number(v[name], error) for name in ("mean", "sd")]
        cells += [f"{error:.2g}"] + [_number(v[name], error) for name in ("q5", "q95")]
        cells += [f"{v[name]:.0f}" for name in ("ess_bulk", "ess_tail")] + [f"{v['r_hat']:.3f}"]
        return [element_name(i, event), *cells]

    first = min(total, _FIRST)
    head = ["", "mean", "sd", "mcse", "5%", "95%", "ess_bulk", "ess_tail", "r_hat"]
    rows = [head] + [row(i) for i in range(first)]
    worst = _worst(s, first) if total > first else []
    rows += [row(i) for i in worst]
    widths = [max(len(cells[k]) for cells in rows) for k in range(len(head))]
    lines = ["  ".join([cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:])]) for cells in rows]
    if total > first:
        note = f"... {total - first} more elements" + (", the worst of them by R-hat and by bulk ESS:" if worst else "")
        lines.insert(1 + first, note)
    return [f"{s.draws} draws of {s.chains} chains, {total} elements", *lines]


def _lines(s: Summary) -> list[str]:
    lines = []
    if s.acceptance is not None and s.acceptance.numel():
        a = s.acceptance.double()
        lines.append(f"acceptance: mean {a.mean().item():.3f}, chains from {a.min().item():.3f} to {a.max().item():.3f}")
    if s.divergences is not None:
        lines.append(f"divergences: {int(s.divergences.sum())}")
    if s.bfmi is not None and s.bfmi.numel():
        lines.append(f"E-BFMI: smallest {s.bfmi.min().item():.2f}, mean {s.bfmi.mean().item():.2f}")
    return lines + [f"warning: {text}" for text in s.warnings]
