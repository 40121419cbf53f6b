"""Counter-based noise: uniforms, normals, signs and raw words that depend on (seed, step, purpose, chain, element) alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define
from .purposes import purpose_tag

_INTEGERS = (torch.int32,)
_UNIFORMS = (torch.float32, torch.float64, torch.bfloat16)
_SIGNED = 2**64


def signed64(seed: int) -> int:
    """torch's schemas hold signed integers: the same 64 bits, read as signed."""
    return seed - _SIGNED if seed >= 2**63 else seed


def fresh_seed(generator: torch.Generator | None = None) -> int:
    """One seed drawn from torch's generator, so that `torch.manual_seed` governs runs without an explicit seed."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    device = "cpu" if generator is None else generator.device
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))


def _impl(out: Tensor, *args: Any) -> None:
    if out.numel():
        checks.refuse_read_only(out, "out")
        route("noise_", out, args[-1])(out, *args[:-1])
        increment_version(out)


_op = define(
    "noise_(Tensor(a!) out, Tensor? rng, int kind, int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) "
    "-> ()",
    _impl,
    lambda *args: None,
)


def _fill(
    out: Tensor, kind: int, dtypes: tuple[torch.dtype, ...], seed: int | None, step: int, purpose: str, chain_offset: int,
    rng: Tensor | None, generator: torch.Generator | None, backend: str | None,
) -> Tensor:  # fmt: skip
    checks.state(out, "out", dtypes=dtypes)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, out)
    _op(out, rng, kind, purpose_tag(purpose), signed64(seed), step,
        chain_offset, backend or "auto")  # fmt: skip
    return out


def normal_(
    out: Tensor,  # (n, *event)
    *,
    seed: int | None = None,
    step: int = 0,
    purpose: str = "user",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """z = sqrt(-2 ln u) (cos, sin)(2 pi v), the standard normal by Box-Muller on Philox4x32-10; fills and returns `out`.

    Args:
        out: contiguous tensor (n, *event), float32, float64, bfloat16 or float16. The numbers are float32 numbers, converted.
        seed: 64-bit key; None draws one from torch's generator (or `generator`).
        step: 56-bit index of the draw; another step gives unrelated numbers.
        purpose: what the numbers are for, see `ebm_fast.ops.purposes`.
        chain_offset: global index of out[0]; out[i] holds the numbers of chain `chain_offset + i`, whatever n is.
        rng: int64 tensor [seed, step] on out's device that replaces `seed` and is added to `step` (for CUDA graphs).
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, out of range, or `out` is not contiguous.

    Source: Salmon et al. 2011 (Philox), Box and Muller 1958.
    """
    return _fill(out, 2, checks.FLOATS, seed, step, purpose, chain_offset, rng, generator, backend)


def uniform_(
    out: Tensor,  # (n, *event)
    *,
    seed: int | None = None,
    step: int = 0,
    purpose: str = "user",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """u = float32(w) 2^-32 + 2^-33 in (0, 1] from 32-bit words w; bitwise equal on every backend. Arguments as `normal_`.

    float16 is refused: its smallest number is 2^-24, and a uniform of 0 breaks logarithms.
    """
    return _fill(out, 1, _UNIFORMS, seed, step, purpose, chain_offset, rng, generator, backend)


def rademacher_(
    out: Tensor,  # (n, *event)
    *,
    seed: int | None = None,
    step: int = 0,
    purpose: str = "user",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """s = +1 or -1 with equal probability, the top bit of each word. Arguments as `normal_`."""
    return _fill(out, 3, checks.FLOATS, seed, step, purpose, chain_offset, rng, generator, backend)


def bits_(
    out: Tensor,  # (n, *event)
    *,
    seed: int | None = None,
    step: int = 0,
    purpose: str = "user",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """The raw 32-bit words of Philox4x32-10, in an int32 tensor of the same bits. Arguments as `normal_`."""
    return _fill(out, 0, _INTEGERS, seed, step, purpose, chain_offset, rng, generator, backend)
