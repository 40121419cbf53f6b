"""Strategy `compiled`: energy and gradient in one graph of torch.compile, beside the fused updates of the strategy `step`."""

from __future__ import annotations

import contextlib
import itertools
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .energy import Energy, EnergyFunction

Both = Callable[[Any, Tensor, Mapping[str, Any]], tuple[Tensor, Tensor]]
_compiled: weakref.WeakKeyDictionary[Any, Both] = weakref.WeakKeyDictionary()
_number = itertools.count()


def _by_func(energy: Any, x: Tensor, condition: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    def total(at: Tensor) -> tuple[Tensor, Tensor]:
        e = energy(at, **condition)
        return e.sum(), e

    g, e = torch.func.grad(total, has_aux=True)(x)
    return e, g


def _by_method(energy: Any, x: Tensor, condition: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    both: tuple[Tensor, Tensor] = energy.energy_and_grad(x, **condition)
    return both


def _function_of(energy: Any) -> Both:
    """The compiled form of this energy. It takes the energy as an argument, or the cache would keep it alive; and has a code
    object of its own, since torch.compile counts compilations by code object and gives up after a few."""
    with contextlib.suppress(KeyError, TypeError):
        return _compiled[energy]
    plain = _by_method if hasattr(energy, "energy_and_grad") else _by_func
    code = plain.__code__.replace(co_name=f"{plain.__name__}_{next(_number)}")
    function: Both = torch.compile(types.FunctionType(code, globals()))
    with contextlib.suppress(TypeError):  # no weak references to it, or no hash: compiled for this run alone
        _compiled[energy] = function
    return function


class CompiledEnergy(EnergyFunction):
    """e = E(x), g = dE/dx by torch.compile; parameters that are updated in place are seen.

    The first evaluation is made twice, the plain way too, whose errors name what is wrong with an energy. It raises RuntimeError
    where the energy cannot be compiled.
    """

    def __init__(self, energy: Energy, condition: Mapping[str, Any] | None = None) -> None:
        super().__init__(energy, condition)
        self._function: Both | None = None
        self._plain = EnergyFunction(energy, condition)
        self._both, self._grad = self._pair, None

    def _pair(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        # Outside of inference mode, whose tensors would be compiled for anew; without gradients, of parameters too.
        with torch.inference_mode(False), torch.no_grad():
            x = x.clone() if x.is_inference() else x
            if self._function is not None:
                return self._function(self.energy, x, condition)
            self._plain.value_and_grad(x)
            function = _function_of(self.energy)
            try:
                pair = function(self.energy, x, condition)
            except Exception as error:
                raise RuntimeError(
                    f"strategy='compiled' cannot compile this energy ({type(error).__name__}: {str(error).splitlines()[0]}); "
                    "use strategy='step', or the tools of torch.compile to find out why"
                ) from error
            self._function = function
            return pair
