"""The divergence guard: which chains can take their next step, and the norm of their gradients, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import bound, define

_INF = math.inf
_MASKS = (torch.bool, torch.uint8)


def _impl(x: Tensor, grad: Tensor, momentum: Tensor | None, energy: Tensor | None, divergence_step: Tensor | None,
          active: Tensor | None, norm_sum: Tensor | None, *args: Any) -> None:  # fmt: skip
    written = (("divergence_step", divergence_step), ("active", active), ("norm_sum", norm_sum))
    if x.numel():
        checks.refuse_unsafe(written, (("x", x), ("grad", grad), ("momentum", momentum), ("energy", energy)))
        route("guard_", x, args[-1])(x, grad, momentum, energy, divergence_step, active, norm_sum, *args[:-1])
    elif active is not None:
        active.fill_(1) if divergence_step is None else active.copy_(divergence_step < 0)
    increment_version([t for _, t in written if t is not None])


_op = define(
    "guard_(Tensor x, Tensor grad, Tensor? momentum, Tensor? energy, Tensor(a!)? divergence_step, Tensor(b!)? active, "
    "Tensor(c!)? norm_sum, Tensor? step_size_at, Tensor? noise_std_at, Tensor? stretch_at, Tensor? rng, float step_size, "
    "float noise_std, float stretch, float heavy_ball, float prior_precision, float grad_clip, float grad_clip_norm, "
    "bool kinetic, SymInt step, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def guard_(
    x: Tensor,  # (n, *event)
    grad: Tensor,  # (n, *event)
    *,
    energy: Tensor | None = None,  # (n,)
    divergence_step: Tensor | None = None,  # (n,)
    active: Tensor | None = None,  # (n,)
    norm_sum: Tensor | None = None,  # (n,)
    momentum: Tensor | None = None,  # (n, *event)
    step_size: float | Tensor = 0.0,  # () or (n,)
    noise_std: float | Tensor = 0.0,  # () or (n,)
    stretch: float | Tensor = 1.0,  # () or (n,)
    heavy_ball: float = 0.0,
    prior_precision: float = 0.0,
    grad_clip: float = _INF,
    grad_clip_norm: float = _INF,
    kinetic: bool = False,
    step: int = 0,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> None:
    """frozen <- frozen or E is not finite or r > max;  norm_sum += |g| of the others, with r a bound on |x'| of the next step.

    Langevin: r = (1 + a |p|) |x| + a |g| + |m| |v| + 6.77 n stretch, a = s stretch^2; BAOAB (`kinetic`):
    r = |x| + e (|v| + e |g| + 6.77 n), e = s stretch. No normal of ours exceeds 6.77, and max is the largest number of x's
    dtype: what passes cannot overflow, so a frozen state is finite. |.| is the norm, summed in float64; in float16, whose range
    the norm may leave, the largest element.

    Args:
        x: state (n, *event), float32, float64, bfloat16 or float16, contiguous.
        grad: g, gradient at x, like x.
        energy: E (n,) at x, float32, or float64 for a float64 x; needed with divergence_step.
        divergence_step: int64 (n,), -1 for a chain that goes on; the chains frozen by this call get `step`. None: nothing is
            looked for.
        active: bool or uint8 (n,), written: whether the chain goes on.
        norm_sum: float64 (n,), += |g| of the chains that go on.
        momentum: v like x: BAOAB's momentum, or the velocity of the heavy ball m.
        step_size, noise_std: s and n of the step, numbers, or tensors () or (n,) that are read on the device.
        stretch: the largest element of the scale, likewise.
        heavy_ball, prior_precision, grad_clip, grad_clip_norm: m, p and bounds on the gradient, as `langevin_step_`.
        step, rng: index of the step, added to rng[1] where rng [seed, step] is given.
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.
    """
    numbers = _checked(x, grad, energy, divergence_step, active, norm_sum, momentum, step_size, noise_std, stretch, heavy_ball,
                       prior_precision, grad_clip, grad_clip_norm, kinetic, step, rng)  # fmt: skip
    _op(x, grad, momentum, energy, divergence_step, active, norm_sum, *numbers, step, backend or "auto")


def guard_steps(
    x: Tensor,  # (n, *event)
    *,
    divergence_step: Tensor | None = None,  # (n,)
    active: Tensor | None = None,  # (n,)
    norm_sum: Tensor | None = None,  # (n,)
    momentum: Tensor | None = None,  # (n, *event)
    step_size: float | Tensor = 0.0,  # () or (n,)
    noise_std: float | Tensor = 0.0,  # () or (n,)
    stretch: float | Tensor = 1.0,  # () or (n,)
    heavy_ball: float = 0.0,
    prior_precision: float = 0.0,
    grad_clip: float = _INF,
    grad_clip_norm: float = _INF,
    kinetic: bool = False,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> Callable[[Tensor, Tensor | None, int], None]:
    """f(grad, energy, step) that does what `guard_` does with these arguments, for loops: what stays is checked here, once.

    `grad` must be like x and `energy` as there, contiguous and apart from what is written. Raises as `guard_`.
    """
    energy = None if divergence_step is None else x.new_empty(x.shape[:1], dtype=_arithmetic(x))
    numbers = _checked(x, x, energy, divergence_step, active, norm_sum, momentum, step_size, noise_std, stretch, heavy_ball,
                       prior_precision, grad_clip, grad_clip_norm, kinetic, 0, rng)  # fmt: skip
    written = (("divergence_step", divergence_step), ("active", active), ("norm_sum", norm_sum))
    checks.refuse_unsafe(written, (("x", x), ("momentum", momentum)))
    run, changed = bound("guard_", _op, x, backend), [t for _, t in written if t is not None]

    def look(grad: Tensor, energy: Tensor | None, step: int) -> None:
        run(x, grad, momentum, energy, divergence_step, active, norm_sum, *numbers, step)
        increment_version(changed)

    return look


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def _checked(
    x: Tensor, grad: Tensor, energy: Tensor | None, divergence_step: Tensor | None, active: Tensor | None,
    norm_sum: Tensor | None, momentum: Tensor | None, step_size: Any, noise_std: Any, stretch: Any, heavy_ball: Any,
    prior_precision: Any, grad_clip: Any, grad_clip_norm: Any, kinetic: bool, step: int, rng: Tensor | None,
) -> tuple[Any, ...]:  # fmt: skip
    """The op's arguments from step_size_at to kinetic."""
    checks.state(x, "x")
    checks.all_like(x, (("grad", grad), ("momentum", momentum)), required=1)
    n, device = x.shape[:1], x.device
    if divergence_step is not None:
        checks.exactly(divergence_step, "divergence_step", n, torch.int64, device)
        checks.exactly(energy, "energy", n, _arithmetic(x), device)
    if active is not None:
        checks.per_chain(active, "active", x, _MASKS)
    if norm_sum is not None:
        checks.exactly(norm_sum, "norm_sum", n, torch.float64, device)
    s, s_at = checks.coefficient(step_size, "step_size", x)
    c, c_at = checks.coefficient(noise_std, "noise_std", x)
    w, w_at = checks.coefficient(stretch, "stretch", x)
    m, p = checks.number(heavy_ball, "heavy_ball"), checks.number(prior_precision, "prior_precision")
    clip = checks.number(grad_clip, "grad_clip", low=0.0, infinite=True)
    clip_norm = checks.number(grad_clip_norm, "grad_clip_norm", low=0.0, infinite=True)
    checks.counter(0, step, 0, rng, x)
    return s_at, c_at, w_at, rng, s, c, w, m, p, clip, clip_norm, kinetic
