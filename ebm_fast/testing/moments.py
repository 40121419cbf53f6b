"""Means of test functions along chains against exact values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diagnostics.convergence import check_samples, ess
from ..diagnostics.summary import element_name
from .functions import as_functions
from .result import TestResult, check_alpha, combine, compare_means, failure

_MANY_CHAINS, _FEWEST, _MOST = 64, 16, 512
_BATCH = 20  # autocorrelation times a batch: the variance of its mean is then right to 1/20 and better


def _values(samples: Tensor, functions: Any) -> tuple[list[str], Tensor]:
    """Names and values (draws, chains, m) in float64."""
    draws, chains = samples.shape[:2]
    event = samples.shape[2:]
    if functions is None:
        flat = samples.detach().double().reshape(draws, chains, math.prod(event))
        return [element_name(k, event) for k in range(flat.shape[2])], flat
    names, columns = [], []
    states = samples.detach().reshape(draws * chains, *event)
    for name, f in as_functions(functions).items():
        value = f(states)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != draws * chains:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"functions[{name!r}] must return (n,) or (n, k) numbers for n = {draws * chains} states, got {got}")
        value = value.detach().double().reshape(draws, chains, -1)
        names += [name] if value.shape[2] == 1 else [f"{name}[{k}]" for k in range(value.shape[2])]
        columns.append(value)
    return names, torch.cat(columns, 2)


def _exact(expected: Any, what: str, functions: Any, samples: Tensor, m: int) -> Tensor:
    """Exact values (m,), of a tensor like the event, a number, or a dict with a value per function."""
    if functions is not None and isinstance(expected, Mapping):
        named = as_functions(functions)
        missing = set(named) ^ set(expected)
        if missing:
            raise ValueError(f"{what} and functions must have the same names; only one of them has {sorted(map(str, missing))}")
        flat = torch.cat([torch.as_tensor(expected[name]).detach().double().cpu().reshape(-1) for name in named])
    elif isinstance(expected, Mapping):
        raise TypeError(f"{what} may be a dict only together with functions")
    else:
        given = torch.as_tensor(expected).detach().double().cpu()
        shape = samples.shape[2:] if functions is None else (m,)
        try:
            flat = given.expand(shape).reshape(-1)
        except RuntimeError:
            raise ValueError(f"{what} must have shape {tuple(shape)} or be a number, got {tuple(given.shape)}") from None
    if flat.numel() != m:
        raise ValueError(f"{what} holds {flat.numel()} numbers for {m} test functions")
    if not bool(torch.isfinite(flat).all()):
        raise ValueError(f"{what} must be finite")
    return flat.to(samples.device)


def mcse_z_test(
    draws: Any,
    expected: Any,
    functions: Any = None,
    *,
    expected_error: Any = 0.0,
    alpha: float = 1e-6,
) -> TestResult:
    """t = (mean f - E f) / s.e.: means along chains against exact expectations, with an error that knows of autocorrelation.

    The standard error is that of batch means: each chain's draws are cut into batches of at least 20 autocorrelation times
    (after `diagnostics.ess`), whose means are nearly independent; t has Student's distribution with one degree of freedom less
    than there are batches. With 64 chains and more, whole chains are the batches and nothing is assumed of the
    autocorrelation.

    Args:
        draws: (draws, chains, *event), or what `ebm_fast.sample` returns.
        expected: E f: a number or tensor like the event; with `functions`, a tensor of as many numbers or a dict with their
            names.
        functions: None for the elements themselves; or a function of states (n, *event) -> (n,) or (n, j), or a dict of them.
        expected_error: standard error of `expected`, likewise; 0 where it is exact.
        alpha: false-alarm rate of the whole test (Bonferroni).

    Returns:
        TestResult; `detectable` is the shift in standard deviations of f that is found with probability 0.99.

    Raises:
        ValueError: too few effective draws to tell an error from noise (16 batches are needed); or a bad argument.

    A bias from the start counts as a fault: discard the warm-up. Source: Glynn and Whitt 1991 (batch means).
    """
    alpha = check_alpha(alpha)
    samples = draws if isinstance(draws, Tensor) else getattr(draws, "samples", draws)
    check_samples(samples, "draws")
    length, chains = samples.shape[:2]
    if not samples.numel():
        raise ValueError(f"draws holds nothing: shape {tuple(samples.shape)}")
    names, values = _values(samples, functions)
    m = len(names)
    exact = _exact(expected, "expected", functions, samples, m)
    further = _exact(expected_error, "expected_error", functions, samples, m)
    unit = "standard deviations of a test function"
    lost = int((~torch.isfinite(values)).any(2).sum())
    if lost:
        return failure("mean values", f"{lost} of {length * chains} draws give NaN or infinity", alpha, unit)
    pieces = 1
    if chains < _MANY_CHAINS:
        effective = ess(values, "mean").min().item() if length >= 4 else 0.0
        pieces = max(1, min(int(effective / (_BATCH * chains)), length, _MOST // chains))
        if pieces * chains < _FEWEST:
            raise ValueError(
                f"draws are worth {effective:.0f} independent ones, too few for {_FEWEST} batches of {_BATCH}: run longer, or "
                f"{_MANY_CHAINS} chains"
            )
    size = length // pieces
    batches = values[length - pieces * size :].reshape(pieces, size, chains, m).mean(1).reshape(pieces * chains, m)
    error = (batches.var(0) / batches.shape[0] + further.square()).sqrt()
    spread = values.reshape(-1, m).std(0)
    found = compare_means(names, batches.mean(0), exact, error, spread, alpha / m, batches.shape[0] - 1)
    return combine("mean values", found, alpha, unit)
