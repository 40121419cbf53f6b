"""Energies that users write as Triton functions: what the engine knows of each, and the op that evaluates one."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backend import BackendError, wish
from .backend import why_not as why_not_backend
from .library import define

PREFIX = "triton:"  # of the kinds of such energies' descriptors


@dataclass(frozen=True, eq=False)
class UserEnergy:
    """E(x) and dE/dx as a Triton function f(x, *parameters) of a tuple x of dim numbers.

    Args:
        function: the Python function or what `triton.jit` made of it.
        event_shape: of x outside of Triton; inside its numbers are in row-major order.
        names, shapes: of the parameters, in the order in which f takes them.
        plain: the energy in plain PyTorch, (n, *event), **parameters -> (n,); None where there is none.
    """

    function: Any
    event_shape: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    plain: Callable[..., Tensor] | None

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", "energy")

    @property
    def dim(self) -> int:
        return math.prod(self.event_shape)

    @property
    def places(self) -> tuple[int, ...]:
        """Where each parameter begins among the packed ones."""
        return tuple(itertools.accumulate((math.prod(shape) for shape in self.shapes), initial=0))[:-1]

    @property
    def size(self) -> int:
        """Number of packed parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    def plain_energy(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The plain form on packed parameters. # (n, dim) -> (n,)"""
        if self.plain is None:
            raise BackendError(f"{self.name} has no form in plain PyTorch: give fused_energy its reference=")
        parts = parameters.to(x).split([math.prod(shape) for shape in self.shapes])
        return self.plain(
            x.reshape(x.shape[0], *self.event_shape),
            **{name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes)},
        )


_known: weakref.WeakValueDictionary[str, UserEnergy] = weakref.WeakValueDictionary()
_number = itertools.count()


def register(user: UserEnergy) -> str:
    """The kind by which descriptors and ops name it, as long as somebody holds `user`."""
    kind = f"{PREFIX}{next(_number)}:{user.name}"
    _known[kind] = user
    return kind


def registered(kind: str) -> UserEnergy:
    """Of a kind that `register` gave; ValueError for another."""
    user = _known.get(kind)
    if user is None:
        raise ValueError(f"descriptor.kind {kind!r} is of no fused_energy that is still there")
    return user


def sizes(kind: str) -> dict[str, Callable[..., int]]:
    """Of a user's energy: number of packed parameters from the dimension; empty for another kind."""
    if not kind.startswith(PREFIX):
        return {}
    user = registered(kind)
    return {kind: lambda d: user.size if d == user.dim else -1}


def why_not(device: torch.device, backend: str | None = None) -> str:
    """Why Triton cannot run a user's energy on tensors of `device`; empty if it can."""
    asked = wish(backend)
    if asked not in ("auto", "triton"):
        return f"an energy written in Triton runs on backend 'triton', got {asked!r}"
    reason = why_not_backend("triton")
    if reason:
        return reason
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cpu" and not interpreted:
        return "x is on the CPU, where Triton runs in its interpreter alone (TRITON_INTERPRET=1)"
    return importlib.import_module("ebm_fast.kernels").why_missing((3, 3))  # tuples of tensors came with 3.3


def _impl(x: Tensor, parameters: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    if not x.numel():
        return x.new_empty(x.shape[0]), torch.empty_like(x)
    return importlib.import_module("ebm_fast.kernels.user_energy").user_energy(x, parameters, registered(kind))


_op = define(
    "user_energy(Tensor x, Tensor parameters, str kind) -> (Tensor, Tensor)",
    _impl,
    lambda x, parameters, kind: (x.new_empty(x.shape[0]), torch.empty_like(x)),
)


def user_energy(x: Tensor, parameters: Tensor, kind: str) -> tuple[Tensor, Tensor]:  # (n, dim), (k,) -> (n,), (n, dim)
    """(E(x), dE/dx) of a registered energy by its Triton function, where `why_not` has no objection; x float32, contiguous."""
    return _op(x, parameters, kind)
