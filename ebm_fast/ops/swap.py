"""Replica exchange: swaps between neighbouring temperatures, decided and done in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define
from .noise import fresh_seed, signed64
from .purposes import PURPOSES

_TAG = PURPOSES["swap"]


def _impl(x: Tensor, energy: Tensor, betas: Tensor, grad: Tensor | None, labels: Tensor | None, counters: Tensor | None,
          *args: Any) -> None:  # fmt: skip
    if x.shape[0] and x.shape[1] > 1:
        written = (("x", x), ("energy", energy), ("grad", grad), ("labels", labels), ("counters", counters))
        checks.refuse_unsafe(written, (("betas", betas),))
        route("swap_", x, args[-1])(x, energy, betas, grad, labels, counters, *args[:-1])
        increment_version([t for _, t in written if t is not None])


_op = define(
    "swap_(Tensor(a!) x, Tensor(b!) energy, Tensor betas, Tensor(c!)? grad, Tensor(d!)? labels, Tensor(e!)? counters, "
    "Tensor? rng, int parity, int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def swap_(
    x: Tensor,  # (n, r, *event)
    energy: Tensor,  # (n, r)
    betas: Tensor,  # (r,)
    *,
    parity: int,
    grad: Tensor | None = None,  # (n, r, *event)
    labels: Tensor | None = None,  # (n, r)
    counters: Tensor | None = None,  # (n, r - 1, 2)
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> None:
    """Swaps replicas j and j + 1 of a chain, for all j = parity, parity + 2, ..., with probability
    min(1, exp((beta_j - beta_{j+1}) (E_j - E_{j+1}))); the energies are those of temperature 1.

    The decision is log u <= a, u in (0, 1] word j of the chain's noise for "swap". A pair with an energy that is not finite
    stays.

    Args:
        x: states (n, r, *event), float32 or float64, contiguous: r replicas of n chains.
        energy: energies (n, r), like x.
        betas: inverse temperatures, float64 (r,), on x's device.
        parity: 0 or 1.
        grad: gradients (n, r, *event), swapped along.
        labels: int64 (n, r), swapped along: which walker is where.
        counters: float64 (n, r - 1, 2), updated for each pair tried: += acceptance probability, += 1 if swapped.
        seed, step, chain_offset, rng, generator, backend: as `normal_`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Swendsen and Wang 1986; Geyer 1991.
    """
    checks.exact_state(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x must have shape (n, replicas, *event), got {tuple(x.shape)}")
    if grad is not None:
        checks.like(grad, "grad", x)
    n, r = x.shape[:2]
    for t, name, shape, dtype in ((energy, "energy", (n, r), x.dtype), (betas, "betas", (r,), torch.float64),
                                  (labels, "labels", (n, r), torch.int64),
                                  (counters, "counters", (n, max(r - 1, 0), 2), torch.float64)):  # fmt: skip
        if t is not None or name in ("energy", "betas"):
            checks.exactly(t, name, shape, dtype, x.device)
    if parity not in (0, 1):
        raise ValueError(f"parity must be 0 or 1, got {parity!r}")
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, x)
    _op(x, energy, betas, grad, labels, counters, rng, parity, _TAG, signed64(seed), step, chain_offset, backend or "auto")
