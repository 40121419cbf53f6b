"""Kick and drift of the leapfrog integrator in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import bound, define


def _impl(x: Tensor, momentum: Tensor, grad: Tensor, *args: Any) -> None:
    if x.numel():
        checks.refuse_unsafe((("x", x), ("momentum", momentum)), (("grad", grad),))
        route("leapfrog_", x, args[-1])(x, momentum, grad, *args[:-1])
        increment_version((x, momentum))


_op = define(
    "leapfrog_(Tensor(a!) x, Tensor(b!) momentum, Tensor grad, Tensor? scale, Tensor? kick_at, Tensor? drift_at, float kick, "
    "float drift, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def leapfrog_(
    x: Tensor,  # (n, *event)
    momentum: Tensor,  # (n, *event)
    grad: Tensor,  # (n, *event)
    *,
    kick: float | Tensor,  # () or (n,)
    drift: float | Tensor,  # () or (n,)
    scale: Tensor | None = None,  # (*event)
    backend: str | None = None,
) -> None:
    """p <- p - kick scale g;  x <- x + drift scale p; in place.

    Args:
        x: positions (n, *event), float32 or float64, contiguous.
        momentum: whitened momentum p, like x (see `propose_`).
        grad: g, gradient of the energy at x, like x.
        kick, drift: numbers, or tensors () or (n,) that are read on the device; drift=0 is a kick alone.
        scale: sigma (*event), the square root of a diagonal inverse mass; None for 1.
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or shape; nothing is then changed.

    Source: Leimkuhler and Reich 2004; Neal 2011, eqs. 5.18-5.20.
    """
    numbers = _checked(x, momentum, grad, scale, kick, drift)
    _op(x, momentum, grad, scale, *numbers, backend or "auto")


def leapfrog_steps(
    x: Tensor,  # (n, *event)
    momentum: Tensor,  # (n, *event)
    *,
    kick: float | Tensor,  # () or (n,)
    drift: float | Tensor,  # () or (n,)
    scale: Tensor | None = None,  # (*event)
    backend: str | None = None,
) -> Callable[[Tensor], None]:
    """f(grad) that does what `leapfrog_` does with these arguments, for loops: what stays is checked here, once.

    `grad` must be like x, contiguous and apart from x and momentum. Raises as `leapfrog_`.
    """
    numbers = _checked(x, momentum, momentum, scale, kick, drift)
    checks.refuse_unsafe((("x", x), ("momentum", momentum)), ())
    run, changed = bound("leapfrog_", _op, x, backend), (x, momentum)

    def leap(grad: Tensor) -> None:
        run(x, momentum, grad, scale, *numbers)
        increment_version(changed)

    return leap


def _checked(x: Tensor, momentum: Tensor, grad: Tensor, scale: Tensor | None, kick: Any, drift: Any) -> tuple[Any, ...]:
    """The op's arguments from kick_at on."""
    checks.exact_state(x, "x")
    checks.all_like(x, (("momentum", momentum), ("grad", grad)), required=2)
    checks.event_like(scale, "scale", x)
    k, k_at = checks.signed_coefficient(kick, "kick", x)
    d, d_at = checks.signed_coefficient(drift, "drift", x)
    return k_at, d_at, k, d
