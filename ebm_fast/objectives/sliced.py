"""Score matching along random directions: Hutchinson's trace, sliced score matching, and its finite differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.scores import Model, ScoreFunction, ScoreObjective, check_mode, half_square, inner
from ebm_fast.ops import checks

PROJECTIONS = ("rademacher", "gaussian", "sphere")


def draw_projections(
    x: Tensor,  # (n, *event)
    num_projections: int,
    kind: str,
    **counter: Any,
) -> Tensor:  # (n, num_projections, *event)
    """Random directions v with E v = 0 and E v v' = I: signs, standard normals, or uniform on the sphere of radius sqrt(d).

    Those of state i depend on (seed, step, chain_offset + i) alone. `counter`: seed, step, purpose, chain_offset.
    """
    v = torch.empty(len(x), num_projections, *x.shape[1:], dtype=x.dtype, device=x.device)
    if kind == "rademacher":
        return ops.rademacher_(v, **counter)
    ops.normal_(v, **counter)
    if kind == "sphere":
        rows = v.view(*v.shape[:2], -1)
        norm = torch.linalg.vector_norm(rows, dim=2, keepdim=True, dtype=wide(rows[:0]).dtype)
        rows.mul_((math.sqrt(rows.shape[2]) / norm).to(v.dtype))
    return v


def sliced_score_matching_loss(
    model: Model,
    x: Tensor,  # (n, *event)
    projections: Tensor,  # (n, m, *event)
    condition: Mapping[str, Any] | None = None,
    *,
    variance_reduced: bool = False,
    mode: str = "auto",
) -> Tensor:  # ()
    """L = mean_ik 1/2 (v_ik' s(x_i))^2 + v_ik' (ds/dx)(x_i) v_ik; variance-reduced, 1/2 |s(x_i)|^2 takes the square's place.

    For directions with E v v' = I both have the implicit loss as their expectation over v; the reduced form is
    implicit score matching with Hutchinson's estimate of the trace. Raises ValueError for projections of another shape.
    Source: Song, Garg, Shi, Ermon 2019, eqs. (7), (8); thesis (2.8), (2.9).
    """
    _check_projections(x, projections)
    return _sliced(ScoreFunction(model), x, projections, condition or {}, variance_reduced, check_mode(mode))[0]


def finite_difference_loss(
    model: Model,
    x: Tensor,  # (n, *event)
    projections: Tensor,  # (n, m, *event)
    step: float,
    condition: Mapping[str, Any] | None = None,
) -> Tensor:  # ()
    """L = mean 1/2 D1^2 + D2 with differences along v: of f = -E, D1 = (f(x + hv) - f(x - hv)) / 2h and
    D2 = (f(x + hv) + f(x - hv) - 2 f(x)) / h^2; of a score network, D1 = v'(s(x + hv) + s(x - hv)) / 2 and
    D2 = v'(s(x + hv) - s(x - hv)) / 2h.

    Sliced score matching up to O(h^2), from values alone: one ordinary backward pass trains it.
    Raises ValueError for projections of another shape or a step that is not above 0.
    Source: Pang, Xu, Li, Song, Ermon, Zhu 2020, with v of unit variance and h = epsilon / sqrt(d) in its notation.
    """
    _check_projections(x, projections)
    return _finite_difference(ScoreFunction(model), x, projections, _positive_step(step), condition or {})[0]


class SlicedScoreMatching(ScoreObjective):
    """L = E_data E_v 1/2 (v's(x))^2 + v'(ds/dx)(x) v: scores matched along random directions v.

    Args:
        model: energy E(x) -> (n,), whose score is -grad E, or score network s(x) -> (n, *event).
        num_projections: directions for each state.
        projection: "gaussian", "rademacher" (signs) or "sphere" (of radius sqrt(d)); E v v' = I for each.
        variance_reduced: 1/2 |s|^2, the expectation over v, in place of 1/2 (v's)^2 (SSM-VR).
        mode: "reverse" (two backward passes), "forward" (forward-over-reverse), "auto": reverse for up to 8 directions.
        seed: 64 bits; None draws one from torch's generator. Iteration t uses step t.
        chain_offset: index of the batch's first state; states of other indices have other directions.
        check: as of `ContrastiveDivergence`.

    Metrics: score_norm (mean |s|), trace (its estimate).
    Raises TypeError or ValueError naming the argument, FloatingPointError for a batch or loss that is not finite.
    Source: Song, Garg, Shi, Ermon 2019; thesis (2.9).
    """

    _settings: ClassVar[tuple[str, ...]] = ("num_projections", "projection", "variance_reduced")

    def __init__(
        self, model: Model, *, num_projections: int = 1, projection: str = "gaussian", variance_reduced: bool = False,
        mode: str = "auto", seed: int | None = None, chain_offset: int = 0, check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, seed=seed, chain_offset=chain_offset, check=check)
        check_count(num_projections, "num_projections", 1)
        if projection not in PROJECTIONS:
            raise ValueError(f"projection: expected one of {', '.join(PROJECTIONS)}, got {projection!r}")
        self.num_projections, self.projection = num_projections, projection
        self.variance_reduced, self.mode = variance_reduced, check_mode(mode)

    def _directions(self, x: Tensor) -> Tensor:  # (n, m, *event)
        return draw_projections(x, self.num_projections, self.projection, **self._counter("projection"))

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, half, trace = _sliced(
            self.score, x, self._directions(x), condition, self.variance_reduced, self.mode
        )
        return loss, {"score_norm": (2.0 * half).sqrt().mean(), "trace": trace}


class HutchinsonScoreMatching(SlicedScoreMatching):
    """L = E_data 1/2 |s(x)|^2 + E_v v'(ds/dx)(x) v: implicit score matching with Hutchinson's estimate of the trace.

    The same as variance-reduced sliced score matching; with signs as directions (the default) the diagonal of the Jacobian
    enters without noise. Arguments and metrics otherwise as `SlicedScoreMatching`. Source: Hutchinson 1989; thesis (2.8).
    """

    def __init__(self, model: Model, *, projection: str = "rademacher", **options: Any) -> None:
        if "variance_reduced" in options:
            raise TypeError("variance_reduced: Hutchinson's form is the reduced one; SlicedScoreMatching has both")
        super().__init__(model, projection=projection, variance_reduced=True, **options)


class FiniteDifferenceScoreMatching(SlicedScoreMatching):
    """Sliced score matching by differences of values at x + h v and x - h v (and x, for an energy), in one batch.

    No derivative in x is taken: the cost is that of 3 (energy) or 2 (score network) evaluations a direction and one
    ordinary backward pass, and torch.compile, checkpointing and every network that trains at all are fine.

    Args:
        model: energy or score network. Its values for a state must not depend on the others of the batch.
        step: h. The error falls as h^2; the rounding error of the energies' second difference grows as 1 / h^2, so that
            float32 wants h of 0.02 to 0.1 times the scale of the data and float64 may go to 1e-3.
        The others as of `SlicedScoreMatching`.

    Metrics: trace (its estimate).
    Source: Pang, Xu, Li, Song, Ermon, Zhu 2020.
    """

    _settings = ("step",)

    def __init__(self, model: Model, step: float = 0.05, **options: Any) -> None:
        for name in ("variance_reduced", "mode"):
            if name in options:
                raise TypeError(f"{name}: finite differences have no such option")
        super().__init__(model, **options)
        self.step = _positive_step(step)

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, trace = _finite_difference(self.score, x, self._directions(x), self.step, condition)
        return loss, {"trace": trace}

    def state_dict(self) -> dict[str, Any]:
        """As the base class, and whether the model is an energy, which a resumed run cannot know before its first batch."""
        return {**super().state_dict(), "is_energy": self.score.is_energy}

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "is_energy")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.score.is_energy = state["is_energy"]


def _positive_step(step: float) -> float:
    if not (step := checks.number(step, "step", low=0.0)) > 0.0:
        raise ValueError(f"step must be above 0, got {step}")
    return step


def _check_projections(x: Tensor, v: Tensor) -> None:
    if v.dim() != x.dim() + 1 or v.shape[:1] != x.shape[:1] or v.shape[2:] != x.shape[1:] or v.shape[1] == 0:
        raise ValueError(
            f"projections: expected ({len(x)}, m, {', '.join(map(str, x.shape[1:]))}) with m >= 1, got {tuple(v.shape)}"
        )


def _sliced(
    score: ScoreFunction, x: Tensor, projections: Tensor, condition: Mapping[str, Any], variance_reduced: bool, mode: str
) -> tuple[Tensor, Tensor, Tensor]:  # (), (n,), ()
    """The loss, and detached: 1/2 |s|^2 of each state and the trace."""
    v = projections.transpose(0, 1)
    s, q = score.quadratic(x, v, condition, mode)
    trace, half = q.mean(), half_square(s)
    square = half.mean() if variance_reduced else 0.5 * inner(v, s.expand_as(v)).square().mean()
    return square + trace, half.detach(), trace.detach()


def _finite_difference(
    score: ScoreFunction, x: Tensor, projections: Tensor, step: float, condition: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The loss, and detached the trace."""
    n, m = projections.shape[:2]
    v = projections.transpose(0, 1)
    centre = 0 if score.is_energy is False else 1
    states = x.new_empty(2 * m + centre, *x.shape)
    torch.add(x, v, alpha=step, out=states[:m])
    torch.add(x, v, alpha=-step, out=states[m : 2 * m])
    if centre:
        states[2 * m] = x
    repeated = {name: value.repeat(len(states), *[1] * (value.dim() - 1)) for name, value in condition.items()}
    out = wide(score.output(states.flatten(0, 1), repeated))
    out = out.reshape(len(states), n, *out.shape[1:])
    plus, minus = out[:m], out[m : 2 * m]
    if score.is_energy:
        first, second = energy_differences(plus, minus, out[2 * m], step)
    else:
        first, second = score_differences(plus, minus, v, step)
    trace = second.mean()
    return 0.5 * first.square().mean() + trace, trace.detach()


def energy_differences(plus: Tensor, minus: Tensor, centre: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """v's and v'Js v from energies at x + hv, x - hv (m, n) and x (n,). # (m, n) both"""
    # Differences of neighbours first: their sum has the size of the result, not of the energies.
    return (minus - plus) / (2.0 * h), ((centre - plus) + (centre - minus)) / (h * h)


def score_differences(plus: Tensor, minus: Tensor, v: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """v's and v'Js v from scores at x + hv and x - hv (m, n, *event). # (m, n) both"""
    return 0.5 * inner(v, plus + minus), inner(v, plus - minus) / (2.0 * h)
