"""Whether every backend that runs here computes what the reference computes: each op once, on small tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import ops
from .energies import MLPEnergy
from .noise.foreign import torch_seeded
from .ops.backend import native, why_not
from .reference.philox import philox4x32_10

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
# Seed, step and chain beyond 32 bits, so that every part of the counter is at work.
COUNTER: dict[str, Any] = {"seed": 2**63 + 0x1234_5678_9ABC, "step": 2**32 + 3, "chain_offset": 2**31 + 7}
SHAPE = (37, 3, 5)
N = SHAPE[0]


class Bench:
    """Tensors on a device, the same on all, and the backend that is looked at."""

    def __init__(self, backend: str, device: str) -> None:
        self.device = device
        self.options: dict[str, Any] = {**COUNTER, "backend": backend}
        self.backend: dict[str, Any] = {"backend": backend}

    def normal(self, seed: int, *shape: int) -> Tensor:
        return ops.normal_(torch.empty(shape or SHAPE), seed=seed, backend="reference").to(self.device)

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)


def _noise(name: str) -> Callable[[Bench], tuple[Tensor, ...]]:
    dtype = torch.int32 if name == "bits_" else torch.float32
    return lambda on: (getattr(ops, name)(on.zeros(*SHAPE, dtype=dtype), **on.options),)


def _langevin(on: Bench) -> tuple[Tensor, ...]:
    x = on.normal(1)
    ops.langevin_step_(x, on.normal(2), step_size=0.3, noise_std=0.1, clamp=(-1.5, 1.5), clamp_after="both", grad_clip=1.2,
                       prior_precision=0.2, **on.options)  # fmt: skip
    return (x,)


def _guard(on: Bench) -> tuple[Tensor, ...]:
    energy, grad = on.zeros(N, dtype=torch.float32), on.normal(2)
    energy[3], grad[5] = torch.inf, 1e38
    stopped, norm_sum = on.zeros(N, dtype=torch.int64) - 1, on.zeros(N) + 1.0
    ops.guard_(on.normal(1), grad, energy=energy, divergence_step=stopped, norm_sum=norm_sum, step_size=10.0, step=7,
               **on.backend)  # fmt: skip
    norm_sum[5] *= 1e-38
    return stopped, norm_sum


def _propose(on: Bench) -> tuple[Tensor, ...]:
    out, p, kinetic = on.zeros(*SHAPE, dtype=torch.float32), on.zeros(*SHAPE, dtype=torch.float32), on.zeros(N)
    ops.propose_(on.normal(1), proposal=out, momentum=p, grad=on.normal(2), kinetic=kinetic, kick=0.05, drift=0.1, **on.options)
    return out, p, kinetic


def _leapfrog(on: Bench) -> tuple[Tensor, ...]:
    x, p = on.normal(1), on.normal(2)
    ops.leapfrog_(x, p, on.normal(3), kick=0.1, drift=0.2, scale=on.normal(4, *SHAPE[1:]).abs(), **on.backend)
    return x, p


def _metropolis(on: Bench) -> tuple[Tensor, ...]:
    x, energy, counters = on.normal(1), on.normal(3, N), on.zeros(N, 5)
    ops.metropolis_(x, on.normal(2), energy, on.normal(4, N), momentum=on.normal(5), kinetic=on.zeros(N) + 7.5,
                    counters=counters, **on.options)  # fmt: skip
    return x, energy, counters


def _baoab(on: Bench) -> tuple[Tensor, ...]:
    x, p = on.normal(1), on.normal(2)
    ops.baoab_(x, p, on.normal(3), kick=0.1, drift=0.1, persistence=0.9, noise_std=0.4, **on.options)
    return x, p


def _swap(on: Bench) -> tuple[Tensor, ...]:
    x, energy = on.normal(1, N, 4, 5), on.normal(2, N, 4)
    ops.swap_(x, energy, torch.linspace(1.0, 0.1, 4, dtype=torch.float64, device=on.device), parity=1, **on.options)
    return x, energy


def _moments(on: Bench) -> tuple[Tensor, ...]:
    mean, squares = on.normal(2), on.normal(3).abs()
    ops.moments_(on.normal(1), mean, squares, count=3, **on.backend)
    return mean, squares


def _perturb(on: Bench) -> tuple[Tensor, ...]:
    out, noise = (on.zeros(2 * N, *SHAPE[1:], dtype=torch.float32) for _ in range(2))
    ops.perturb_(out, on.normal(1), 0.3, noise=noise, **on.options)
    return out, noise


def _buffer(on: Bench) -> tuple[Tensor, Tensor]:
    """Rows gathered, half of them new, and the buffer after they were written back, one that is not finite among them."""
    source, slots = on.normal(1, 50, *SHAPE[1:]), torch.arange(N, device=on.device).flip(0)
    rows = ops.gather_(on.zeros(*SHAPE, dtype=torch.float32), source, slots, rejuvenation=0.5, **on.options)
    written = rows.clone()
    written[3, 0, 0] = torch.inf
    return rows, ops.scatter_(source, slots, written, **on.backend)


def _adapt(on: Bench) -> tuple[Tensor, ...]:
    search, average = on.zeros(4) + 0.3, on.zeros(4, 1) - 0.5
    mean, squares, numbers = on.zeros(*SHAPE[1:]), on.zeros(*SHAPE[1:]), [on.zeros() + 3.0 for _ in range(3)]
    counters, step_size = on.zeros(N, 5), torch.tensor(0.4, device=on.device)
    counters[:, 3] = on.normal(6, N).abs() / 4.0
    ops.adapt_(on.normal(1), counters, average=average, average_count=numbers[0], step_size=step_size, least=0.01, mean=mean,
               squares=squares, count=numbers[1], search=search, length=numbers[2], before=on.normal(2), proposal=on.normal(3),
               momentum=on.normal(4), **on.backend)  # fmt: skip
    return search, average, step_size, mean, squares, numbers[2]


def _chain(on: Bench) -> tuple[Tensor, ...]:
    with torch_seeded(0):
        descriptor = MLPEnergy(5, (7, 6)).to(on.device).descriptor()
    return (ops.chain_(on.normal(1, N, 5), descriptor, "hmc", steps=4, leapfrogs=3, step_size=0.2, **on.options),)


# What an op makes of the same tensors, on any backend; and by how much floating-point numbers of order one may differ.
RESULTS: dict[str, Callable[[Bench], tuple[Tensor, ...]]] = {
    **{name: _noise(name) for name in ("bits_", "uniform_", "rademacher_", "normal_")},
    "langevin_step_": _langevin,
    "event_norm": lambda on: (ops.event_norm(on.normal(1), **on.backend),),
    "guard_": _guard,
    "propose_": _propose,
    "leapfrog_": _leapfrog,
    "metropolis_": _metropolis,
    "baoab_": _baoab,
    "swap_": _swap,
    "moments_": _moments,
    "perturb_": _perturb,
    "randperm_": lambda on: (ops.randperm_(on.zeros(100, dtype=torch.int64), 337, **on.options),),
    "gather_": lambda on: _buffer(on)[:1],
    "scatter_": lambda on: _buffer(on)[1:],
    "chain_": _chain,
    "adapt_": _adapt,
}
EXACT = ("bits_", "uniform_", "rademacher_", "randperm_")
UPDATE_TOLERANCE = 2e-6  # float32, a few operations
CHAIN_TOLERANCE = 2e-5  # of a dozen gradients
MISSING = {("chain_", "triton"), ("adapt_", "triton")}  # then plain PyTorch runs it


def _bound(op: str, truth: Tensor) -> Tensor:
    """How far from the reference an op's numbers may be."""
    size = truth.abs().clamp_min(1.0)
    if op == "normal_":  # 2 units in the last place, 1e-6 below 1
        return torch.where(truth.abs() >= 1.0, 2.0 * torch.finfo(truth.dtype).eps * 2.0 ** size.log2().floor(), 1e-6)
    return size * (CHAIN_TOLERANCE if op == "chain_" else UPDATE_TOLERANCE)


def compare(op: str, backend: str, device: str) -> str:
    """How an op's results differ from the reference's; empty if they do not."""
    if op == "philox":
        return _known_answers(backend, device)
    results = (RESULTS[op](Bench(*on)) for on in ((backend, device), ("reference", "cpu")))
    for got, truth in zip(*results, strict=True):
        got = got.cpu()
        if op in EXACT or not truth.is_floating_point():
            if not torch.equal(got, truth):
                return f"{int((got != truth).sum())} of {truth.numel()} numbers differ"
            continue
        worst = float(((got - truth).abs() / _bound(op, truth)).nan_to_num(torch.inf).max())
        if worst > 1.0:
            return f"off by {worst:.3g} times the tolerance"
    return ""


def _known_answers(backend: str, device: str) -> str:
    for counter, key, expected in KNOWN_ANSWERS:
        words = philox4x32_10(
            (torch.tensor(counter[0]), torch.tensor(counter[1]), torch.tensor(counter[2]), torch.tensor(counter[3])),
            (torch.tensor(key[0]), torch.tensor(key[1])),
        )
        if tuple(map(int, words)) != expected:
            return "the reference's Philox does not give Random123's known answers"
    got = ops.bits_(torch.empty(1, 4, dtype=torch.int32, device=device), seed=0, backend=backend)
    if tuple(int(w) & 0xFFFFFFFF for w in got[0].cpu()) != KNOWN_ANSWERS[0][2]:
        return f"counter 0, key 0 gives {[hex(int(w) & 0xFFFFFFFF) for w in got[0].cpu()]}"
    return ""


def _subjects() -> Iterator[tuple[str, str | None, str]]:
    """(backend, instruction set, device) of everything that can run here; the reference is its own truth but for Philox."""
    module = native()
    if module is not None:
        chosen = module.current_isa()
        try:
            for isa in module.available_isas():
                module.force_isa(isa)
                yield "cpu", isa, "cpu"
        finally:
            module.force_isa(chosen)
    for backend in ("cuda", "triton"):
        if not why_not(backend):
            yield backend, None, "cuda" if torch.cuda.is_available() else "cpu"
    yield "reference", None, "cpu"


def self_test() -> list[dict[str, Any]]:
    """One row per op and backend: integers and uniforms bit for bit, the rest within the contract's tolerances."""
    rows = []
    for backend, isa, device in _subjects():
        for op in ("philox", *RESULTS):
            if (op, backend) in MISSING:
                continue
            try:
                detail = compare(op, backend, device)
            except Exception as error:  # whatever a broken build raises is the finding
                detail = f"{type(error).__name__}: {error}"
            rows.append({"op": op, "backend": backend, "isa": isa, "device": device, "ok": not detail, "detail": detail})
    return rows
