"""Score matching: explicit, against a known score, and implicit, with the exact trace of the score's Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.engine.run import check_count
from ebm_fast.objectives.scores import Model, ScoreFunction, ScoreObjective, check_mode, half_square


def explicit_score_matching_loss(
    score: Tensor,  # (n, *event)
    data_score: Tensor,  # (n, *event)
) -> Tensor:  # ()
    """L = mean_i 1/2 |s(x_i) - grad log p_data(x_i)|^2, the Fisher divergence over data x_i.

    Raises ValueError for scores of different shapes. Source: Hyvarinen 2005; thesis (2.6).
    """
    if score.shape != data_score.shape or score.dim() < 2 or len(score) == 0:
        raise ValueError(
            "score, data_score: expected one shape (n, *event) with n >= 1, got "
            f"{tuple(score.shape)} and {tuple(data_score.shape)}"
        )
    return half_square(score - data_score).mean()


def implicit_score_matching_loss(
    model: Model,
    x: Tensor,  # (n, *event)
    condition: Mapping[str, Any] | None = None,
    *,
    chunk: int = 64,
    mode: str = "auto",
) -> Tensor:  # ()
    """L = mean_i 1/2 |s(x_i)|^2 + tr (ds/dx)(x_i): the explicit loss but for a constant, without the score of the data.

    Arguments as of `ImplicitScoreMatching`. Source: Hyvarinen 2005; thesis, theorem 2.1.
    """
    check_count(chunk, "chunk", 1)
    return _implicit(ScoreFunction(model), x, condition or {}, chunk, check_mode(mode))[0]


class ExplicitScoreMatching(ScoreObjective):
    """L = E_data 1/2 |s(x) - grad log p_data(x)|^2 for data whose score is known.

    For densities of closed form, for distilling one model into another, and as the truth beside the other objectives.

    Args:
        model: energy E(x) -> (n,), whose score is -grad E, or score network s(x) -> (n, *event).
        data_score: the known score: a function (n, *event) -> (n, *event), or an energy (n, *event) -> (n,) of the data's
            density. No gradient flows into it; a condition y is not passed to it.
        seed, chain_offset, check: as of `ContrastiveDivergence`; this objective draws no numbers.

    Metrics: score_norm (mean |s|).
    Raises TypeError or ValueError naming the argument, FloatingPointError for a batch or loss that is not finite.
    Source: Hyvarinen 2005; thesis (2.6).
    """

    def __init__(
        self, model: Model, data_score: Callable[[Tensor], Tensor], *, seed: int | None = 0, chain_offset: int = 0,
        check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, seed=seed, chain_offset=chain_offset, check=check)
        if not callable(data_score) or isinstance(data_score, type):
            raise TypeError(f"data_score: expected a score function or an energy, got {data_score!r}")
        self.data_score = data_score
        # An energy of ours has its gradient in closed form.
        self._known = ScoreFunction(data_score)
        self._gradient = getattr(data_score, "grad", None) if hasattr(data_score, "energy_and_grad") else None

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            known = self._known(x) if self._gradient is None else -self._gradient(x)
        s = self.score(x, condition)
        return explicit_score_matching_loss(s, known), {"score_norm": _mean_norm(half_square(s))}


class ImplicitScoreMatching(ScoreObjective):
    """L = E_data 1/2 |s(x)|^2 + tr (ds/dx)(x), the trace exact: d directional derivatives for events of d numbers.

    Args:
        model: energy E(x) -> (n,), whose score is -grad E, or score network s(x) -> (n, *event). It must be twice
            differentiable in x as an energy (no ReLU: its second derivative is 0), once as a score network.
        chunk: directions that are differentiated at once. Where d is larger, the model is evaluated d / chunk times, and in a
            torch module each chunk's gradient is added up in the forward pass, so that one chunk's graph is in memory
            at a time (the loss then has no second derivative); other callables keep all graphs.
        mode: "reverse" (two backward passes), "forward" (forward-over-reverse, for which every operation of the model needs
            forward-mode derivatives), or "auto": reverse for up to 8 directions at once.
        seed, chain_offset, check: as of `ContrastiveDivergence`; this objective draws no numbers.

    Metrics: score_norm (mean |s|), trace.
    Raises TypeError or ValueError naming the argument, FloatingPointError for a batch or loss that is not finite.
    Source: Hyvarinen 2005; thesis, theorem 2.1.
    """

    def __init__(
        self, model: Model, *, chunk: int = 64, mode: str = "auto", seed: int | None = 0, chain_offset: int = 0,
        check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(model, seed=seed, chain_offset=chain_offset, check=check)
        check_count(chunk, "chunk", 1)
        self.chunk, self.mode = chunk, check_mode(mode)

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, half, trace = _implicit(self.score, x, condition, self.chunk, self.mode)
        return loss, {"score_norm": _mean_norm(half), "trace": trace}


def _mean_norm(half: Tensor) -> Tensor:  # (n,) -> ()
    return (2.0 * half.detach()).sqrt().mean()


def _implicit(
    score: ScoreFunction, x: Tensor, condition: Mapping[str, Any], chunk: int, mode: str
) -> tuple[Tensor, Tensor, Tensor]:  # (), (n,), ()
    """The loss, and detached: 1/2 |s|^2 of each state and the mean trace."""
    d = x[0].numel()
    halves: list[Tensor] = []
    traces: list[Tensor] = []

    def part(first: int) -> Tensor:
        basis = _basis(x, first, min(first + chunk, d))
        s, q = score.quadratic(x, basis, condition, mode)
        trace = q.sum(0).mean()
        traces.append(trace.detach())
        if first:
            return trace
        half = half_square(s)
        halves.append(half.detach())
        return half.mean() + trace

    trained: list[Tensor] = []
    if isinstance(score.model, nn.Module) and chunk < d and torch.is_grad_enabled():
        trained = [p for p in score.model.parameters() if p.requires_grad]
    if trained:
        loss = _Accumulated.apply(part, range(0, d, chunk), *trained)
    else:
        loss = torch.stack([part(first) for first in range(0, d, chunk)]).sum()
    return loss, halves[0], torch.stack(traces).sum()


def _basis(x: Tensor, first: int, last: int) -> Tensor:  # (last - first, n, *event)
    """Unit vectors e_first ... e_(last-1), the same for every state."""
    rows = torch.zeros(last - first, x[0].numel(), dtype=x.dtype, device=x.device)
    rows.diagonal(first).fill_(1.0)
    return rows.view(-1, 1, *x.shape[1:]).expand(-1, *x.shape)


class _Accumulated(torch.autograd.Function):
    """sum_k part(k), whose gradient in the parameters is taken part by part as the sum is formed."""

    @staticmethod
    def forward(ctx: Any, part: Callable[[int], Tensor], keys: range, *parameters: Tensor) -> Tensor:
        total: Tensor | None = None
        gradients: list[Tensor | None] = [None] * len(parameters)
        for key in keys:
            with torch.enable_grad():
                value = part(key)
            total = value.detach() if total is None else total + value.detach()
            found = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else ()
            for i, gradient in enumerate(found):
                kept = gradients[i]
                if gradient is not None:
                    gradients[i] = gradient if kept is None else kept + gradient
        ctx.save_for_backward(*gradients)
        assert total is not None
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return None, None, *(None if g is None else grad * g for g in ctx.saved_tensors)
