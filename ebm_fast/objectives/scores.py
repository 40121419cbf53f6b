"""Scores of energies and of score networks alike, their Jacobians in given directions, and what score objectives share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ebm_fast.objectives.contrastive import Batch, _split
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.numerics import wide

MODES = ("auto", "forward", "reverse")
_FEW = 8  # directions up to which two backward passes were measured to be cheaper than forward-over-reverse

Model = Callable[..., Tensor]
"""An energy (n, *event) -> (n,) or a score network (n, *event) -> (n, *event); what it returns tells which"""


class ScoreFunction:
    """s(x) = -grad E(x) of an energy, or what a score network returns; and v'Js v.

    Which of the two the model is, its output's shape says: (n,) or that of x. Keyword tensors of `condition` are passed on.
    Results are differentiable in the model's parameters where gradients are enabled, and not in x.
    """

    def __init__(self, model: Model) -> None:
        if not callable(model) or isinstance(model, type):
            raise TypeError(
                f"model: expected an energy (n, *event) -> (n,) or a score network (n, *event) -> (n, *event), got {model!r}"
            )
        self.model = model
        self.is_energy: bool | None = None  # not known before the first call

    def output(self, x: Tensor, condition: Mapping[str, Any]) -> Tensor:  # (n, *event) -> (n,) or (n, *event)
        """model(x), checked."""
        out = self.model(x, **condition)
        if not isinstance(out, Tensor) or out.shape not in (x.shape, x.shape[:1]):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"model: expected energies ({len(x)},) or scores {tuple(x.shape)} for x {tuple(x.shape)}, got {got}"
            )
        self.is_energy = out.dim() == 1
        return out

    def __call__(self, x: Tensor, condition: Mapping[str, Any] | None = None) -> Tensor:  # (n, *event) both
        """s(x)."""
        condition = condition or {}
        if self.is_energy is False:
            return self.output(x, condition)
        if torch.compiler.is_compiling():  # which follows torch.func, but not autograd.grad
            return self._functional(x.detach(), condition)
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            s = self._score(leaf, condition, keep)
        return s if keep else s.detach()

    def _score(self, leaf: Tensor, condition: Mapping[str, Any], create_graph: bool) -> Tensor:
        out = self.output(leaf, condition)
        if not self.is_energy:
            return out
        if not out.requires_grad:
            raise ValueError(
                "model: its energies are detached from x and have no gradient; remove .detach(), torch.no_grad() and the like"
            )
        weights = -torch.ones_like(out)
        return torch.autograd.grad(
            out, leaf, weights, create_graph=create_graph, materialize_grads=True
        )[0]

    def _functional(self, x: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """s(x) by torch.func, for use inside of its transforms."""
        out, pull_back, *_ = torch.func.vjp(lambda at: self.output(at, condition), x)
        return pull_back(-torch.ones_like(out))[0] if self.is_energy else out

    def quadratic(
        self,
        x: Tensor,  # (n, *event)
        v: Tensor,  # (m, n, *event)
        condition: Mapping[str, Any] | None = None,
        mode: str = "auto",
    ) -> tuple[Tensor, Tensor]:  # (n, *event), (m, n)
        """s(x) and v_k' J v_k for J = ds/dx, each s and J at one evaluation of the model.

        `mode`: "reverse" takes v'J by one more backward pass for each k, "forward" takes J v by forward-mode
        differentiation over the gradient, for all k at once; "auto" is reverse for up to 8 directions.
        """
        condition = condition or {}
        few = len(v) <= _FEW and not torch.compiler.is_compiling()
        if mode == "reverse" or (mode == "auto" and few):
            return self._reverse(x, v, condition)
        return self._forward(x, v, condition)

    def _reverse(self, x: Tensor, v: Tensor, condition: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            s = self._score(leaf, condition, True)
            if not s.requires_grad:  # a constant score
                return s, s.new_zeros(v.shape[:2])
            # One pass after the other: batched by vmap it is no faster, and fails on some layers (group normalisation).
            jv = torch.stack([
                torch.autograd.grad(
                    s, leaf, direction, create_graph=keep, retain_graph=True, materialize_grads=True
                )[0]
                for direction in v.to(s.dtype)
            ])  # fmt: skip
            q = inner(v, jv)
        return (s, q) if keep else (s.detach(), q.detach())

    def _forward(self, x: Tensor, v: Tensor, condition: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        def product(direction: Tensor) -> Any:
            return torch.func.jvp(lambda at: self._functional(at, condition), (x.detach(),), (direction,))

        keep = torch.is_grad_enabled()
        # Several backward formulas (silu's) have forward-mode derivatives only where gradients are enabled.
        with torch.enable_grad():
            if len(v) == 1:
                s, jv = product(v[0])
                jv = jv.unsqueeze(0)
            else:
                # The point is not batched, so that s, and all that J v takes from it, is computed once.
                s, jv = torch.func.vmap(product, out_dims=(None, 0), randomness="same")(v)  # type: ignore[arg-type]
            q = inner(v, jv)
        return (s, q) if keep else (s.detach(), q.detach())


def inner(a: Tensor, b: Tensor) -> Tensor:  # (m, n, *event) both -> (m, n)
    """<a_ki, b_ki>, in float32 or wider."""
    return (wide(a) * wide(b)).flatten(2).sum(2)


def half_square(s: Tensor) -> Tensor:  # (n, *event) -> (n,)
    """1/2 |s_i|^2, in float32 or wider."""
    return 0.5 * wide(s).flatten(1).square().sum(1)


def check_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    return mode


class ScoreObjective(CountedObjective):
    """What the score-matching objectives share: the score of the model, seed and iteration, finiteness, exact resume.

    `objective(batch)` returns (loss, metrics); batch is x (n, *event), or (x, y) for a model called as model(x, y=labels). The
    loss is an ordinary scalar; metrics are detached scalars on the device. A subclass defines `_loss(x, condition)`.
    """

    def __init__(self, model: Model, *, seed: int | None, chain_offset: int, check: bool) -> None:
        self.score = ScoreFunction(model)
        super().__init__(model, 1, seed=seed, chain_offset=chain_offset, check=check)
        self.model = model

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = _split(batch)
        loss, metrics = self._loss(x, {} if y is None else {"y": y})
        self._require_finite(batch=x, loss=loss.detach())
        self.iteration += 1
        return loss, metrics

    def _loss(self, x: Tensor, condition: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def _counter(self, purpose: str) -> dict[str, Any]:
        """Where an op draws the numbers of this iteration."""
        return {
            "seed": self.seed, "step": self.iteration, "purpose": purpose, "chain_offset": self.chain_offset,
        }  # fmt: skip
