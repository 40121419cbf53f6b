"""Underdamped Langevin dynamics: kick, drift, friction and noise, drift in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import bound, define
from .noise import fresh_seed, signed64
from .purposes import PURPOSES

_TAG = PURPOSES["momentum"]


def _impl(x: Tensor, momentum: Tensor, grad: Tensor, *args: Any) -> None:
    if x.numel():
        checks.refuse_unsafe((("x", x), ("momentum", momentum)), (("grad", grad),))
        route("baoab_", x, args[-1])(x, momentum, grad, *args[:-1])
        increment_version((x, momentum))


_op = define(
    "baoab_(Tensor(a!) x, Tensor(b!) momentum, Tensor grad, Tensor? scale, Tensor? active, Tensor? kick_at, Tensor? drift_at, "
    "Tensor? persistence_at, Tensor? noise_std_at, Tensor? rng, float kick, float drift, float persistence, float noise_std, "
    "int kicks, int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def baoab_(
    x: Tensor,  # (n, *event)
    momentum: Tensor,  # (n, *event)
    grad: Tensor,  # (n, *event)
    *,
    kick: float | Tensor,  # () or (n,)
    drift: float | Tensor,  # () or (n,)
    persistence: float | Tensor,  # () or (n,)
    noise_std: float | Tensor,  # () or (n,)
    kicks: int = 1,
    scale: Tensor | None = None,  # (*event)
    active: Tensor | None = None,  # (n,)
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> None:
    """p <- p - kick scale g;  x <- x + drift scale p;  p <- c p + n z;  x <- x + drift scale p; in place.

    B, A, O and A of BAOAB with kick = drift = e/2, c = exp(-friction e), n = sqrt((1 - c^2) T): the last B needs the gradient at
    the new x, so it rides on the next call (kicks=2, one half kick after the other) or is a `leapfrog_` with drift=0.

    Args:
        x: positions (n, *event), float32 or float64, contiguous.
        momentum: whitened momentum p, like x (see `propose_`).
        grad: g, gradient of the energy at x, like x.
        kick, drift, persistence, noise_std: numbers, or tensors () or (n,) that are read on the device.
        kicks: 1 or 2, how often the kick is applied.
        scale: sigma (*event), the square root of a diagonal inverse mass; None for 1.
        active: (n,) bool or uint8; chains with 0 are left alone.
        seed, step, chain_offset, rng, generator, backend: as `normal_`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Leimkuhler and Matthews 2013.
    """
    numbers = _checked(x, momentum, grad, kick, drift, persistence, noise_std, scale, active, seed, step, chain_offset, rng,
                       generator)  # fmt: skip
    if kicks not in (1, 2):
        raise ValueError(f"kicks must be 1 or 2, got {kicks!r}")
    *coefficients, tag, key = numbers
    _op(x, momentum, grad, scale, active, *coefficients, kicks, tag, key, step, chain_offset, backend or "auto")


def baoab_steps(
    x: Tensor,  # (n, *event)
    momentum: Tensor,  # (n, *event)
    *,
    kick: float | Tensor,  # () or (n,)
    drift: float | Tensor,  # () or (n,)
    persistence: float | Tensor,  # () or (n,)
    noise_std: float | Tensor,  # () or (n,)
    scale: Tensor | None = None,  # (*event)
    active: Tensor | None = None,  # (n,)
    seed: int,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> Callable[[Tensor, int, int], None]:
    """f(grad, kicks, step) that does what `baoab_` does with these arguments, for loops: what stays is checked here, once.

    `grad` must be like x, contiguous and apart from x and momentum. Raises as `baoab_`.
    """
    *coefficients, tag, key = _checked(x, momentum, momentum, kick, drift, persistence, noise_std, scale, active, seed, 0,
                                       chain_offset, rng, None)  # fmt: skip
    checks.refuse_unsafe((("x", x), ("momentum", momentum)), ())
    run, changed = bound("baoab_", _op, x, backend), (x, momentum)

    def advance(grad: Tensor, kicks: int, step: int) -> None:
        run(x, momentum, grad, scale, active, *coefficients, kicks, tag, key, step, chain_offset)
        increment_version(changed)

    return advance


def _checked(
    x: Tensor, momentum: Tensor, grad: Tensor, kick: Any, drift: Any, persistence: Any, noise_std: Any, scale: Tensor | None,
    active: Tensor | None, seed: int | None, step: int, chain_offset: int, rng: Tensor | None, generator: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The op's arguments from kick_at to seed, without kicks."""
    checks.exact_state(x, "x")
    checks.all_like(x, (("momentum", momentum), ("grad", grad)), required=2)
    checks.event_like(scale, "scale", x)
    if active is not None:
        checks.per_chain(active, "active", x, (torch.bool, torch.uint8))
    k, k_at = checks.signed_coefficient(kick, "kick", x)
    d, d_at = checks.signed_coefficient(drift, "drift", x)
    c, c_at = checks.signed_coefficient(persistence, "persistence", x)
    n, n_at = checks.coefficient(noise_std, "noise_std", x)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, x)
    return k_at, d_at, c_at, n_at, rng, k, d, c, n, _TAG, signed64(seed)
