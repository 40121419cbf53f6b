"""What a statistical test found, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diagnostics.special import normal_quantile, normal_two_sided, student_quantile, student_two_sided
from ..ops import checks

POWER = 0.99
_WORST = 5


@dataclass(frozen=True)
class Comparison:
    """One quantity of a test.

    Attributes:
        name: what was compared.
        seen, expected, error: the two values and the standard error of their difference; NaN where the test has none.
        statistic, p_value: of this comparison alone.
        detectable: the effect that this comparison finds with probability 0.99.
    """

    name: str
    seen: float
    expected: float
    error: float
    statistic: float
    p_value: float
    detectable: float

    def __str__(self) -> str:
        values = "" if math.isnan(self.error) else f"{self.seen:.6g} against {self.expected:.6g} +- {self.error:.2g}, "
        return f"{self.name}: {values}statistic {self.statistic:.3g}, p = {self.p_value:.2g}"


@dataclass(frozen=True)
class TestResult:
    """Outcome of a test at false-alarm rate alpha; `check()` raises AssertionError where it failed.

    Attributes:
        name: of the test.
        statistic: of the worst comparison.
        p_value: of the whole test, min(1, m min_i p_i) over m comparisons (Bonferroni).
        alpha: the false-alarm rate.
        detectable: the smallest effect that is found with probability 0.99 in whichever comparison it shows.
        unit: what `detectable` is measured in.
        comparisons: all of them.
    """

    __test__ = False  # no test case, whatever its name tells pytest

    name: str
    statistic: float
    p_value: float
    alpha: float
    detectable: float
    unit: str
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """p_value >= alpha."""
        return self.p_value >= self.alpha

    def worst(self, most: int = _WORST) -> tuple[Comparison, ...]:
        """The comparisons of smallest p-value, the worst first."""
        return tuple(sorted(self.comparisons, key=lambda c: (c.p_value, -abs(c.statistic)))[:most])

    def check(self) -> TestResult:
        """The result itself, if the test passed; AssertionError with the readable form if not."""
        if not self.passed:
            raise AssertionError(str(self))
        return self

    def __str__(self) -> str:
        m = len(self.comparisons)
        over = f" over {m} comparisons" if m > 1 else ""
        head = f"{self.name} {'passed' if self.passed else 'FAILED'}: p = {self.p_value:.2g}{over} (alpha = {self.alpha:g})"
        power = f"  {self.detectable:.3g} {self.unit} is found with probability {POWER}"
        shown = [f"  {c}" for c in self.worst(1 if self.passed else _WORST) if self.passed or c.p_value * m < self.alpha]
        return "\n".join([head, power, *shown])


def combine(
    name: str, comparisons: Sequence[Comparison], alpha: float, unit: str, further: Sequence[Comparison] = ()
) -> TestResult:
    """One result of several comparisons by Bonferroni's bound; `further` ones count, but have a power of their own unit."""
    everything = (*comparisons, *further)
    worst = min(everything, key=lambda c: (c.p_value, -abs(c.statistic)))
    p = min(1.0, len(everything) * worst.p_value)
    return TestResult(name, worst.statistic, p, alpha, max(c.detectable for c in comparisons), unit, everything)


def compare_means(
    names: Sequence[str], seen: Tensor, expected: Tensor, error: Tensor, spread: Tensor, alpha: float, freedom: float = math.inf
) -> list[Comparison]:
    """(seen - expected) / error against a normal, or Student's distribution of `freedom` degrees. All # (m,)

    `alpha` is one comparison's; `spread` the standard deviation in which the detectable shift is told.
    """
    tail = normal_two_sided if math.isinf(freedom) else lambda t: student_two_sided(t, freedom)
    critical = normal_quantile(1.0 - alpha / 2.0) if math.isinf(freedom) else student_quantile(alpha, freedom)
    reach = critical + normal_quantile(POWER)
    found = []
    for label, a, b, e, s in zip(names, *(t.double().cpu().tolist() for t in (seen, expected, error, spread))):
        difference = a - b
        if math.isfinite(difference) and not e > 0.0:
            z = 0.0 if abs(difference) <= 1e-12 * max(abs(a), abs(b)) else math.copysign(math.inf, difference)
        else:
            z = difference / e if math.isfinite(difference) else math.inf
        p = 0.0 if math.isinf(z) else tail(z)
        found.append(Comparison(label, a, b, e, z, p, reach * e / s if s > 0.0 else 0.0))
    return found


def failure(name: str, why: str, alpha: float, unit: str) -> TestResult:
    """A test that fails for a reason that needs no statistics."""
    return combine(name, [Comparison(why, math.nan, math.nan, math.nan, math.inf, 0.0, 0.0)], alpha, unit)


def check_alpha(alpha: Any) -> float:
    """A false-alarm rate."""
    alpha = checks.number(alpha, "alpha")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha:g}")
    return alpha


def check_size(value: Any, name: str, low: int = 1) -> int:
    """An int of at least `low`."""
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return value


def not_finite(x: Tensor) -> int:
    """How many chains hold NaN or infinity. x # (n, *event)"""
    if not x.is_floating_point():
        return 0
    return int((~torch.isfinite(x).reshape(x.shape[0], -1).all(1)).sum())
