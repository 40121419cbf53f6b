"""The gradient penalty: how steep an energy is where it was evaluated, as a function of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ebm_fast.objectives.numerics import wide


def squared_gradient_norm(energies: Tensor, x: Tensor) -> Tensor:  # (n,), (n, *event) -> (n,)
    """||grad_x E(x_i)||^2, differentiable in the parameters; energies = E(x), evaluated with x.requires_grad on.

    loss + w squared_gradient_norm(E(x), x).mean() is the gradient penalty centred at 0 of any objective. The gradient is
    differentiated again, which torch.compile refuses, and so do functions that are differentiable once. Raises ValueError
    where E does not depend on x. Sources: Mescheder, Geiger, Nowozin 2018 (R1 at data, R2 at samples); Kumar, Ozair,
    Goyal, Courville, Bengio 2019 (of an energy, at data).
    """
    if not energies.requires_grad or not x.requires_grad:
        raise ValueError("energies: expected E(x) with a graph that reaches x; set x.requires_grad_() before E(x)")
    (gradient,) = torch.autograd.grad(energies, x, torch.ones_like(energies), create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("energies: expected E(x) of this x, got energies that do not depend on it")
    return wide(gradient).flatten(1).square().sum(1)


def valued_without_grad(call: Callable[..., Any]) -> Callable[..., Any]:
    """An objective's call with a value under torch.no_grad() too, where terms of its loss hold gradients of the energy.

    Autograd is then on inside, and the loss comes out detached: that of a call with gradients, to the bit.
    """

    @wraps(call)
    def valued(self: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled() or not (self.gradient_penalty or getattr(self, "improved", False)):
            return call(self, batch)
        with torch.enable_grad():
            loss, metrics = call(self, batch)
        return loss.detach(), metrics

    return valued
