"""K steps of a sampler on a structured energy in one native call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks, user_energy
from .backend import BackendError, implementation, pick, wish
from .library import define, observed
from .metropolis import COUNTERS
from .noise import fresh_seed, signed64

_INF = math.inf
_FLOAT32 = (torch.float32,)
TRANSITIONS = ("langevin", "random_walk", "hmc", "baoab")
PRECISIONS = ("float32", "tf32", "bfloat16")  # of matrix products, numbered as in csrc/core/chain.h


def _mlp_size(dim: int, activation: int, layers: int, *widths: int) -> int:
    if not (0 <= activation <= 5 and 1 <= layers <= 4 and len(widths) == layers and min(widths) >= 1):
        return -1
    return 1 + sum(out * (into + 1) for into, out in zip((dim, *widths), (*widths, 1)))


# Number of packed parameters of each kind of energy, from dim and the descriptor's integers (-1: they do not fit each other); the
# comment gives their order.
PACKED: dict[str, Callable[..., int]] = {
    "gaussian_diagonal": lambda d: 2 * d,  # mean (d), precision (d)
    "gaussian_dense": lambda d: d + d * d,  # mean (d), precision (d, d)
    "mixture": lambda d, m: m + 2 * m * d,  # log weight and normaliser (M), means (M, d), precisions (M, d)
    "gamma": lambda d: 2 * d,  # concentration (d), rate (d)
    "double_well": lambda d: 2,  # height, width
    "rosenbrock": lambda d: 2,  # a, b
    "funnel": lambda d: 1,  # scale
    "ring": lambda d: 2,  # radius, width
    "phi_four": lambda d, h, w: 2 if h * w == d else -1,  # mass2, coupling
    "logistic_regression": lambda d, n: 1 + n * d,  # prior precision, rows (2 y - 1) x (N, d)
    "eight_schools": lambda d, j: 2 + 2 * j if j + 2 == d else -1,  # mu scale, tau scale, y (J), 1 / sigma (J)
    "mlp": _mlp_size,  # negative slope, then weight (out, in) and bias (out) of each layer
}


class Descriptor(Protocol):
    """What the native engine reads of an energy: see `ebm_fast.energies`."""

    @property
    def kind(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def integers(self) -> tuple[int, ...]: ...
    @property
    def parameters(self) -> Tensor: ...


def _runner(x: Tensor, backend: str, kind: str) -> Any:
    """cpu, cuda, or plain PyTorch where nothing else was asked for; Triton for energies written in it."""
    if kind.startswith(user_energy.PREFIX):
        reason = user_energy.why_not(x.device, backend)
        if reason and wish(backend) not in ("auto", "reference"):
            raise BackendError(f"whole chains of this energy cannot run here: {reason}")
        return implementation("chain_", "reference" if reason else "triton")
    name = pick(backend, x.device)
    if name == "triton":
        if wish(backend) != "auto":
            raise BackendError("backend 'triton' has no whole chains; use 'cpu' on the CPU, 'cuda' on a GPU, or 'reference'")
        name = "reference"
    return implementation("chain_", name)


def _written(x: Tensor, parameters: Tensor, args: Sequence[Any]) -> list[Tensor]:
    """What a call writes, whose memory it has to itself."""
    written = ("x", x), *((_NAMES[i], args[i]) for i in _WRITTEN if args[i] is not None)
    checks.refuse_unsafe(written, (("parameters", parameters), *((_NAMES[i], args[i]) for i in _READ)))
    return [t for _, t in written]


def _impl(x: Tensor, parameters: Tensor, *args: Any) -> None:
    if x.numel() and args[_STEPS]:
        written = _written(x, parameters, args)
        _runner(x, args[-1], args[_KIND])(x, parameters, *args[:-1])
        increment_version(written)


_SCHEMA = (
    "chain_(Tensor(a!) x, Tensor parameters, Tensor(b!)? energy, Tensor(c!)? grad, Tensor(d!)? momentum, "
    "Tensor(m!)? proposal, Tensor? scale, Tensor? step_size_at, Tensor? noise_std_at, Tensor? beta_at, "
    "Tensor? persistence_at, Tensor? leapfrogs_at, Tensor(e!)? divergence_step, Tensor(f!)? norm_sum, "
    "Tensor(g!)? samples, Tensor(h!)? energies, Tensor(i!)? hamiltonians, "
    "Tensor(j!)? counters, Tensor(k!)? mean, Tensor(l!)? squares, Tensor? rng, str energy_kind, int[] integers, str transition, "
    "int steps, int thin, int count, int leapfrogs, bool carried, bool finish, bool flip, bool noise_first, bool guard, "
    "float step_size, float noise_std, float beta, float persistence, float[] numbers, SymInt seed, SymInt step, "
    "SymInt chain_offset, str precision, str backend) -> ()"
)
_NAMES = [field.split()[-1] for field in _SCHEMA.partition("(")[2].rpartition(") ->")[0].split(", ")][2:]
_STEPS, _KIND, _STEP, _LEAPFROGS = map(_NAMES.index, ("steps", "energy_kind", "step", "leapfrogs"))
_TENSORS = [(i, "!" in field) for i, field in enumerate(_SCHEMA.split(", ")[2:]) if field.startswith("Tensor")]
_WRITTEN, _READ = ([i for i, written in _TENSORS if written is wanted] for wanted in (True, False))
_op = define(_SCHEMA, _impl, lambda *args: None)


def check_descriptor(descriptor: Any, x: Tensor) -> None:
    """Raises TypeError or ValueError unless the descriptor is one of a known energy on events of x's size."""
    kind, dim, integers, parameters = descriptor.kind, descriptor.dim, tuple(descriptor.integers), descriptor.parameters
    sizes = user_energy.sizes(kind) or PACKED
    if kind not in sizes:
        raise ValueError(f"descriptor.kind must be one of {', '.join(PACKED)}, got {kind!r}")
    size = x.numel() // x.shape[0] if x.shape[0] else dim
    if dim != size:
        raise ValueError(f"x must have events of {dim} numbers for this energy, got {size}: shape {tuple(x.shape)}")
    if dim < 1 or any(type(i) is not int or i < (0 if kind == "mlp" else 1) for i in integers):
        raise ValueError(f"descriptor.dim and descriptor.integers must be positive ints, got {dim} and {integers}")
    try:
        wanted = sizes[kind](dim, *integers)
    except TypeError:
        raise ValueError(f"descriptor.integers do not fit a {kind!r}, got {integers}") from None
    if wanted < 0:
        raise ValueError(f"descriptor.integers {integers} do not fit a {kind!r} of {dim} numbers")
    precision = _precision(descriptor)
    if precision not in PRECISIONS:
        raise ValueError(f"descriptor.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "float32" and kind != "mlp":
        raise ValueError(f"descriptor.precision must be 'float32' for {kind!r}, got {precision!r}")
    checks.exactly(parameters, "descriptor.parameters", (wanted,), torch.float32, x.device)


def _precision(descriptor: Any) -> str:
    return getattr(descriptor, "precision", PRECISIONS[0])


def _coefficient(value: Any, name: str, x: Tensor, steps: int, low: float = -_INF) -> tuple[float, Tensor | None]:
    """A number, or float32 values () or (n,), or a schedule (steps, 1) or (steps, n)."""
    if not isinstance(value, Tensor):
        return checks.number(value, name, low=low), None
    n = x.shape[0]
    shapes = ((), (n,), (steps, 1), (steps, n))
    if tuple(value.shape) not in shapes:
        raise ValueError(f"{name} must be a number or a tensor of one of the shapes {shapes}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
    return 0.0, value.detach().to(device=x.device, dtype=torch.float32).contiguous()


def chain_(
    x: Tensor,  # (n, *event)
    descriptor: Descriptor,
    transition: str,
    *,
    steps: int,
    step_size: float | Tensor,  # () or (n,) or (steps, 1) or (steps, n)
    noise_std: float | Tensor = 0.0,
    beta: float | Tensor = 1.0,
    persistence: float | Tensor = 0.0,
    leapfrogs: int | Sequence[int] = 1,
    flip: bool = False,
    max_error: float = _INF,
    scale: Tensor | None = None,  # (*event)
    momentum: Tensor | None = None,  # (n, *event)
    proposal: Tensor | None = None,  # (n, *event)
    energy: Tensor | None = None,  # (n,)
    grad: Tensor | None = None,  # (n, *event)
    carried: bool = False,
    noise_first: bool = False,
    heavy_ball: float = 0.0,
    prior_precision: float = 0.0,
    grad_clip: float = _INF,
    grad_clip_norm: float = _INF,
    step_bounds: tuple[float, float] = (-_INF, _INF),
    noise_bounds: tuple[float, float] = (-_INF, _INF),
    divergence_step: Tensor | None = None,  # (n,)
    norm_sum: Tensor | None = None,  # (n,)
    thin: int = 1,
    samples: Tensor | None = None,  # (steps // thin, n, *event)
    energies: Tensor | None = None,  # (steps // thin, n)
    hamiltonians: Tensor | None = None,  # (steps // thin, n)
    counters: Tensor | None = None,  # (n, 5)
    mean: Tensor | None = None,  # (n, *event)
    squares: Tensor | None = None,  # (n, *event)
    count: int = 0,
    seed: int | None = None,
    step: int = 0,
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """x_{t+1} ~ K(x_t, .), t = step ... step + steps - 1, in place: a whole chain without leaving the native code.

    The chain is the one that `langevin_step_`, `propose_`, `leapfrog_`, `metropolis_` and `baoab_` make step by step with the
    energy of the descriptor, from the same random numbers:

    - "langevin": x <- clamp(clamp(x - s (clip(g) + p x)) + n z); `noise_first` moves the noise before the gradient;
    - "random_walk": x' = x + s sigma z, accepted by the Metropolis rule at inverse temperature beta;
    - "hmc": `leapfrogs` steps of size s (a number, or one for each proposal), accepted likewise; with `flip` the momentum
      persists (p <- c p + sqrt(1 - c^2) z) and is flipped on rejection;
    - "baoab": half kick, half drift, p <- c p + n z, half drift, half kick, with the halves of s.

    Args:
        x: state (n, *event), float32, contiguous; replaced by the state after the last step.
        descriptor: of the energy, from `energy.descriptor()`; its `precision` is that of an MLP's products: see `MLPEnergy`.
        transition: "langevin", "random_walk", "hmc" or "baoab".
        step_size, noise_std, beta, persistence: s, n, beta, c: numbers, tensors () or (n,), or schedules (steps, 1), (steps, n),
            whose numbers nobody looks at.
        scale: sigma (*event), float32.
        momentum: carried momentum (hmc with flip, baoab) or velocity (langevin's heavy ball), like x.
        proposal: x' of the last step's trajectory, accepted or not (hmc without flip), and its momentum there in `momentum`, both
            like x and written only.
        energy, grad: E (n,) and its gradient (n, *event) at x after the last step, written where given (the gradient not by
            transitions that know none: "random_walk", and "langevin" with `noise_first`); `carried`: they hold those of x at the
            beginning, which saves one evaluation.
        divergence_step: int64 (n,), -1 where no divergence: chains that cannot go on are frozen and their step is entered
            ("langevin", "baoab"). None: nothing is looked for.
        norm_sum: float64 (n,), += |g| of each step.
        thin: steps thin, 2 thin, ... are recorded in samples, energies, hamiltonians (float64).
        counters: float64 (n, 5), as `metropolis_`.
        mean, squares, count: streaming moments of every step, as `moments_`; count: states before this call.
        seed, step, chain_offset, rng, generator, backend: as `normal_`.

    Returns:
        x.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range, or one that is written overlaps another; nothing
            is then changed.
    """
    arguments = _arguments(
        x, descriptor, transition, steps, step_size, noise_std, beta, persistence, leapfrogs, flip, max_error, scale,
        momentum, proposal, energy, grad, carried, noise_first, heavy_ball, prior_precision, grad_clip, grad_clip_norm,
        step_bounds, noise_bounds, divergence_step, norm_sum, thin, samples, energies, hamiltonians, counters, mean,
        squares, count, seed, step, chain_offset, rng, generator, backend,
    )  # fmt: skip
    _op(x, descriptor.parameters, *arguments)
    return x


def chain_steps(x: Tensor, descriptor: Descriptor, transition: str, **options: Any) -> Callable[[int, int], None]:
    """f(step, leapfrogs) that takes the one step that `chain_` takes with these arguments, for loops: checked here, once. Raises
    as `chain_`."""
    arguments = _arguments(x, descriptor, transition, **{**(chain_.__kwdefaults__ or {}), **options, "steps": 1})
    parameters = descriptor.parameters
    changed = _written(x, parameters, arguments)
    call = _op if observed() or not x.numel() else None
    run = call or _runner(x, arguments[-1], descriptor.kind)
    given = arguments if call else arguments[:-1]

    def take(step: int, leapfrogs: int) -> None:
        given[_STEP], given[_LEAPFROGS] = step, leapfrogs
        run(x, parameters, *given)
        if call is None:
            increment_version(changed)

    return take


def _arguments(
    x: Tensor, descriptor: Descriptor, transition: str, steps: int, step_size: float | Tensor, noise_std: float | Tensor,
    beta: float | Tensor, persistence: float | Tensor, leapfrogs: int | Sequence[int], flip: bool, max_error: float,
    scale: Tensor | None, momentum: Tensor | None, proposal: Tensor | None, energy: Tensor | None, grad: Tensor | None,
    carried: bool, noise_first: bool, heavy_ball: float, prior_precision: float, grad_clip: float, grad_clip_norm: float,
    step_bounds: tuple[float, float], noise_bounds: tuple[float, float], divergence_step: Tensor | None,
    norm_sum: Tensor | None, thin: int, samples: Tensor | None, energies: Tensor | None, hamiltonians: Tensor | None,
    counters: Tensor | None, mean: Tensor | None, squares: Tensor | None, count: int, seed: int | None, step: int,
    chain_offset: int, rng: Tensor | None, generator: torch.Generator | None, backend: str | None,
) -> list[Any]:  # fmt: skip
    """Of the op behind x and parameters, checked."""
    checks.state(x, "x", dtypes=_FLOAT32)
    check_descriptor(descriptor, x)
    if transition not in TRANSITIONS:
        raise ValueError(f"transition must be one of {', '.join(TRANSITIONS)}, got {transition!r}")
    for value, name, low in ((steps, "steps", 0), (thin, "thin", 1), (count, "count", 0)):
        if type(value) is not int or value < low:
            raise ValueError(f"{name} must be an int of at least {low}, got {value!r}")
    n, kept = x.shape[0], steps // thin
    s, s_at = _coefficient(step_size, "step_size", x, steps, 0.0)
    c, c_at = _coefficient(noise_std, "noise_std", x, steps, 0.0)
    b, b_at = _coefficient(beta, "beta", x, steps)
    p, p_at = _coefficient(persistence, "persistence", x, steps)
    lengths = None
    if isinstance(leapfrogs, bool) or not (isinstance(leapfrogs, int) or all(type(length) is int for length in leapfrogs)):
        raise TypeError(f"leapfrogs must be an int or ints, one per step, got {leapfrogs!r}")
    if not isinstance(leapfrogs, int):
        lengths = torch.tensor(list(leapfrogs), dtype=torch.int32)
        shortest, leapfrogs = (int(lengths.min()), int(lengths.max())) if lengths.numel() else (1, 1)
        if lengths.numel() != steps:
            raise ValueError(f"leapfrogs must be an int or {steps} of them, one per step, got {lengths.numel()}")
        lengths = lengths.to(x.device)
    else:
        shortest = leapfrogs
    if shortest < 1:
        raise ValueError(f"leapfrogs must be at least 1, got {shortest}")
    checks.event_like(scale, "scale", x)
    for pair, name in ((step_bounds, "step_bounds"), (noise_bounds, "noise_bounds")):
        checks.bounds(pair, name)
    if proposal is not None and (transition != "hmc" or flip):
        raise ValueError("proposal is where a trajectory of transition 'hmc' without flip ended; leave it out")
    carries = flip or proposal is not None or transition == "baoab" or (transition == "langevin" and heavy_ball != 0.0)
    if carries and momentum is None:
        raise ValueError("momentum must be given, a tensor like x for it")
    if not carries and momentum is not None:
        raise ValueError(f"momentum is not carried by {transition!r}, flip={flip}, heavy_ball={heavy_ball:g}; leave it out")
    like, single, double = tuple(x.shape), torch.float32, torch.float64
    for t, name, shape, dtype in (
        (momentum, "momentum", like, single), (proposal, "proposal", like, single), (grad, "grad", like, single),
        (energy, "energy", (n,), single),
        (divergence_step, "divergence_step", (n,), torch.int64), (norm_sum, "norm_sum", (n,), double),
        (samples, "samples", (kept, *like), single), (energies, "energies", (kept, n), single),
        (hamiltonians, "hamiltonians", (kept, n), double), (counters, "counters", (n, COUNTERS), double),
        (mean, "mean", like, single), (squares, "squares", like, single),
    ):  # fmt: skip
        if t is not None:
            checks.exactly(t, name, shape, dtype, x.device)
    if (mean is None) != (squares is None):
        raise ValueError("mean and squares go together: give both or neither")
    needs_grad = transition in ("hmc", "baoab") or (transition == "langevin" and not noise_first)
    if carried and (energy is None or (grad is None and needs_grad)):
        raise ValueError("carried=True needs energy and grad, those of x")
    if grad_clip < _INF and grad_clip_norm < _INF:
        raise ValueError("give grad_clip (elementwise) or grad_clip_norm (per chain), not both")
    numbers = [
        checks.number(max_error, "max_error", low=0.0, infinite=True), checks.number(heavy_ball, "heavy_ball"),
        checks.number(prior_precision, "prior_precision"), checks.number(grad_clip, "grad_clip", low=0.0, infinite=True),
        checks.number(grad_clip_norm, "grad_clip_norm", low=0.0, infinite=True), *step_bounds, *noise_bounds,
        float(getattr(descriptor, "offset", 0.0)),
    ]  # fmt: skip
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, x)
    guard = divergence_step is not None and transition in ("langevin", "baoab")
    return [
        energy, grad, momentum, proposal, scale, s_at, c_at, b_at, p_at, lengths, divergence_step, norm_sum, samples, energies,
        hamiltonians, counters, mean, squares, rng, descriptor.kind, list(descriptor.integers), transition, steps, thin, count,
        leapfrogs, carried, energy is not None or grad is not None, flip, noise_first, guard, s, c, b, p, numbers,
        signed64(seed), step, chain_offset, _precision(descriptor), backend or "auto",
    ]  # fmt: skip
