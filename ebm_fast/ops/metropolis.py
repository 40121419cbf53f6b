"""End of a trajectory: last kick, kinetic energy, Metropolis decision, selection and counters in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define, observed
from .noise import fresh_seed, signed64
from .purposes import PURPOSES

COUNTERS = 5  # sum of acceptance probabilities, accepted, divergent, last acceptance probability, last Hamiltonian
_TAG = PURPOSES["accept"]


def _impl(x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, grad: Tensor | None, proposal_grad: Tensor | None,
          momentum: Tensor | None, momentum_before: Tensor | None, kinetic: Tensor | None, scale: Tensor | None,
          inverse_factor: Tensor | None, log_ratio: Tensor | None, counters: Tensor | None, *args: Any) -> None:  # fmt: skip
    if not x.shape[0]:
        return
    written = (("x", x), ("energy", energy), ("grad", grad), ("counters", counters),
               ("momentum", None if momentum_before is None else momentum))  # fmt: skip
    checks.refuse_unsafe(written, (("proposal", proposal), ("proposal_energy", proposal_energy), ("proposal_grad", proposal_grad),
                                   ("momentum_before", momentum_before)))  # fmt: skip
    if inverse_factor is not None and momentum is not None:
        momentum = _whitened(momentum, inverse_factor)
    route("metropolis_", x, args[-1])(x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before,
                                      kinetic, scale, log_ratio, counters, *args[:-1])  # fmt: skip
    increment_version([t for _, t in written if t is not None])


def _whitened(velocity: Tensor, inverse_factor: Tensor) -> Tensor:
    return (velocity.view(velocity.shape[0], -1) @ inverse_factor).view(velocity.shape)


_op = define(
    "metropolis_(Tensor(a!) x, Tensor proposal, Tensor(b!) energy, Tensor proposal_energy, Tensor(c!)? grad, "
    "Tensor? proposal_grad, Tensor(d!)? momentum, Tensor? momentum_before, Tensor? kinetic, Tensor? scale, "
    "Tensor? inverse_factor, Tensor? log_ratio, Tensor(e!)? counters, Tensor? kick_at, Tensor? beta_at, Tensor? rng, "
    "float kick, float beta, float max_error, int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def metropolis_(
    x: Tensor,  # (n, *event)
    proposal: Tensor,  # (n, *event)
    energy: Tensor,  # (n,)
    proposal_energy: Tensor,  # (n,)
    *,
    grad: Tensor | None = None,  # (n, *event)
    proposal_grad: Tensor | None = None,  # (n, *event)
    momentum: Tensor | None = None,  # (n, *event)
    momentum_before: Tensor | None = None,  # (n, *event)
    kinetic: Tensor | None = None,  # (n,)
    scale: Tensor | None = None,  # (*event)
    inverse_factor: Tensor | None = None,  # (d, d)
    log_ratio: Tensor | None = None,  # (n,)
    counters: Tensor | None = None,  # (n, 5)
    kick: float | Tensor = 0.0,  # () or (n,)
    beta: float | Tensor = 1.0,  # () or (n,)
    max_error: float = math.inf,
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> None:
    """a = beta (E - E') + K - K' + r;  with probability min(1, e^a): x, E, g <- x', E', g'.

    K' = |p'|^2 / 2 of p' = p - kick scale g', the trajectory's last kick. The decision is log u <= a, u in (0, 1] the first word
    of the chain's block for "accept". A proposal whose energy E' or momentum is not finite is rejected, whatever a is.

    Args:
        x, energy: current state (n, *event), float32 or float64, and its energies (n,); replaced where accepted.
        proposal, proposal_energy: x' and E', like x and energy.
        grad, proposal_grad: g at x and g' at x', like x; grad is replaced where accepted. Both or neither, unless only
            `proposal_grad` is wanted for the last kick.
        momentum: p at the trajectory's end, like x; without it K' = 0.
        momentum_before: p at the trajectory's start. Given, momentum is overwritten: by p' where accepted, by
            -momentum_before where rejected (the flip of generalised HMC).
        kinetic: K at the start, float64 (n,), from `propose_`.
        log_ratio: r, float64 (n,), what the proposal's asymmetry adds: log q(x|x') - log q(x'|x).
        counters: float64 (n, 5), updated: += acceptance probability, += accepted, += divergent, then overwritten by the last
            acceptance probability and the last Hamiltonian beta E + K of the state that is kept.
        kick, beta: numbers, or tensors () or (n,) that are read on the device.
        scale: as in `propose_`.
        inverse_factor: (R^-1)' (d, d), of x's dtype, of `propose_`'s `factor` R': momentum is then the velocity v after its last
            kick (`leapfrog_` with drift=0), and K' = |R^-1 v|^2 / 2, by torch's product. Without kick and momentum_before.
        max_error: a proposal with a < -max_error counts as divergent, as does one that is not finite.
        seed, step, chain_offset, rng, generator, backend: as `normal_`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Metropolis et al. 1953, Hastings 1970, Duane et al. 1987.
    """
    numbers = _checked(x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before, kinetic, scale,
                       inverse_factor, log_ratio, counters, kick, beta, max_error, seed, step, chain_offset, rng,
                       generator)  # fmt: skip
    _op(x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before, kinetic, scale, inverse_factor,
        log_ratio, counters, *numbers, step, chain_offset, backend or "auto")  # fmt: skip


def metropolis_steps(
    x: Tensor,  # (n, *event)
    proposal: Tensor,  # (n, *event)
    energy: Tensor,  # (n,)
    *,
    grad: Tensor | None = None,  # (n, *event)
    momentum: Tensor | None = None,  # (n, *event)
    momentum_before: Tensor | None = None,  # (n, *event)
    kinetic: Tensor | None = None,  # (n,)
    scale: Tensor | None = None,  # (*event)
    inverse_factor: Tensor | None = None,  # (d, d)
    counters: Tensor | None = None,  # (n, 5)
    kick: float | Tensor = 0.0,  # () or (n,)
    beta: float | Tensor = 1.0,  # () or (n,)
    max_error: float = math.inf,
    seed: int,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    backend: str | None = None,
) -> Callable[[Tensor, Tensor | None, int], None]:
    """f(proposal_energy, proposal_grad, step) that does what `metropolis_` does with these arguments, for loops: what stays is
    checked here, once.

    `proposal_energy` and `proposal_grad` must be like energy and x, contiguous and apart from what is written. Raises as
    `metropolis_`.
    """
    numbers = _checked(x, proposal, energy, energy, grad, proposal if momentum is not None or grad is not None else None,
                       momentum, momentum_before, kinetic, scale, inverse_factor, None, counters, kick, beta, max_error, seed, 0,
                       chain_offset, rng, None)  # fmt: skip
    written = (("x", x), ("energy", energy), ("grad", grad), ("counters", counters),
               ("momentum", None if momentum_before is None else momentum))  # fmt: skip
    checks.refuse_unsafe(written, (("proposal", proposal), ("momentum_before", momentum_before)))
    if observed() or not x.shape[0]:

        def watched(proposal_energy: Tensor, proposal_grad: Tensor | None, step: int) -> None:
            _op(x, proposal, energy, proposal_energy, grad, proposal_grad, momentum, momentum_before, kinetic, scale,
                inverse_factor, None, counters, *numbers, step, chain_offset, backend or "auto")  # fmt: skip

        return watched
    run, changed = route("metropolis_", x, backend or "auto"), [t for _, t in written if t is not None]

    def decide(proposal_energy: Tensor, proposal_grad: Tensor | None, step: int) -> None:
        p = momentum if inverse_factor is None or momentum is None else _whitened(momentum, inverse_factor)
        run(x, proposal, energy, proposal_energy, grad, proposal_grad, p, momentum_before, kinetic, scale, None, counters,
            *numbers, step, chain_offset)  # fmt: skip
        increment_version(changed)

    return decide


def _checked(
    x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, grad: Tensor | None, proposal_grad: Tensor | None,
    momentum: Tensor | None, momentum_before: Tensor | None, kinetic: Tensor | None, scale: Tensor | None,
    inverse_factor: Tensor | None, log_ratio: Tensor | None, counters: Tensor | None, kick: Any, beta: Any, max_error: Any,
    seed: int | None, step: int, chain_offset: int, rng: Tensor | None, generator: torch.Generator | None,
) -> tuple[Any, ...]:  # fmt: skip
    """The op's arguments from kick_at to seed."""
    checks.exact_state(x, "x")
    checks.all_like(x, (("proposal", proposal), ("grad", grad), ("proposal_grad", proposal_grad), ("momentum", momentum),
                        ("momentum_before", momentum_before)), required=1)  # fmt: skip
    chains = (x.shape[0],)
    checks.exactly(energy, "energy", chains, x.dtype, x.device)
    checks.exactly(proposal_energy, "proposal_energy", chains, x.dtype, x.device)
    checks.event_like(scale, "scale", x)
    checks.chain_numbers(kinetic, "kinetic", x)
    checks.chain_numbers(log_ratio, "log_ratio", x)
    if counters is not None:
        checks.exactly(counters, "counters", (x.shape[0], COUNTERS), torch.float64, x.device)
    if grad is not None and proposal_grad is None:
        raise ValueError("grad needs proposal_grad, the gradient at the proposal that replaces it")
    if momentum is None and momentum_before is not None:
        raise ValueError("momentum_before needs momentum, the momentum at the trajectory's end")
    k, k_at = checks.signed_coefficient(kick, "kick", x)
    if (k or k_at is not None) and (momentum is None or proposal_grad is None):
        raise ValueError("kick needs momentum and proposal_grad")
    b, b_at = checks.signed_coefficient(beta, "beta", x)
    if inverse_factor is not None:
        checks.square_like(inverse_factor, "inverse_factor", x)
        if momentum is None or momentum_before is not None or k or k_at is not None or scale is not None:
            raise ValueError("inverse_factor needs momentum, the velocity, and takes no kick, momentum_before or scale")
    limit = checks.number(max_error, "max_error", low=0.0, infinite=True)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, x)
    return k_at, b_at, rng, k, b, limit, _TAG, signed64(seed)
