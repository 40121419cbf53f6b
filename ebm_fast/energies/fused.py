"""Energies that users write as Triton functions of one chain's event, whose whole chains run in one kernel."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..ops.backend import BackendError
from ..ops.user_energy import UserEnergy, register, user_energy, why_not
from .base import AnalyticEnergy, Sources, Summable, dimension, tensors

MOST_NUMBERS = 32  # in an event: a chain's state, gradient, momentum and proposal live in the registers of one thread


@dataclass(frozen=True, eq=False)
class TritonDescriptor:
    """What the engine reads of an energy written in Triton: the kind names the registered function."""

    kind: str
    dim: int
    parameters: Tensor  # (k,) float32, the energy's in order
    user: UserEnergy  # whoever holds the descriptor holds the function
    integers: tuple[int, ...] = ()


class _Value(torch.autograd.Function):
    """E(x), once differentiable in x by the gradient that the user's function gives."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, parameters: Tensor, kind: str) -> Tensor:
        e, g = user_energy(rows, parameters, kind)
        ctx.save_for_backward(g)
        return e

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (g,) = ctx.saved_tensors
        return grad_output.unsqueeze(1) * g, None, None


class FusedEnergy(Summable, nn.Module):
    """E(x) by a Triton function; made by `fused_energy`, which says what it takes.

    `energy(x)`, `energy_and_grad(x)` and `grad(x)` take x # (n, *event) like those of any energy. Where Triton runs (on a GPU,
    or in its interpreter) they run the function, elsewhere the plain form; a graph is built by the plain form where there is one,
    so that it reaches the parameters and can be differentiated twice, and otherwise by the function's own gradient.
    """

    def __init__(
        self, function: Any, event_shape: tuple[int, ...], parameters: Mapping[str, Any],
        reference: Callable[..., Tensor] | None, trainable: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.event_shape, self.dim, self._trainable = event_shape, math.prod(event_shape), trainable
        names = _parameters_of(function, parameters)
        made = tensors(None, **{name: parameters[name] for name in names})
        for name, tensor in made.items():
            if hasattr(self, name) or "." in name:
                raise ValueError(f"parameters: {name!r} is a name that every energy has; choose another")
            self.register_parameter(name, nn.Parameter(tensor)) if trainable else self.register_buffer(name, tensor)
        self._user = _Shared(UserEnergy(function, event_shape, names, tuple(tuple(made[n].shape) for n in names), reference))
        self._packed: tuple[Sources, Tensor] | None = None
        self.__name__ = self._user.energy.name
        self.__doc__ = getattr(getattr(function, "fn", function), "__doc__", None)

    def forward(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """E(x)."""
        user = self._user.energy
        self._check(x)
        graph = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        if (graph and user.plain is not None) or self._why_not(x):
            return self._plain(x)
        if graph and self._trainable:
            raise ValueError(f"{user.name} has trainable parameters and no reference= in plain PyTorch to differentiate")
        e = _Value.apply(self._rows(x), self._pack(x.device), self._user.kind)
        return e if x.dtype is torch.float32 else e.to(x.dtype)

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (n, *event) -> (n,), (n, *event)
        """(E(x), dE/dx), both without a graph."""
        self._check(x)
        if not self._why_not(x):
            with torch.no_grad():
                e, g = user_energy(self._rows(x), self._pack(x.device), self._user.kind)
            return e, g.to(x.dtype).view(x.shape)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_(True)
            e = self._plain(leaf)
            (g,) = torch.autograd.grad(e.sum(), leaf)
        return e.detach(), g

    def grad(self, x: Tensor) -> Tensor:  # (n, *event) -> (n, *event)
        """dE/dx without a graph."""
        return self.energy_and_grad(x)[1]

    def descriptor(self) -> TritonDescriptor:
        """The registered function and its packed float32 parameters, as they are now."""
        tensor = next(iter(self._tensors()), None)
        packed = self._pack(torch.get_default_device() if tensor is None else tensor.device)
        return TritonDescriptor(self._user.kind, self.dim, packed, self._user.energy)

    def check(self, x: Tensor, tolerance: float = 1e-4) -> None:  # (n, *event)
        """Compares energy and gradient of the Triton function at x with those of the plain form, in float64.

        Without a plain form the gradient is compared with central differences of the energy, at a hundred times the tolerance,
        since float32 holds no better ones.

        Args:
            tolerance: relative to 1 + the largest number of the event's gradient, or to 1 + |E|.

        Raises:
            ValueError: they differ; the message says where.
            BackendError: Triton cannot run on x's device.
        """
        self._check(x)
        name, reason = self._user.energy.name, self._why_not(x)
        if reason:
            raise BackendError(f"{name} cannot be checked: {reason}")
        x = x.detach()
        e, g = (t.double().reshape(x.shape[0], -1) for t in self.energy_and_grad(x))
        if self._user.energy.plain is not None:
            with torch.enable_grad():
                leaf = x.double().requires_grad_(True)
                truth = self._plain(leaf)
                (slope,) = torch.autograd.grad(truth.sum(), leaf)
            e_true, g_true = truth.detach().unsqueeze(1).double(), slope.reshape(x.shape[0], -1)
        else:
            tolerance *= 100.0
            e_true, g_true = e, self._differences(x)
        for what, ours, true in (("energy", e, e_true), ("gradient", g, g_true)):
            apart = (ours - true).abs() / (1.0 + true.abs().amax(1, keepdim=True))
            bad = ~(apart <= tolerance) & ~((ours == true) | (ours.isnan() & true.isnan()))
            if bool(bad.any()):
                chain, i = divmod(int(torch.where(bad, apart.nan_to_num(math.inf), -1.0).argmax()), apart.shape[1])
                raise ValueError(
                    f"the {what} of {name} is wrong at x = {x[chain].tolist()}: element {i} is {float(ours[chain, i]):g}, "
                    f"and should be {float(true[chain, i]):g}"
                )

    def _differences(self, x: Tensor) -> Tensor:
        """Central differences in float32. # (n, *event) -> (n, dim)"""
        rows = x.reshape(x.shape[0], -1).float()
        columns = []
        for i in range(self.dim):
            high, low = rows.clone(), rows.clone()
            step = 5e-3 * (1.0 + rows[:, i].abs())
            high[:, i] += step
            low[:, i] -= step
            width = high[:, i].double() - low[:, i].double()
            up, down = (self.energy_and_grad(r.view(x.shape))[0].double() for r in (high, low))
            columns.append((up - down) / width)
        return torch.stack(columns, 1)

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{name}{tuple(t.shape)}" for name, t in zip(self._user.energy.names, self._tensors()))
        return f"{self._user.energy.name}, event_shape={self.event_shape}, parameters={shapes or None}"

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._user.energy.names]

    def _check(self, x: Any) -> None:
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            raise TypeError(f"x must be a floating-point tensor, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
        event = tuple(x.shape[1:])
        flat = len(self.event_shape) == 1 or len(event) == 1
        if not x.ndim or not (event == self.event_shape or (flat and math.prod(event) == self.dim)):
            wanted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"x must have shape (n, {wanted}) for {self._user.energy.name}, got {tuple(x.shape)}")
        for name, tensor in zip(self._user.energy.names, self._tensors()):
            if tensor.device != x.device:
                raise ValueError(f"x must be on {tensor.device} as {name} is, got {x.device}; move one with .to(device)")

    def _why_not(self, x: Tensor) -> str:
        """Why the Triton function cannot be evaluated at x."""
        if x.dtype is torch.float64:
            return "x has dtype float64, and the Triton function computes in float32"
        return why_not(x.device)

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.dim).to(torch.float32).contiguous()

    def _plain(self, x: Tensor) -> Tensor:
        user = self._user.energy
        if user.plain is None:
            raise BackendError(f"{user.name} cannot run here: {self._why_not(x)}, and it has no reference= in plain PyTorch")
        rows = x.reshape(x.shape[0], *self.event_shape)
        if rows.dtype in (torch.bfloat16, torch.float16):
            rows = rows.float()
        return user.plain(rows, **dict(zip(user.names, self._tensors()))).to(rows.dtype)

    def _pack(self, device: torch.device) -> Tensor:
        """The parameters in one float32 tensor; kept until a buffer changes."""
        cached = self._packed
        parts = self._tensors()
        if cached is not None and parts and not AnalyticEnergy._traced(parts[0]) and cached[0].unchanged(self._buffers):
            return cached[1]
        with torch.inference_mode(False), torch.no_grad():
            flat = [t.detach().reshape(-1).to(torch.float32) for t in parts]
            packed = torch.cat(flat) if flat else torch.zeros(0, device=device)
        if parts and not self._trainable and not AnalyticEnergy._traced(parts[0]) and not any(t.is_inference() for t in parts):
            self._packed = Sources(self), packed
        return packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


class _Shared:
    """The registered function: copies of an energy share it, for Triton knows a function by its identity."""

    def __init__(self, energy: UserEnergy) -> None:
        self.energy, self.kind = energy, register(energy)

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self

    def __reduce__(self) -> Any:
        """By the name under which the decorated function's module holds the energy, as functions are pickled."""
        function = getattr(self.energy.function, "fn", self.energy.function)
        where = function.__module__, function.__qualname__
        try:
            found = _named(*where)
        except (ImportError, AttributeError):
            found = None
        if found is not self:
            raise pickle.PicklingError(
                f"{self.energy.name} cannot be pickled, since {'.'.join(where)} is not the energy that fused_energy made of it: "
                "decorate the function at the top level of a module, under its own name, or save the energy's state_dict()"
            )
        return _named, where


def _named(module: str, name: str) -> _Shared:
    """What the energies of a decorated function share."""
    energy = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    shared: _Shared = energy._user  # type: ignore[attr-defined]
    return shared


def _parameters_of(function: Any, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the function's arguments after the event, which are those of the parameters."""
    plain = getattr(function, "fn", function)
    if not inspect.isfunction(plain):
        raise TypeError(f"fused_energy decorates a function f(x, *parameters) written in Triton, got {function!r}")
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise TypeError(f"parameters must be a dict from names to numbers or arrays, got {parameters!r}")
    names = tuple(inspect.signature(plain).parameters)[1:]
    if set(names) != set(parameters) or not inspect.signature(plain).parameters:
        raise ValueError(
            f"{plain.__name__} must take the event and the parameters by name, f(x, {', '.join(parameters)}); "
            f"it takes ({', '.join(inspect.signature(plain).parameters)})"
        )
    return names


def fused_energy(
    dim: int | tuple[int, ...], parameters: Mapping[str, Any] | None = None, *, reference: Callable[..., Tensor] | None = None,
    trainable: bool = False,
) -> Callable[[Any], FusedEnergy]:  # fmt: skip
    """A decorator: the Triton function f(x, *parameters) -> (E, (dE/dx_0, ..., dE/dx_{dim-1})) becomes an energy.

    `ebm_fast.sample` and `langevin_` then run its whole chains in one kernel (strategy "fused"), one chain a thread, everything
    in registers, from the same random numbers as every other strategy.

        @ef.fused_energy(dim=2, parameters={"a": 1.0, "b": 20.0})
        def banana(x, a, b):
            off, bend = x[0] - a, x[1] - x[0] * x[0]
            return off * off + b * bend * bend, (2.0 * off - 4.0 * b * bend * x[0], 2.0 * b * bend)

    The function sees one chain: x is a tuple of `dim` float32 numbers (Triton tensors, one element a chain), each parameter
    that is a number comes as a number, each array as the address of its first element (`tl.load(means + 2 * k + i)`, row-major).
    It is written in Triton's language, may call other `triton.jit` functions, and returns the energy and a tuple of `dim`
    derivatives. It has no `triton.jit` of its own, or one below this decorator.

    Args:
        dim: numbers in an event (1 to 32), or the event's shape; an event's numbers come in row-major order.
        parameters: names and values, numbers or arrays; they become buffers of the energy, or parameters with `trainable`,
            and are read at every call: changing them in place recompiles nothing.
        reference: the energy in plain PyTorch, (n, *event), **parameters -> (n,). Needed on a CPU outside of Triton's
            interpreter, for float64 states, for gradients of parameters, and for second derivatives.
        trainable: make the parameters trainable, which needs `reference`.

    Returns:
        A decorator that returns a `FusedEnergy`: callable (n, *event) -> (n,), with `energy_and_grad`, `grad`, `descriptor`,
        and `check(x)`, which compares the function with the plain form or with differences.

    Raises:
        TypeError, ValueError: a bad dim, parameters that the function does not name, or `trainable` without `reference`.

    Descriptor: `triton:...`. Needs Triton 3.3 or later to run as a kernel.
    """
    if callable(dim):
        raise TypeError("dim must be given: write @fused_energy(dim=...) above the function")
    shape = tuple(dimension(d, "dim") for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if not shape or math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"dim must be 1 to {MOST_NUMBERS} numbers, since an event lives in one thread's registers, got {dim}")
    if reference is not None and not callable(reference):
        raise TypeError(f"reference must be callable, (n, *event), **parameters -> (n,), got {type(reference).__name__}")
    if type(trainable) is not bool:
        raise TypeError(f"trainable must be a bool, got {trainable!r}")
    if trainable and reference is None:
        raise ValueError("trainable=True needs reference=, the energy in plain PyTorch, which gives the gradient of parameters")
    given = {} if parameters is None else parameters

    def decorate(function: Any) -> FusedEnergy:
        return FusedEnergy(function, shape, given, reference, trainable)

    return decorate
