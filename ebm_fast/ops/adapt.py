"""What a warm-up learns from one proposal of all chains: step size, diagonal mass, trajectory length, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import bound, define
from .metropolis import COUNTERS

_WRITTEN = ("average", "average_count", "step_size", "mean", "squares", "count", "search", "length", "before", "space")
_READ = ("proposal", "momentum", "scale")


def _written(x: Tensor, counters: Tensor, args: tuple[Any, ...]) -> list[Tensor]:
    """What a call writes, whose memory it has to itself."""
    written = tuple(zip(_WRITTEN, args))
    checks.refuse_unsafe(written, (("x", x), ("counters", counters), *zip(_READ, args[len(_WRITTEN) :])))
    return [t for _, t in written if t is not None]


def _impl(x: Tensor, counters: Tensor, *args: Any) -> None:
    if x.numel():
        written = _written(x, counters, args)
        route("adapt_", x, args[-1])(x, counters, *args[:-1])
        increment_version(written)


_op = define(
    "adapt_(Tensor x, Tensor counters, Tensor(a!)? average, Tensor(b!)? average_count, Tensor(c!)? step_size, Tensor(d!)? mean, "
    "Tensor(e!)? squares, Tensor(f!)? count, Tensor(g!)? search, Tensor(h!)? length, Tensor(i!)? before, Tensor(j!)? space, "
    "Tensor? proposal, Tensor? momentum, Tensor? scale, float target, float shrinkage, float longest, float least, "
    "float fraction, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def adapt_(
    x: Tensor,  # (n, *event)
    counters: Tensor,  # (n, 5)
    *,
    average: Tensor | None = None,  # (4, groups)
    average_count: Tensor | None = None,  # ()
    step_size: Tensor | None = None,  # () of one group, else (n,)
    target: float = 0.8,
    shrinkage: float = 0.2,
    least: float = 0.0,
    mean: Tensor | None = None,  # (*event)
    squares: Tensor | None = None,  # (*event)
    count: Tensor | None = None,  # ()
    search: Tensor | None = None,  # (4,)
    length: Tensor | None = None,  # ()
    before: Tensor | None = None,  # (n, *event)
    proposal: Tensor | None = None,  # (n, *event)
    momentum: Tensor | None = None,  # (n, *event)
    scale: Tensor | None = None,  # (*event)
    fraction: float = 0.5,
    longest: float = 1000.0,
    backend: str | None = None,
) -> None:
    """log e <- mu - sqrt(t) / shrinkage * mean_{s <= t} (target - a_s);  mean and squares by Chan's merger with x;
    log T <- log T + Adam(mean_i w_i (|x' - m'|^2 - |x - m|^2) (x' - m') v * h T): each part where its tensors are given.

    Steps of a warm-up learn by it, after each decision, in this order: trajectory length (ChEES), step size (dual averaging),
    mass. What is written is float64 but for `step_size` and `before`, which have x's dtype; everything stays on x's device.

    Args:
        x: states after the decision (n, *event), float32 or float64, contiguous.
        counters: float64 (n, 5) of `metropolis_`, whose fourth column is a, the acceptance probability of the last proposal.
        average, average_count, step_size: log e, its average (of later iterates the more), mean error and mu of each group of
            chains, chain i in group i mod groups; t; and exp(log e), written. a is the mean over the group, or, where
            `least` > 0, the harmonic mean of probabilities that count as at least that.
        mean, squares, count: mean and sum of squared deviations of every element over all states so far, and their number.
        search, length: log T, its average, Adam's second moment, its count; and T, within e and `longest` e (one group).
        before, proposal, momentum: state before the proposal (replaced by x), proposal x' and whitened momentum v there.
        scale: sigma (*event): the criterion looks at x / sigma.
        fraction: h; the trajectory had the length h T.
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or shape, or one that is written overlaps another; nothing is then
            changed.

    Source: Hoffman and Gelman 2014, algorithm 5 (t0 = 10, kappa = 0.75); Chan, Golub and LeVeque 1983; Hoffman, Radul and
    Sountsov 2021, eqs. 11-14 and algorithm 1.
    """
    tensors = (average, average_count, step_size, mean, squares, count, search, length, before, _space(x, search), proposal,
               momentum, scale)  # fmt: skip
    numbers = _checked(x, counters, tensors, target, shrinkage, longest)
    _op(x, counters, *tensors, *numbers, checks.number(least, "least", low=0.0), checks.number(fraction, "fraction", low=0.0),
        backend or "auto")  # fmt: skip


def adapt_steps(x: Tensor, counters: Tensor, *, backend: str | None = None, target: float = 0.8, shrinkage: float = 0.2,
                longest: float = 1000.0, **tensors: Tensor | None) -> Callable[[float, float], None]:  # fmt: skip
    """f(least, fraction) that does what `adapt_` does with these arguments, for loops: checked here, once. Raises as `adapt_`."""
    tensors["space"] = _space(x, tensors.get("search"))
    given = tuple(tensors.get(name) for name in _WRITTEN + _READ)
    numbers = _checked(x, counters, given, target, shrinkage, longest)
    run, changed = bound("adapt_", _op, x, backend), _written(x, counters, given)

    def learn(least: float, fraction: float) -> None:
        run(x, counters, *given, *numbers, least, fraction)
        increment_version(changed)

    return learn


def _space(x: Tensor, search: Tensor | None) -> Tensor | None:
    """For weights of the chains, centres and scale."""
    if search is None or not x.numel():
        return None
    n = x.shape[0]
    return torch.empty(n + 3 * (x.numel() // n), dtype=torch.float64, device=x.device)


def _checked(x: Tensor, counters: Tensor, tensors: tuple[Tensor | None, ...], target: float, shrinkage: float,
             longest: float) -> tuple[float, float, float]:  # fmt: skip
    average, average_count, step_size, mean, squares, count, search, length, before, _, proposal, momentum, scale = tensors
    checks.exact_state(x, "x")
    n, event, double, device = x.shape[0], tuple(x.shape[1:]), torch.float64, x.device
    checks.exactly(counters, "counters", (n, COUNTERS), double, device)
    parts = (
        ("average, average_count and step_size", (average, average_count, step_size)),
        ("mean, squares and count", (mean, squares, count)),
        ("search, length, before, proposal and momentum", (search, length, before, proposal, momentum)),
    )
    for names, part in parts:
        if 0 < sum([t is None for t in part]) < len(part):
            raise ValueError(f"{names} go together: give all or none of them")
    if average is None and mean is None:
        raise ValueError("there is nothing to learn: give average or mean, each with its companions")
    if scale is not None and search is None:
        raise ValueError("scale is that of the search for a trajectory length; leave it out without search")
    if average is not None:
        groups = average.shape[-1] if isinstance(average, Tensor) and average.ndim == 2 else 0
        if groups < 1 or n % groups:
            raise ValueError(f"average must have shape (4, groups) with groups dividing the {n} chains, got {_shape(average)}")
        checks.exactly(average, "average", (4, groups), double, device)
        checks.exactly(average_count, "average_count", (), double, device)
        checks.exactly(step_size, "step_size", () if groups == 1 else (n,), x.dtype, device)
    if mean is not None:
        for name, t in (("mean", mean), ("squares", squares)):
            checks.exactly(t, name, event, double, device)
        checks.exactly(count, "count", (), double, device)
    if search is not None:
        if average is None or average.shape[1] != 1:
            raise ValueError("search adapts the trajectory beside one step size: give average of shape (4, 1)")
        checks.exactly(search, "search", (4,), double, device)
        checks.exactly(length, "length", (), double, device)
        checks.all_like(x, (("before", before), ("proposal", proposal), ("momentum", momentum)), required=3)
    checks.event_like(scale, "scale", x)
    return (checks.number(target, "target"), checks.number(shrinkage, "shrinkage", low=1e-30),
            checks.number(longest, "longest", low=1.0))  # fmt: skip


def _shape(t: Any) -> Any:
    return tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
