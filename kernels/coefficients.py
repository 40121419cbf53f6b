"""Coefficients of the updates: a number for all chains, or a tensor of one for all or one per chain, read on the device."""
# mypy: allow-untyped-defs

import struct

import torch
import triton
import triton.language as tl


@triton.jit
def coefficient(value, dtype: tl.constexpr):
    """Triton passes a Python float as float32, so those of a float64 state travel as the integer of the same bits."""
    if dtype == tl.float64:
        value = value.to(tl.int64).to(tl.float64, bitcast=True)
    return value


@triton.jit
def coefficient_of(chain, exists, number, at, STRIDE: tl.constexpr, dtype: tl.constexpr):
    """Each chain's coefficient # (chains, 1), or the one of all chains."""
    if at is not None:
        c = tl.load(at + chain * STRIDE, mask=exists)[:, None]
    else:
        c = coefficient(number, dtype)
    return c


def as_passed(dtype: torch.dtype, *numbers: float) -> tuple[float, ...]:
    """Numbers as `coefficient` expects them."""
    if dtype != torch.float64:
        return numbers
    return struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))


def stride(at: torch.Tensor | None) -> int:
    """From one chain's coefficient to the next: 0 for a tensor (), 1 for (n,)."""
    return 0 if at is None else at.ndim
