"""Rows of a replay buffer, some of them restarted, in one pass; and their way back, without those that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define
from .noise import fresh_seed, signed64
from .purposes import PURPOSES, purpose_tag

KINDS = {"uniform": 1, "normal": 2}


def _gather(out: Tensor, source: Tensor, slots: Tensor, rows: Tensor | None, fresh: Tensor | None, *args: Any) -> None:
    if out.numel():
        checks.indices(slots, "slots", source.shape[0])
        checks.refuse_negated(source, "source")
        checks.refuse_unsafe((("out", out), ("fresh", fresh)), (("source", source), ("slots", slots), ("rows", rows)))
        route("gather_", out, args[-1])(out, source, slots, rows, fresh, *args[:-1])
        increment_version(out if fresh is None else (out, fresh))


_op = define(
    "gather_(Tensor(a!) out, Tensor source, Tensor slots, Tensor? rows, Tensor(b!)? fresh, Tensor? rng, int kind, float rate, "
    "float shift, float spread, int coin, int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _gather,
    lambda *args: None,
)


def gather_(
    out: Tensor,  # (n, *event)
    source: Tensor,  # (size, *event)
    slots: Tensor,  # (n,)
    *,
    rejuvenation: float = 0.0,
    init: tuple[str, float, float] | tuple[str, float] | Tensor = ("normal", 1.0),
    fresh: Tensor | None = None,  # (n,)
    seed: int | None = None,
    step: int = 0,
    purpose: str = "init",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """x_i = source[slots_i], or with probability R = `rejuvenation` a new state from `init`; fills and returns `out`.

    Row i starts anew where u_i <= R, u_i the chain's uniform of purpose "rejuvenation". Noise is drawn for such rows alone.

    Args:
        out: (n, *event), float32, float64, bfloat16 or float16, contiguous.
        source: (size, *event), like out but for the number of rows.
        slots: int64 (n,). On a GPU, a row whose slot lies outside becomes NaN.
        rejuvenation: R in [0, 1].
        init: ("uniform", lo, hi), ("normal", std), or rows (m, *event), like source, of which one is chosen uniformly.
        fresh: bool (n,), receives which rows started anew.
        seed, step, purpose, chain_offset, rng, generator, backend: as `normal_`; `purpose` is that of the new states.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Tieleman 2008 (persistent chains); Du and Mordatch 2019 (buffer with restarts).
    """
    checks.state(out, "out")
    _check_like(source, "source", out)
    checks.exactly(slots, "slots", (out.shape[0],), torch.int64, out.device)
    rate = checks.number(rejuvenation, "rejuvenation", low=0.0)
    if rate > 1.0:
        raise ValueError(f"rejuvenation must be a probability in [0, 1], got {rate}")
    rows, kind, shift, spread = None, 0, 0.0, 1.0
    if isinstance(init, Tensor):
        _check_like(init, "init", out)
        rows = init
    else:
        kind, shift, spread = _noise_of(init)
    if fresh is not None:
        checks.exactly(fresh, "fresh", (out.shape[0],), torch.bool, out.device)
    if seed is None:
        seed = 0 if rng is not None or not rate else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, out)
    _op(out, source, slots, rows, fresh, rng, kind, rate, shift, spread, PURPOSES["rejuvenation"], purpose_tag(purpose),
        signed64(seed), step, chain_offset, backend or "auto")  # fmt: skip
    return out


def _noise_of(init: Any) -> tuple[int, float, float]:
    """kind, shift and spread of ("uniform", lo, hi) or ("normal", std)."""
    if not isinstance(init, tuple | list) or (*init[:1], len(init)) not in (("uniform", 3), ("normal", 2)):
        raise ValueError(f"init must be ('uniform', lo, hi), ('normal', std) or rows (m, *event), got {init!r}")
    numbers = [checks.number(value, "each number of init") for value in init[1:]]
    if len(numbers) == 2:
        return KINDS["uniform"], numbers[0], numbers[1] - numbers[0]
    return KINDS["normal"], 0.0, numbers[0]


def _check_like(t: Any, name: str, out: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor of rows like out's, got {type(t).__name__}")
    alike = t.dtype is out.dtype and t.device == out.device and t.shape[1:] == out.shape[1:]
    if alike and t.shape[0] and t.is_contiguous():
        return
    wanted = ", ".join(("rows", *map(str, out.shape[1:])))
    raise ValueError(
        f"{name} must be contiguous, ({wanted}), {out.dtype}, on {out.device}, with at least one row; got {tuple(t.shape)}, "
        f"strides {t.stride()}, {t.dtype}, on {t.device}"
    )


def _scatter(target: Tensor, slots: Tensor, x: Tensor, backend: str) -> None:
    if x.numel():
        checks.indices(slots, "slots", target.shape[0])
        checks.refuse_negated(x, "x")
        checks.refuse_unsafe((("target", target),), (("slots", slots), ("x", x)))
        route("scatter_", target, backend)(target, slots, x)
        increment_version(target)


_scatter_op = define("scatter_(Tensor(a!) target, Tensor slots, Tensor x, str backend) -> ()", _scatter, lambda *args: None)


def scatter_(
    target: Tensor,  # (size, *event)
    slots: Tensor,  # (n,)
    x: Tensor,  # (n, *event)
    *,
    backend: str | None = None,
) -> Tensor:
    """target[slots_i] = x_i where every element of x_i is finite; other rows stay as they are. In place; returns `target`.

    Args:
        target: (size, *event), float32, float64, bfloat16 or float16, contiguous.
        slots: int64 (n,), all different (of equal ones any may win). On a GPU, rows whose slot lies outside are dropped.
        x: (n, *event), like target but for the number of rows.
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; target is then unchanged.
    """
    checks.state(target, "target")
    if isinstance(x, Tensor) and x.ndim and not len(x):
        return target
    _check_like(x, "x", target)
    checks.exactly(slots, "slots", (x.shape[0],), torch.int64, target.device)
    _scatter_op(target, slots, x, backend or "auto")
    return target
