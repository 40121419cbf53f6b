"""Checks of arguments shared by the ops. Each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .backend import native

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_EXACT = (torch.float32, torch.float64)
_NUMBERS = (int, float)  # tuples: torch.compile of older versions looks into no frozenset
Named = tuple[tuple[str, "Tensor | None"], ...]


def state(x: Any, name: str, *, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """x # (n, *event): a contiguous tensor of a known dtype that no gradient flows into."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor of shape (n, *event), got {type(x).__name__}")
    if x.dtype not in dtypes:
        known = ", ".join(str(d).removeprefix("torch.") for d in sorted(dtypes, key=str))
        raise TypeError(f"{name} must have dtype {known}, got {str(x.dtype).removeprefix('torch.')}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have shape (n, *event) with n chains first, got a tensor without dimensions")
    if not x.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous, since it is read or written in memory order; got strides {tuple(x.stride())} for shape "
            f"{tuple(x.shape)}: pass {name}.contiguous() (and copy the result back if {name} is a view)"
        )
    if x.requires_grad:
        raise ValueError(f"{name} must not require grad; pass {name}.detach()")


def like(t: Any, name: str, x: Tensor) -> None:
    """t has x's shape, dtype and device, and is contiguous."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if t.shape != x.shape or t.dtype is not x.dtype or t.device != x.device:
        raise ValueError(
            f"{name} must match x: shape {tuple(x.shape)}, {x.dtype}, on {x.device}; "
            f"got {tuple(t.shape)}, {t.dtype}, on {t.device}"
        )
    if not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tuple(t.stride())}; pass {name}.contiguous()")


def all_like(x: Tensor, named: Named, required: int = 0) -> None:
    """`like` of each tensor; all but the first `required` may be None."""
    shape, dtype, device = x.shape, x.dtype, x.device
    for i, (name, t) in enumerate(named):
        if t is None and i >= required:
            continue
        if type(t) is Tensor and t.dtype is dtype and t.shape == shape and t.device == device and t.is_contiguous():
            continue
        like(t, name, x)


def refuse_negated(x: Tensor, name: str) -> None:
    """A lazily negated view (of a complex conjugate's imaginary part) holds the opposite sign in memory."""
    if x.is_neg():
        raise ValueError(f"{name} is a lazily negated view; pass {name}.resolve_neg()")


def refuse_read_only(x: Tensor, name: str) -> None:
    """Storing into a read-only memory map would end the process, on any CPU backend."""
    # Memory of torch's own is writable; only foreign memory (NumPy, mmap), which cannot be resized, is worth a call.
    if x.is_cpu and not x.untyped_storage().resizable():
        module = native()
        if module is not None and not module.is_writable(x.data_ptr(), x.nbytes):
            raise ValueError(f"{name} lies in read-only memory (a read-only memory map?); pass {name}.clone()")


def refuse_overlap(x: Tensor, name: str, other: Tensor | None, other_name: str, *, same: bool = True) -> None:
    """Two tensors may be one and the same memory (if `same`) or have none in common; anything between has no defined result."""
    if other is None:
        return
    apart = x.data_ptr() - other.data_ptr()
    if (apart or not same) and -x.nbytes < apart < other.nbytes:
        part = " in part" if apart else ""
        raise ValueError(f"{other_name} overlaps {name} in memory{part}; pass {other_name}.clone()")


def refuse_unsafe(written: Named, read: Named) -> None:
    """Written tensors must be writable and have no memory in common with each other or with any that is read."""
    spans = []
    for _, t in written:
        if t is not None:
            spans.append((t.data_ptr(), t.nbytes))
            if not t.untyped_storage().resizable():  # memory that may be read-only
                break
    else:
        for _, t in read:
            if t is not None:
                spans.append((t.data_ptr(), t.nbytes))
        spans.sort()
        reach = 0
        for start, size in spans:
            if start < reach:
                break
            reach = start + size
        else:
            return
    for i, (name, out) in enumerate(written):
        if out is not None:
            refuse_read_only(out, name)
            for other_name, other in (*written[i + 1 :], *read):
                refuse_overlap(out, name, other, other_name, same=False)


def number(value: Any, name: str, *, low: float = -math.inf, infinite: bool = False) -> float:
    """A finite number of at least `low` (or +inf where allowed)."""
    if type(value) not in _NUMBERS:
        if isinstance(value, Tensor) and value.numel() != 1:
            raise TypeError(f"{name} must be a number, got a tensor of shape {tuple(value.shape)}")
        if not isinstance(value, Tensor) and hasattr(value, "shape") and value.shape:
            raise TypeError(f"{name} must be a number or a tensor, got an array of shape {value.shape} (see torch.as_tensor)")
        given, value = value, value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
        if isinstance(value, (bool, complex, str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name} must be a number, got {type(given).__name__} {given!r}")
        value = float(value)
    if low <= value < math.inf or (infinite and value == math.inf):
        return value
    wanted = "a finite number" if low == -math.inf else f"finite and at least {low:g}"
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def entries(state: Any, *names: str) -> None:
    """A saved state that holds these entries: one of another kind of object does not."""
    found = list(state) if hasattr(state, "keys") else None
    if found is None or any(name not in found for name in names):
        got = f"a {type(state).__name__}" if found is None else ", ".join(map(str, found)) or "nothing"
        raise ValueError(f"state: expected one with {', '.join(names)}, got {got}")


def exact_state(x: Any, name: str) -> None:
    """A state of a sampler that accepts and rejects: rounding it to 16 bits would break detailed balance."""
    if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16):
        raise TypeError(
            f"{name} must have dtype float32 or float64, got {str(x.dtype).removeprefix('torch.')}: a state rounded to 16 bits "
            f"is not reversible; keep it in float32 and cast inside the energy"
        )
    state(x, name, dtypes=_EXACT)


def exactly(t: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """A contiguous tensor of one shape, dtype and device."""
    if isinstance(t, Tensor) and t.dtype is dtype and t.shape == shape and t.device == device and t.is_contiguous():
        return
    got = type(t).__name__
    if isinstance(t, Tensor):
        got = f"{tuple(t.shape)}, {t.dtype}, strides {t.stride()}, on {t.device}"
    raise ValueError(f"{name} must be a contiguous tensor of shape {shape}, {dtype}, on {device}; got {got}")


def event_like(t: Any, name: str, x: Tensor) -> None:
    """t # (*event), or None."""
    if t is not None:
        exactly(t, name, tuple(x.shape[1:]), x.dtype, x.device)


def square_like(t: Any, name: str, x: Tensor) -> None:
    """t # (d, d), d the number of elements of an event of x # (n, *event)."""
    d = x.shape[1:].numel()
    exactly(t, name, (d, d), x.dtype, x.device)


def chain_numbers(t: Any, name: str, x: Tensor) -> None:
    """t # (n,) float64, or None."""
    if t is not None:
        exactly(t, name, (x.shape[0],), torch.float64, x.device)


def signed_coefficient(value: Any, name: str, x: Tensor) -> tuple[float, Tensor | None]:
    """As `coefficient`, of either sign."""
    return coefficient(value, name, x, low=-math.inf)


def coefficient(value: Any, name: str, x: Tensor, low: float = 0.0) -> tuple[float, Tensor | None]:
    """A number, or a tensor of shape () or (n,): (number, None) or (0.0, tensor in the arithmetic's dtype on x's device)."""
    if not isinstance(value, Tensor):
        return number(value, name, low=low), None
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != x.shape[0]):
        raise ValueError(f"{name} must be a number or a tensor of shape () or ({x.shape[0]},), got {tuple(value.shape)}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
    if value.device != x.device and value.ndim == 1:
        raise ValueError(f"{name} must be on {x.device} as x is, got {value.device}")
    wanted = torch.float64 if x.dtype is torch.float64 else torch.float32
    if value.dtype is wanted and value.device == x.device and value.is_contiguous() and not value.requires_grad:
        return 0.0, value
    return 0.0, value.detach().to(device=x.device, dtype=wanted).contiguous()


def per_chain(t: Any, name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """t # (n,) on x's device."""
    fits = isinstance(t, Tensor) and t.shape == x.shape[:1] and t.dtype in dtypes and t.device == x.device
    if not fits or not t.is_contiguous():
        got = type(t).__name__
        if isinstance(t, Tensor):
            got = f"{tuple(t.shape)}, {t.dtype}, strides {t.stride()}, on {t.device}"
        known = " or ".join(str(d) for d in dtypes)
        raise ValueError(f"{name} must be a contiguous tensor of shape ({x.shape[0]},), {known}, on {x.device}; got {got}")


def indices(t: Tensor, name: str, size: int) -> None:
    """Numbers in 0 ... size - 1 on a CPU, where a row outside would be read or overwritten; a GPU would have to be waited for."""
    if t.is_cpu and t.numel():
        low, high = torch.aminmax(t)
        if low < 0 or high >= size:
            raise ValueError(f"{name}: expected 0..{size - 1}, got {int(low)}..{int(high)}")


def bounds(pair: Any, name: str) -> tuple[float, float]:
    """(lo, hi) with lo < hi; None inside the pair means no bound."""
    try:
        lo, hi = pair
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (low, high), got {pair!r}") from None
    try:
        lo, hi = -math.inf if lo is None else float(lo), math.inf if hi is None else float(hi)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair of numbers (low, high), got {pair!r}") from None
    if not lo < hi:
        raise ValueError(f"{name} must be a pair (low, high) with low < high, got {pair!r}")
    return lo, hi


def counter(seed: Any, step: Any, chain_offset: Any, rng: Any, x: Tensor) -> None:
    """The seed's and step's ranges, chain indices within 32 bits, and the device tensor that replaces them."""
    if type(seed) is not int or type(step) is not int or type(chain_offset) is not int:
        for value, name in ((seed, "seed"), (step, "step"), (chain_offset, "chain_offset")):
            if type(value) is not int:
                raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")
    if not 0 <= step < 2**56:
        raise ValueError(f"step must be in [0, 2**56), got {step}")
    chains, numbers = x.shape[0], x.numel()
    if not 0 <= chain_offset <= 2**32 - chains:
        raise ValueError(f"chain_offset must be in [0, 2**32 - {chains}], got {chain_offset}")
    if numbers > 2**34 and numbers // chains > 2**34:
        raise ValueError(f"an event must have at most 2**34 elements, got shape {tuple(x.shape[1:])}")
    if rng is not None and (
        not isinstance(rng, Tensor) or rng.shape != (2,) or rng.dtype != torch.int64 or rng.device != x.device
        or not rng.is_contiguous()
    ):  # fmt: skip
        raise ValueError(f"rng must be a contiguous int64 tensor [seed, step] on {x.device}, got {rng!r}")
