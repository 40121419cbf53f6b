"""Streaming mean and variance of every element of every chain in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define


def _impl(x: Tensor, mean: Tensor, squares: Tensor, *args: Any) -> None:
    if x.numel():
        checks.refuse_unsafe((("mean", mean), ("squares", squares)), (("x", x),))
        route("moments_", x, args[-1])(x, mean, squares, *args[:-1])
        increment_version((mean, squares))


_op = define(
    "moments_(Tensor x, Tensor(a!) mean, Tensor(b!) squares, Tensor? count_at, int count, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def moments_(
    x: Tensor,  # (n, *event)
    mean: Tensor,  # (n, *event)
    squares: Tensor,  # (n, *event)
    *,
    count: int | Tensor,  # ()
    backend: str | None = None,
) -> None:
    """d = x - mean;  mean <- mean + d / count;  squares <- squares + d (x - mean); count includes this x.

    squares / (count - 1) is the variance. In place, stable for any offset of the mean; the sums have the dtype of x, so float32
    wants a fresh pair every 10^4 states or so, merged in float64 (as `sample(moments=True)` does).

    Args:
        x: new states (n, *event), float32 or float64, contiguous.
        mean, squares: running mean and sum of squared deviations, like x; zeros before the first call.
        count: number of states so far, this one included: an int, or an int64 tensor () on x's device.
        backend: see `ebm_fast.use_backend`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Welford 1962.
    """
    checks.exact_state(x, "x")
    checks.all_like(x, (("mean", mean), ("squares", squares)), required=2)
    at = None
    if isinstance(count, Tensor):
        checks.exactly(count, "count", (), torch.int64, x.device)
        at, count = count, 1
    if type(count) is not int or count < 1:
        raise ValueError(f"count must be an int of at least 1, got {count!r}")
    _op(x, mean, squares, at, count, backend or "auto")
