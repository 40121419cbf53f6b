"""Geweke's joint-distribution test of a posterior sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .functions import Scores, as_functions, evaluate
from .invariance import CALIBRATION, UNIT, compare_with_start
from .kernels import seeded
from .result import TestResult, check_alpha, check_size, combine, failure, not_finite

Joint = tuple[Tensor, Tensor]


def _pair(value: Any, n: int, name: str) -> Joint:
    """(theta, y), both (n, ...)."""
    fine = isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(t, Tensor) for t in value)
    if not fine or any(t.ndim == 0 or t.shape[0] != n for t in value):
        got = tuple(tuple(t.shape) for t in value) if fine else type(value).__name__
        raise ValueError(f"{name} must return (theta, y), tensors with {n} rows each, got {got}")
    return value[0].detach(), value[1].detach()


def _joined(theta: Tensor, y: Tensor) -> Tensor:
    """(n, number of elements of both)."""
    return torch.cat([theta.reshape(theta.shape[0], -1).double(), y.reshape(y.shape[0], -1).double()], 1)


def geweke_test(
    marginal_conditional: Callable[[int], Joint],
    successive_conditional: Callable[[Tensor, Tensor], Joint],
    functions: Any = None,
    *,
    num_steps: int = 10,
    n: int = 10000,
    alpha: float = 1e-6,
    seed: int = 0,
    reference: int = 4,
) -> TestResult:
    """Two ways to draw from p(theta) p(y | theta) must agree: at once, and by turns y ~ p(y | theta), theta ~ K(. | theta, y).

    K is the posterior sampler under test, run for a step or a few. A fault of K, of the prior or of the likelihood moves the
    joint law of the second way away from that of the first, also where no posterior is known in closed form. n independent
    chains start at joint draws, so that no burn-in is needed; test functions are averaged over the steps.

    Args:
        marginal_conditional: n -> (theta, y), independent joint draws: theta from the prior, y given theta.
        successive_conditional: (theta, y) -> (theta', y'): new data given theta, then the kernel on theta given the data (or the
            kernel first); tensors (n, ...), one row per chain.
        functions: a function f(theta, y) -> (n,) or (n, j), or a dict of them; None: normal scores of the elements of theta
            and y, their squares and products, as `invariance_test`.
        num_steps: number of turns.
        n: number of chains.
        alpha: false-alarm rate of the whole test (Bonferroni).
        seed: torch's generators start from it inside.
        reference: further joint draws to compare with, as a multiple of n.

    Returns:
        TestResult; `detectable` is the shift of E f in standard deviations of f that is found with probability 0.99, if it is
        there from the first step on.

    Raises:
        TypeError, ValueError: a bad argument, or functions that return wrong shapes.

    Source: Geweke 2004, "Getting it right: joint distribution tests of posterior simulators".
    """
    alpha = check_alpha(alpha)
    for value, name in ((num_steps, "num_steps"), (reference, "reference")):
        check_size(value, name)
    check_size(n, "n", 100)
    for f, name in ((marginal_conditional, "marginal_conditional"), (successive_conditional, "successive_conditional")):
        if not callable(f):
            raise TypeError(f"{name} must be a function, got {type(f).__name__}")
    given = None if functions is None else as_functions(functions)
    spare = CALIBRATION if given is None else 0
    with seeded(seed), torch.no_grad():
        total = n * (1 + reference) + spare
        theta, y = _pair(marginal_conditional(total), total, "marginal_conditional")
        sizes = theta[0].numel(), y[0].numel()
        labels = [f"{name}[{k}]" for name, size in zip(("theta", "y"), sizes) for k in range(size)]
        scores = Scores(_joined(theta, y)[n * (1 + reference) :], labels=labels) if given is None else None

        def features(theta: Tensor, y: Tensor) -> tuple[list[str], Tensor]:
            return scores.features(_joined(theta, y)) if scores is not None else evaluate(given or {}, theta, y)

        names, before = features(theta[:n], y[:n])
        other = features(theta[n : n * (1 + reference)], y[n : n * (1 + reference)])[1]
        now = theta[:n].clone(), y[:n].clone()
        average = torch.zeros_like(before)
        for _ in range(num_steps):
            now = _pair(successive_conditional(*now), n, "successive_conditional")
            lost = max(not_finite(t) for t in now)
            if lost:
                return failure("Geweke", f"{lost} of {n} chains come to NaN or infinity", alpha, UNIT)
            average += features(*now)[1] / num_steps
    return combine("Geweke", compare_with_start(names, average, before, other, alpha / len(names)), alpha, UNIT)
