"""Energies that users write as Triton functions of one chain's event: their arguments, one evaluation, and the op `user_energy`.

An event is a tuple of dim tensors # (BLOCK,), one chain to a lane: sums over an event need no other lane, and nothing leaves
the registers.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment"

import functools
import inspect
import types
from typing import Any

import torch
import triton
import triton.language as tl

from ..ops.user_energy import UserEnergy
from .philox import INTERPRETED, WIDE_FROM, on_device_of


@triton.jit
def load_event(at, DIM: tl.constexpr):
    """The numbers at `at`, `at` + 1, ... of each chain."""
    x = ()
    for i in tl.static_range(DIM):
        x = x + (tl.load(at + i),)  # noqa: RUF005, Triton has no starred tuples
    return x


@triton.jit
def store_event(at, x, mask):
    for i in tl.static_range(len(x)):
        tl.store(at + i, x[i], mask=mask)


@triton.jit
def argument_of(parameters, PLACE: tl.constexpr):
    if PLACE & 1:
        q = parameters + (PLACE >> 1)
    else:
        q = tl.load(parameters + (PLACE >> 1))
    return q


@triton.jit
def arguments_of(parameters, COUNT: tl.constexpr, LAYOUT: tl.constexpr):
    """Of each parameter its number, or for an array the address of its first: see `layout_of`."""
    q = ()
    for k in tl.static_range(COUNT):
        q = q + (argument_of(parameters, (LAYOUT >> (32 * k)) & 0xFFFFFFFF),)  # noqa: RUF005
    return q


@triton.jit
def evaluate(x, q, ENERGY: tl.constexpr, BLOCK: tl.constexpr):
    """E(x) # (BLOCK,) and dE/dx, as float32, also where the user's function returns plain numbers."""
    e, g = ENERGY(x, *q)
    tl.static_assert(len(g) == len(x), "an energy must return (E, (dE/dx_0, ..., dE/dx_{dim-1})): one number for each of x")
    h = ()
    for i in tl.static_range(len(x)):
        h = h + (tl.broadcast_to(tl.cast(g[i], tl.float32), (BLOCK,)),)  # noqa: RUF005
    return tl.broadcast_to(tl.cast(e, tl.float32), (BLOCK,)), h


@triton.jit
def lanes_of(chains, BLOCK: tl.constexpr):
    """This program's chains, and which of them exist; lanes beyond the last chain repeat it, so that no load needs a mask."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return tl.minimum(lane, chains - 1), lane < chains


@triton.jit(do_not_specialize=["chains"])
def user_energy_kernel(
    x, parameters, energy, grad, chains, ENERGY: tl.constexpr, KEY: tl.constexpr, DIM: tl.constexpr, COUNT: tl.constexpr,
    LAYOUT: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chain, exists = lanes_of(chains, BLOCK)
    at = chain.to(INDEX) * DIM
    e, g = evaluate(load_event(x + at, DIM), arguments_of(parameters, COUNT, LAYOUT), ENERGY, BLOCK)
    tl.store(energy + chain, e, mask=exists)
    store_event(grad + at, g, exists)


@functools.lru_cache(maxsize=1024)
def device_function(function: Any) -> Any:
    """The user's function as Triton's own, compiled or interpreted as the kernels are."""
    made = function
    if inspect.isfunction(function):
        if INTERPRETED.value and tl not in function.__globals__.values():  # the interpreter looks for it there
            function = types.FunctionType(function.__code__, {**function.__globals__, "tl": tl}, function.__name__,
                                          function.__defaults__, function.__closure__)  # fmt: skip
        made = triton.jit(function)
    if isinstance(made, triton.JITFunction) == bool(INTERPRETED.value):
        raise RuntimeError(
            f"{function!r} and the kernels of ebm_fast must both be compiled or both be interpreted: set TRITON_INTERPRET before "
            f"either is made"
        )
    return made


def layout_of(user: UserEnergy) -> int:
    """Twice the place of each parameter among the packed ones, plus 1 for an array, 32 bits each.

    One int, since Triton before 3.4 cannot look into a tuple of constants.
    """
    return sum((2 * place + (len(shape) > 0)) << (32 * k) for k, (place, shape) in enumerate(zip(user.places, user.shapes)))


def block_of(x: torch.Tensor) -> tuple[tuple[int], int, int]:
    """Grid, chains to a program and warps, one chain a thread: narrow programs while there are few chains to spread."""
    warps = 1 if x.shape[0] <= 2**15 else 4
    return ((x.shape[0] + 32 * warps - 1) // (32 * warps),), 32 * warps, warps


def shape_of(user: UserEnergy, x: torch.Tensor) -> tuple[Any, ...]:
    """ENERGY, KEY, DIM, COUNT, LAYOUT, INDEX; KEY stands for the function's source, which Triton 3.3 would know by its name."""
    index = tl.int64 if x.numel() >= WIDE_FROM else tl.int32
    function = device_function(user.function)
    return function, getattr(function, "cache_key", ""), user.dim, len(user.names), layout_of(user), index


def user_energy(x: torch.Tensor, parameters: torch.Tensor, user: UserEnergy) -> tuple[torch.Tensor, torch.Tensor]:
    """E(x) and dE/dx. x # (n, dim) float32 -> (n,), (n, dim)"""
    energy, grad = x.new_empty(x.shape[0]), torch.empty_like(x)
    grid, block, warps = block_of(x)
    with on_device_of(x):
        user_energy_kernel[grid](
            x, parameters, energy, grad, x.shape[0], *shape_of(user, x), block, num_warps=warps, enable_fp_fusion=False
        )
    return energy, grad
