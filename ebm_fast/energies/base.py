"""What the analytic energies share: parameters, shapes, cached constants, descriptors, draws."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..ops import checks
from ..ops.noise import fresh_seed
from .descriptor import Descriptor
from .draws import Draws

LOG_2PI = math.log(2.0 * math.pi)


def tensors(dtype: torch.dtype | None, **values: Any) -> dict[str, Tensor]:
    """Copies of numbers and arrays as finite tensors of one dtype and device.

    dtype None means float64 where a float64 tensor is among them, else torch's default dtype. The device is that of the first
    tensor, else torch's default device.
    """
    given = [value for value in values.values() if isinstance(value, Tensor)]
    if dtype is None:
        dtype = torch.float64 if any(t.dtype is torch.float64 for t in given) else torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")
    device = given[0].device if given else None
    made = {}
    for name, value in values.items():
        if isinstance(value, (bool, str, bytes)) or (isinstance(value, Tensor) and value.is_complex()):
            raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}")
        try:
            tensor = torch.as_tensor(value, dtype=dtype, device=device).detach().clone(memory_format=torch.contiguous_format)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be a number or an array of numbers, got {type(value).__name__}: {error}") from None
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        made[name] = tensor
    return made


def positive(**values: Tensor) -> None:
    """Every number above 0."""
    for name, tensor in values.items():
        if not bool((tensor > 0).all()):
            raise ValueError(f"{name} must be above 0, got {tensor.min().item():g}")


def scalar(**values: Tensor) -> None:
    """One number each."""
    for name, tensor in values.items():
        if tensor.ndim:
            raise ValueError(f"{name} must be one number, got shape {tuple(tensor.shape)}")


def dimension(value: Any, name: str = "dim", low: int = 1) -> int:
    """An int of at least `low`."""
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return value


class Sources:
    """Buffers as they were: the objects and their version counters."""

    __slots__ = ("seen",)

    def __init__(self, module: nn.Module) -> None:
        self.seen = [(name, t, t._version) for name, t in module._buffers.items() if t is not None]

    def unchanged(self, buffers: dict[str, Tensor | None]) -> bool:
        for name, t, version in self.seen:  # noqa: SIM110, a generator costs more than what it would run
            if buffers.get(name) is not t or t._version != version or t.requires_grad:
                return False
        return True


class Constants:
    """What the arithmetic takes from the buffers, in one dtype."""

    __slots__ = ("device", "dtype", "sources", "values")

    def __init__(self, module: AnalyticEnergy, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        with torch.inference_mode(False), torch.no_grad():
            self.values = module._constants(dtype)
        self.sources = Sources(module)


class Summable:
    """E_1 + E_2."""

    def __add__(self: Any, other: Any) -> Any:
        from .adapters import sum_of

        return sum_of(self, other) if callable(other) else NotImplemented

    def __radd__(self: Any, other: Any) -> Any:
        from .adapters import sum_of

        return sum_of(other, self) if callable(other) else NotImplemented


class AnalyticEnergy(Summable, nn.Module):
    """E(x) of a closed form, with a gradient that needs no autograd.

    `forward(x)`, `energy_and_grad(x)` and `grad(x)` take x # (n, *event): an event of `event_shape`, or the same numbers flat, or
    any shape of `dim` numbers where `event_shape` is (dim,). The arithmetic runs in the wider of the dtypes of x, of the
    parameters, and float32; energies have that dtype, gradients that of x. `forward` is differentiable in x and parameters.

    Hyper-parameters are copied into buffers, or into parameters with `trainable=True`. Their dtype is `dtype`, by default float64
    where a float64 tensor is given, else torch's default dtype; `.double()` and `.to(device)` work as for any module. Constants
    derived from buffers are kept until a buffer is replaced or written in place (writes through `.data` are not seen).
    """

    event_shape: tuple[int, ...]
    dim: int

    def __init__(
        self, event_shape: tuple[int, ...], trainable: bool, learned: dict[str, Tensor], fixed: dict[str, Tensor] | None = None,
        arranged: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if type(trainable) is not bool:
            raise TypeError(f"trainable must be a bool, got {trainable!r}")
        self.event_shape, self.dim = event_shape, math.prod(event_shape)
        self._trainable = trainable
        self._cache: Constants | None = None
        self._packed: tuple[Sources, Descriptor] | None = None
        with torch.inference_mode(False):  # an energy made in inference mode serves outside of it too
            for name, tensor in {**(fixed or {}), **learned}.items():
                held = tensor.clone() if tensor.is_inference() else tensor
                if trainable and name in learned:
                    self.register_parameter(name, nn.Parameter(held))
                else:
                    self.register_buffer(name, held)
        # the event's shape inside the arithmetic: flat, or as given
        self._arranged = torch.Size((self.dim,) if arranged is None else arranged)
        self._first = next(iter(learned))

    # What each energy defines; rows are x as (n, *arranged).

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Derived from the parameters, differentiably."""
        raise NotImplementedError

    def _energy(self, rows: Tensor, *constants: Tensor) -> Tensor:
        raise NotImplementedError

    def _both(self, rows: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _gradient(self, rows: Tensor, *constants: Tensor) -> Tensor:
        return self._both(rows, *constants)[1]

    def _pack(self) -> tuple[str, tuple[int, ...], list[Tensor], Tensor | None]:
        """Kind, integers, parameters in order, offset."""
        raise NotImplementedError

    # What everybody calls.

    def forward(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """E(x)."""
        rows, constants = self._arrange(x)
        if torch.is_autocast_enabled(rows.device.type):
            with torch.autocast(rows.device.type, enabled=False):
                return self._energy(rows, *constants)
        return self._energy(rows, *constants)

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (n, *event) -> (n,), (n, *event)
        """(E(x), dE/dx), both without a graph."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.energy_and_grad(x)
        rows, constants = self._arrange(x)
        if torch.is_autocast_enabled(rows.device.type):
            with torch.autocast(rows.device.type, enabled=False):
                return self.energy_and_grad(x)
        e, g = self._both(rows, *constants)
        return e, g if rows is x else g.to(x.dtype).reshape(x.shape)

    def grad(self, x: Tensor) -> Tensor:  # (n, *event) -> (n, *event)
        """dE/dx without a graph."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.grad(x)
        rows, constants = self._arrange(x)
        if torch.is_autocast_enabled(rows.device.type):
            with torch.autocast(rows.device.type, enabled=False):
                return self.grad(x)
        g = self._gradient(rows, *constants)
        return g if rows is x else g.to(x.dtype).reshape(x.shape)

    def descriptor(self) -> Descriptor:
        """Kind and packed float32 parameters, as they are now.

        Raises ValueError where a parameter is not finite in float32.
        """
        if self._packed is not None and self._packed[0].unchanged(self._buffers):
            return self._packed[1]
        with torch.inference_mode(False), torch.no_grad():
            kind, integers, parts, offset = self._pack()
            parameters = torch.cat([part.detach().to(torch.float32).reshape(-1) for part in parts])
            constant = 0.0 if offset is None else float(offset)
        # A look at trained parameters on a GPU would wait for it in every iteration.
        look = not (self._trainable and parameters.is_cuda)
        if look and not (bool(torch.isfinite(parameters).all()) and math.isfinite(constant)):
            raise ValueError(f"{type(self).__name__} has parameters that are not finite in float32, so it has no descriptor")
        made = Descriptor(kind, self.dim, integers, parameters, constant)
        if not self._trainable and self._countable():
            self._packed = (Sources(self), made)
        return made

    def sample(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, chain_offset: int = 0
    ) -> Tensor:
        """n exact, independent draws of p(x) = exp(-E(x)) / Z, computed in float64. # (n, *event)

        Args:
            seed: 64-bit seed; draw i is the same for any n, device and backend, up to rounding. None draws a seed from torch's
                generator (or `generator`).
            chain_offset: index of the first draw.

        Raises:
            NotImplementedError: no exact sampler is known.
        """
        dimension(n, "n", low=0)
        parameter: Tensor = getattr(self, self._first)
        checks.counter(0 if seed is None else seed, 0, chain_offset, None, torch.empty(n, 0))
        seed = fresh_seed(generator) if seed is None else seed
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
            draws = self._sample(Draws(n, seed, chain_offset, parameter.device))
        return draws.to(parameter.dtype).reshape(n, *self.event_shape)

    def _sample(self, draws: Draws) -> Tensor:
        self._unknown("exact sampler", "draw from it with ebm_fast.sample(energy, sampler, x0, ...)")

    @property
    def log_z(self) -> Tensor:
        """log int exp(-E(x)) dx, a float64 number, differentiable in trainable parameters. # ()"""
        self._unknown("closed form of log Z", "estimate it by annealed importance sampling")

    def _unknown(self, what: str, instead: str) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} has no {what}; {instead}")

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, trainable={self._trainable}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_packed": None}

    # Shapes, dtypes and cached constants.

    def _countable(self) -> bool:
        """Whether a change of the buffers shows: inference tensors have no version; one that needs a gradient gets it."""
        return not any(t.is_inference() or t.requires_grad for t in self._buffers.values() if t is not None)

    def _arrange(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x in the shape and dtype of the arithmetic (x itself where it has them), and the constants."""
        cache = self._cache
        if (
            cache is not None and isinstance(x, Tensor) and not self._traced(x) and x.dtype is cache.dtype
            and x.shape[1:] == self._arranged and x.device == cache.device and cache.sources.unchanged(self._buffers)
        ):  # fmt: skip
            return x, cache.values
        return self._arrange_slowly(x)

    @staticmethod
    def _traced(x: Tensor) -> bool:
        """A captured graph or compiled code outlives the moment, so there constants are computed from the parameters."""
        return torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing())

    def _arrange_slowly(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor of shape (n, *event), got {type(x).__name__}")
        if not x.dtype.is_floating_point:
            raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
        event = tuple(x.shape[1:])
        flat = len(self.event_shape) == 1 or len(event) == 1
        if not x.ndim or not (event == self.event_shape or (flat and math.prod(event) == self.dim)):
            wanted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"x must have shape (n, {wanted}) for this {type(self).__name__}, got {tuple(x.shape)}")
        parameter: Tensor = getattr(self, self._first)
        if x.device != parameter.device:
            raise ValueError(f"x must be on {parameter.device} as the energy is, got {x.device}; move one with .to(device)")
        dtype = torch.promote_types(torch.promote_types(x.dtype, parameter.dtype), torch.float32)
        rows = x if x.dtype is dtype else x.to(dtype)
        if rows.shape[1:] != self._arranged:
            rows = rows.reshape(rows.shape[0], *self._arranged)
        if self._trainable or self._traced(x) or not self._countable():
            return rows, self._constants(dtype)
        cache = self._cache
        if cache is None or cache.dtype is not dtype or cache.device != x.device or not cache.sources.unchanged(self._buffers):
            self._cache = cache = Constants(self, dtype, x.device)
        return rows, cache.values
