"""Start of a trajectory: fresh momentum, its kinetic energy, first kick and first drift in one pass over memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import pick, route
from .library import bound, define, observed
from .noise import fresh_seed, signed64
from .purposes import purpose_tag

# The longest event whose product with the factor is fused, by backend and dtype; above it the library's product is the faster.
_FUSED_PRODUCT = {
    ("cpu", torch.float32): 1024, ("cpu", torch.float64): 1024, ("cuda", torch.float32): 256, ("cuda", torch.float64): 256,
    ("triton", torch.float32): 128, ("triton", torch.float64): 0,
}  # fmt: skip


def _impl(x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, scale: Tensor | None,
          factor: Tensor | None, kinetic: Tensor | None, *args: Any) -> None:  # fmt: skip
    if not x.numel():
        if kinetic is not None:
            kinetic.zero_()
        return
    _refuse(x, proposal, momentum, grad, kinetic)
    run = route("propose_", x, args[-1])
    if factor is not None and not _is_fused(x, factor, args[-1]):
        run = functools.partial(_by_library, args[-1])
    run(x, proposal, momentum, grad, scale, factor, kinetic, *args[:-1])
    increment_version([t for t in (proposal, momentum, kinetic) if t is not None])


def _refuse(x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, kinetic: Tensor | None) -> None:
    in_place = proposal is not None and proposal.data_ptr() == x.data_ptr()
    checks.refuse_unsafe(
        (("proposal", proposal), ("momentum", momentum), ("kinetic", kinetic)), (("grad", grad), ("x", None if in_place else x))
    )


def _is_fused(x: Tensor, factor: Tensor, asked: str) -> bool:
    backend = pick(asked, x.device)
    return backend == "reference" or factor.shape[0] <= _FUSED_PRODUCT[backend, x.dtype]


def _by_library(
    backend: str, x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, scale: None, factor: Tensor,
    kinetic: Tensor | None, kick_at: Tensor | None, drift_at: Tensor | None, persistence_at: Tensor | None,
    fresh_at: Tensor | None, rng: Tensor | None, kick: float, drift: float, persistence: float, fresh: float, purpose: int,
    seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """The same in three passes around torch's product."""
    z, v = torch.empty_like(x), torch.empty_like(x) if momentum is None else momentum
    route("propose_", x, backend)(x, None, z, None, None, None, kinetic, None, None, None, None, rng, 0.0, 0.0, 0.0, 1.0,
                                  purpose, seed, step, chain_offset)  # fmt: skip
    torch.mm(z.view(x.shape[0], -1), factor.triu(), out=v.view(x.shape[0], -1))
    q = z if proposal is None else proposal
    if q.data_ptr() != x.data_ptr():
        q.copy_(x)
    if grad is None:
        grad, kick, kick_at = torch.zeros_like(x), 0.0, None
    route("leapfrog_", x, backend)(q, v, grad, None, kick_at, drift_at, kick, drift)


_op = define(
    "propose_(Tensor x, Tensor(a!)? proposal, Tensor(b!)? momentum, Tensor? grad, Tensor? scale, Tensor? factor, "
    "Tensor(c!)? kinetic, Tensor? kick_at, Tensor? drift_at, Tensor? persistence_at, Tensor? fresh_at, Tensor? rng, "
    "float kick, float drift, float persistence, float fresh, int purpose, SymInt seed, SymInt step, SymInt chain_offset, "
    "str backend) -> ()",
    _impl,
    lambda *args: None,
)


def propose_(
    x: Tensor,  # (n, *event)
    *,
    proposal: Tensor | None = None,  # (n, *event)
    momentum: Tensor | None = None,  # (n, *event)
    grad: Tensor | None = None,  # (n, *event)
    scale: Tensor | None = None,  # (*event)
    factor: Tensor | None = None,  # (d, d)
    kinetic: Tensor | None = None,  # (n,)
    kick: float | Tensor = 0.0,  # () or (n,)
    drift: float | Tensor = 0.0,  # () or (n,)
    persistence: float | Tensor = 0.0,  # () or (n,)
    purpose: str = "momentum",
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> None:
    """p <- c p + sqrt(1 - c^2) z;  K = |p|^2 / 2;  p <- p - kick scale g;  proposal <- x + drift scale p.

    p is the whitened momentum: with `scale` = sigma, the square root of a diagonal inverse mass, it is standard normal. With
    kick = e/2 and drift = e this starts a Hamiltonian trajectory, or makes MALA's whole proposal; without `grad` and
    `momentum` it is the random walk x + drift scale z.

    With `factor` = R' of a dense inverse mass M^-1 = R R' (R lower triangular): K = |z|^2 / 2;  v = R z ~ N(0, M^-1);  v <- v -
    kick u;  proposal <- x + drift v. What is carried is then the velocity v = M^-1 p, which u = M^-1 g kicks, and what follows
    are the passes of a unit mass; see `inverse_factor` of `metropolis_`. Only the triangle is multiplied, in cache. On a CPU
    (Zen 4, one thread, float32) noise, `torch.mm` and leapfrog one after the other, and this op instead, take in us

        n x d    4 x 4   256 x 32   256 x 100   4096 x 100   256 x 500   4096 x 500
        three    21      40         122         1980         1570        65800
        one      15      30         93          1340         865         26500

    The full product u is the caller's: `torch.matmul`, with which a kernel of ours would have no triangle to save.

    Args:
        x: state (n, *event), float32 or float64, contiguous; read (`proposal` may be x itself).
        proposal: written, like x; None leaves positions alone (a refreshment of the momentum only).
        momentum: p, like x, updated in place (read only where c != 0); None where nobody needs it afterwards and c = 0.
        grad: g, gradient of the energy at x, like x; None for no kick.
        scale: sigma (*event), like an event of x, shared by all chains; None for 1.
        factor: R' (d, d), d the number of elements of an event, of x's dtype: upper triangular, what lies below the diagonal is
            not used. In place of `scale`, and without persistence; `momentum` is v and `grad` is u.
        kinetic: K, float64 (n,), written; summed in float64 in an order that depends on the event alone.
        kick, drift: numbers, or tensors () or (n,) that are read on the device.
        persistence: c in [-1, 1], likewise; 0 draws the momentum afresh. A tensor's range is not looked at: beyond 1 is NaN.
        purpose, seed, step, chain_offset, rng, generator, backend: as `normal_`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Duane et al. 1987, Horowitz 1991 (persistence), Roberts and Tweedie 1996 (MALA), Metropolis et al. 1953.
    """
    numbers = _checked(x, proposal, momentum, grad, scale, factor, kinetic, kick, drift, persistence, purpose, seed, step,
                       chain_offset, rng, generator)  # fmt: skip
    _op(x, proposal, momentum, grad, scale, factor, kinetic, *numbers, step, chain_offset, backend or "auto")


def propose_steps(
    x: Tensor,  # (n, *event)
    *,
    proposal: Tensor | None = None,  # (n, *event)
    momentum: Tensor | None = None,  # (n, *event)
    scale: Tensor | None = None,  # (*event)
    factor: Tensor | None = None,  # (d, d)
    kinetic: Tensor | None = None,  # (n,)
    kick: float | Tensor = 0.0,  # () or (n,)
    drift: float | Tensor = 0.0,  # () or (n,)
    persistence: float | Tensor = 0.0,  # () or (n,)
    purpose: str = "momentum",
    seed: int,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> Callable[[Tensor | None, int], None]:
    """f(grad, step) that does what `propose_` does with these arguments, for loops: what stays is checked here, once.

    `grad` must be like x, contiguous and apart from what is written. Raises as `propose_`.
    """
    numbers = _checked(x, proposal, momentum, None, scale, factor, kinetic, kick, drift, persistence, purpose, seed, 0,
                       chain_offset, rng, None)  # fmt: skip
    _refuse(x, proposal, momentum, None, kinetic)
    run = bound("propose_", _op, x, backend)
    if factor is not None and x.numel() and not _is_fused(x, factor, backend or "auto") and not observed():
        run = functools.partial(_by_library, backend or "auto")
    changed = [t for t in (proposal, momentum, kinetic) if t is not None]

    def propose(grad: Tensor | None, step: int) -> None:
        run(x, proposal, momentum, grad, scale, factor, kinetic, *numbers, step, chain_offset)
        increment_version(changed)

    return propose


def _checked(
    x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, scale: Tensor | None,
    factor: Tensor | None, kinetic: Tensor | None, kick: Any, drift: Any, persistence: Any, purpose: str, seed: int | None,
    step: int, chain_offset: int, rng: Tensor | None, generator: torch.Generator | None,
) -> tuple[Any, ...]:  # fmt: skip
    """The op's arguments from kick_at to seed."""
    checks.exact_state(x, "x")
    checks.all_like(x, (("proposal", proposal), ("momentum", momentum), ("grad", grad)))
    checks.event_like(scale, "scale", x)
    if factor is not None:
        checks.square_like(factor, "factor", x)
        if scale is not None:
            raise ValueError("give scale (diagonal) or factor (dense), not both")
    checks.chain_numbers(kinetic, "kinetic", x)
    k, k_at = checks.signed_coefficient(kick, "kick", x)
    d, d_at = checks.signed_coefficient(drift, "drift", x)
    c, c_at = checks.signed_coefficient(persistence, "persistence", x)
    if not -1.0 <= c <= 1.0:
        raise ValueError(f"persistence must be in [-1, 1], got {persistence!r}")
    if (c or c_at is not None) and momentum is None:
        raise ValueError(f"persistence={persistence} needs momentum, a tensor like x that carries it from call to call")
    if (c or c_at is not None) and factor is not None:
        raise ValueError(f"factor draws the velocity afresh, so it takes no persistence, got {persistence!r}")
    n_at = None if c_at is None else (1.0 - c_at.double().square()).sqrt().to(c_at.dtype)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, x)
    return k_at, d_at, c_at, n_at, rng, k, d, c, math.sqrt(1.0 - c * c), purpose_tag(purpose), signed64(seed)
