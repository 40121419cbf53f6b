"""The fused Langevin update: gradient step, clip, clamp and noise in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import bound, define
from .noise import fresh_seed, signed64
from .norm import event_norm
from .purposes import PURPOSES

_INF = math.inf
_TAG = PURPOSES["langevin"]


def _impl(x: Tensor, grad: Tensor | None, velocity: Tensor | None, norm_sum: Tensor | None, *args: Any) -> None:
    if x.numel():
        _refuse(x, grad, velocity, norm_sum, args)
        route("langevin_step_", x, args[-1])(x, grad, velocity, norm_sum, *args[:-1])
        increment_version(_written(x, velocity, norm_sum))


def _written(x: Tensor, velocity: Tensor | None, norm_sum: Tensor | None) -> Any:
    if velocity is None and norm_sum is None:
        return x
    return [t for t in (x, velocity, norm_sum) if t is not None]


_SMALL = ("step_size", "noise_std", "the gradient's factor", "active", "scale", "rng")  # of the arguments after norm_sum
_NOTHING = (None,) * len(_SMALL)


def _refuse(x: Tensor, grad: Tensor | None, velocity: Tensor | None, norm_sum: Tensor | None, small: Sequence[Any]) -> None:
    """Memory that the kernels cannot read or write as they must."""
    for t, name in zip(small, _SMALL, strict=False) if small[:6] != _NOTHING else ():
        if t is not None:
            checks.refuse_overlap(x, "x", t, name, same=False)
            if velocity is not None:
                checks.refuse_overlap(velocity, "velocity", t, name, same=False)
    checks.refuse_negated(x, "x")
    if grad is not None:
        checks.refuse_negated(grad, "grad")
    checks.refuse_overlap(x, "x", grad, "grad")
    checks.refuse_read_only(x, "x")
    if velocity is not None:
        checks.refuse_overlap(x, "x", velocity, "velocity", same=False)
        checks.refuse_overlap(velocity, "velocity", grad, "grad", same=False)
        checks.refuse_read_only(velocity, "velocity")
    if norm_sum is not None:
        for t, name in ((x, "x"), (grad, "grad"), (velocity, "velocity")):
            checks.refuse_overlap(norm_sum, "norm_sum", t, name, same=False)
        checks.refuse_overlap(x, "x", grad, "grad", same=False)  # the norm is that of the gradient before x moves
        checks.refuse_read_only(norm_sum, "norm_sum")


_op = define(
    "langevin_step_(Tensor(a!) x, Tensor? grad, Tensor(b!)? velocity, Tensor(c!)? norm_sum, Tensor? step_size_at, "
    "Tensor? noise_std_at, Tensor? grad_scale, Tensor? active, Tensor? scale, Tensor? rng, float step_size, float noise_std, "
    "float momentum, float prior_precision, float grad_clip, float step_lo, float step_hi, float noise_lo, float noise_hi, "
    "int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def langevin_step_(
    x: Tensor,  # (n, *event)
    grad: Tensor | None,  # (n, *event)
    *,
    step_size: float | Tensor,  # () or (n,)
    noise_std: float | Tensor | None = None,  # () or (n,)
    temperature: float = 1.0,
    clamp: tuple[float | None, float | None] | None = None,
    clamp_after: str = "noise",
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    prior_precision: float = 0.0,
    velocity: Tensor | None = None,  # (n, *event)
    momentum: float = 0.0,
    active: Tensor | None = None,  # (n,)
    scale: Tensor | None = None,  # (*event)
    norm_sum: Tensor | None = None,  # (n,)
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """x <- clamp(clamp(x - s (clip(g) + p x)) + n z), with n = sqrt(2 s T) unless given; in place, one pass over memory.

    With `velocity`: v <- m v - s (clip(g) + p x), x <- x + v + n z (heavy ball). With `scale` = sigma, the square root of a
    diagonal preconditioner: s sigma^2 in place of s and n sigma in place of n.

    The order "noise first" of many EBM scripts (the gradient is taken at the noised point) is the same pass, shifted by half a
    step: `grad=None` adds noise only, then every call takes a gradient step and adds the next step's noise, and
    the last call has `noise_std=0`. `ebm_fast.langevin_(order="noise")` does so.

    Args:
        x: state (n, *event), float32, float64, bfloat16 or float16, contiguous; the arithmetic is float32 (float64 for float64).
        grad: gradient of the energy, like x; None for a pass that only adds noise.
        step_size: gradient step s >= 0; a tensor () or (n,) is read on the device and its values are not checked.
        noise_std: noise n >= 0; None couples it to the step by the temperature; 0 draws no noise.
        temperature: T >= 0 in n = sqrt(2 s T); ignored where noise_std is given.
        clamp: (low, high), None for an open end.
        clamp_after: "noise" (at the end), "step" (between step and noise) or "both".
        grad_clip: elementwise bound c: g <- min(max(g, -c), c).
        grad_clip_norm: bound on each chain's gradient norm: g <- g min(1, c / |g|).
        prior_precision: p of an added prior energy p |x|^2 / 2 (not clipped).
        velocity, momentum: state v, like x and updated in place, and factor m of the heavy ball.
        active: (n,) bool or uint8; chains with 0 are left alone.
        scale: sigma (*event), shared by all chains, float32 (float64 for a float64 x).
        norm_sum: float64 (n,), += |g| of the active chains, before any clip; x may then not be grad itself.
        seed, step, chain_offset, rng, generator: the noise's counter, see `normal_`. Under torch.compile give `seed` or
            `rng`: drawing a seed cannot be traced. Counters may change from call to call; numbers such as step_size are part of
            what was compiled: pass one that changes as a tensor.
        backend: see `ebm_fast.use_backend`.

    Returns:
        x.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; x is then unchanged.

    Source: the unadjusted Langevin algorithm; its EBM forms in Du and Mordatch 2019, Nijkamp et al. 2019, Grathwohl et al. 2020.
    """
    if norm_sum is not None and grad is None:
        raise ValueError("norm_sum needs grad, whose norms it sums; got grad=None")
    flat, bound_on_norm = _checked(
        x, grad, step_size, noise_std, temperature, clamp, clamp_after, grad_clip, grad_clip_norm, prior_precision, velocity,
        momentum, active, scale, norm_sum, seed, step, chain_offset, rng, generator,
    )  # fmt: skip
    s_at, n_at, *rest = flat
    shrink = _shrink(grad, bound_on_norm, backend)
    _op(x, grad, velocity, norm_sum, s_at, n_at, shrink, *rest, step, chain_offset, backend or "auto")
    return x


def langevin_steps(
    x: Tensor,  # (n, *event)
    *,
    step_size: float | Tensor,  # () or (n,)
    noise_std: float | Tensor,  # () or (n,)
    clamp: tuple[float | None, float | None] | None = None,
    clamp_after: str = "noise",
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    prior_precision: float = 0.0,
    velocity: Tensor | None = None,  # (n, *event)
    momentum: float = 0.0,
    active: Tensor | None = None,  # (n,)
    scale: Tensor | None = None,  # (*event)
    norm_sum: Tensor | None = None,  # (n,)
    seed: int,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> Callable[[Tensor | None, int], None]:
    """f(grad, step) that does what `langevin_step_` does with these arguments, for loops: what stays is checked here, once.

    `grad` must be like x, contiguous and apart from it; None adds noise alone. Between an energy's passes the checks of a call
    find their code out of the cache and take as long as a small network's layer. Raises as `langevin_step_`.
    """
    flat, bound_on_norm = _checked(
        x, None, step_size, noise_std, 1.0, clamp, clamp_after, grad_clip, grad_clip_norm, prior_precision, velocity, momentum,
        active, scale, norm_sum, seed, 0, chain_offset, rng, None,
    )  # fmt: skip
    s_at, n_at, *rest = flat
    changed = _written(x, velocity, norm_sum)
    if x.numel():
        _refuse(x, None, velocity, norm_sum, (s_at, n_at, None, *rest))
    run = bound("langevin_step_", _op, x, backend)

    def advance(grad: Tensor | None, step: int) -> None:
        summed = None if grad is None else norm_sum
        run(x, grad, velocity, summed, s_at, n_at, _shrink(grad, bound_on_norm, backend), *rest, step, chain_offset)
        increment_version(changed)

    return advance


def _shrink(grad: Tensor | None, bound: float | None, backend: str | None) -> Tensor | None:  # (n,)
    """Factor that brings each chain's gradient down to norm `bound`."""
    if bound is None or grad is None:
        return None
    return bound / event_norm(grad, backend=backend).clamp_(min=bound or 1.0)


def _checked(
    x: Tensor, grad: Tensor | None, step_size: Any, noise_std: Any, temperature: Any, clamp: Any, clamp_after: str,
    grad_clip: Any, grad_clip_norm: Any, prior_precision: Any, velocity: Any, momentum: Any, active: Any, scale: Any,
    norm_sum: Any, seed: int | None, step: int, chain_offset: int, rng: Any, generator: Any,
) -> tuple[tuple[Any, ...], float | None]:  # fmt: skip
    """The op's arguments from step_size_at to seed, without grad_scale; and the bound on the gradient's norm."""
    checks.state(x, "x")
    if grad is not None:
        checks.like(grad, "grad", x)
    s, s_at = checks.coefficient(step_size, "step_size", x)
    if noise_std is None:
        T = checks.number(temperature, "temperature", low=0.0)
        n, n_at = (math.sqrt(2.0 * s * T), None) if s_at is None else (0.0, (s_at * (2.0 * T)).sqrt())
    else:
        n, n_at = checks.coefficient(noise_std, "noise_std", x)
    step_lo, step_hi, noise_lo, noise_hi = -_INF, _INF, -_INF, _INF
    if clamp is not None:
        lo, hi = checks.bounds(clamp, "clamp")
        if clamp_after not in ("noise", "step", "both"):
            raise ValueError(f"clamp_after must be 'noise', 'step' or 'both', got {clamp_after!r}")
        if clamp_after != "noise":
            step_lo, step_hi = lo, hi
        if clamp_after != "step":
            noise_lo, noise_hi = lo, hi
    c = _INF if grad_clip is None else checks.number(grad_clip, "grad_clip", low=0.0, infinite=True)
    p = checks.number(prior_precision, "prior_precision")
    m = checks.number(momentum, "momentum")
    if velocity is not None:
        checks.state(velocity, "velocity")
        checks.like(velocity, "velocity", x)
    elif m:
        raise ValueError(f"momentum={m} needs velocity, a tensor like x that carries it from call to call")
    if active is not None:
        checks.per_chain(active, "active", x, (torch.bool, torch.uint8))
    checks.chain_numbers(norm_sum, "norm_sum", x)
    if seed is None:
        noisy = n_at is not None or n != 0.0
        seed = fresh_seed(generator) if noisy and rng is None else 0
    checks.counter(seed, step, chain_offset, rng, x)
    if scale is not None:
        arithmetic = torch.float64 if x.dtype == torch.float64 else torch.float32
        checks.exactly(scale, "scale", tuple(x.shape[1:]), arithmetic, x.device)
    bound_on_norm = None
    if grad_clip_norm is not None:
        bound_on_norm = checks.number(grad_clip_norm, "grad_clip_norm", low=0.0)
        if grad_clip is not None:
            raise ValueError("give grad_clip (elementwise) or grad_clip_norm (per chain), not both")
    flat = (s_at, n_at, active, scale, rng, s, n, m, p, c, step_lo, step_hi, noise_lo, noise_hi, _TAG, signed64(seed))
    return flat, bound_on_norm
