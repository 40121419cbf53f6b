"""Rounding to bfloat16 as tensor units see it: of a product's operands, on the way forward and on the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Rounded(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a.to(torch.bfloat16).to(a.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


class _RoundGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a.view_as(a)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return rounded(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


def rounded(a: Tensor) -> Tensor:
    """The nearest bfloat16 number (ties to even), in a's dtype; its derivative is 1."""
    return _Rounded.apply(a)


def round_gradient(a: Tensor) -> Tensor:
    """a itself; the gradient that comes back through it is rounded to bfloat16."""
    return _RoundGradient.apply(a)
