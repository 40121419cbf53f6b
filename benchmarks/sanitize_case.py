"""Small cases of every kernel of a device, each compared with the reference: the program that compute-sanitizer watches.

Shapes have blocks whole and cut, several tiles, one element a chain; tensors are allocated one by one, so that an access past an
end is seen (PYTORCH_NO_CUDA_MEMORY_CACHING=1, set here).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # one allocation a tensor: what lies beside it is nobody's

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast import ops

DTYPES = {torch.float32: 2e-6, torch.float64: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}
SHAPES = [(3, 16), (5, 7), (2, 5002), (257, 1), (9, 100), (3, 4, 50)]
Case = Callable[[str | None], list[Tensor]]  # backend -> what it wrote


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def case(op: Callable[..., object], *written: Tensor | None, arguments: Callable[..., tuple[tuple, dict]]) -> Case:
    """A call of `op` on fresh copies of what it writes."""

    def run(backend: str | None) -> list[Tensor]:
        copies = [None if t is None else t.clone() for t in written]
        positional, named = arguments(*copies)
        op(*positional, backend=backend, **named)
        return [t for t in copies if t is not None]

    return run


def between(low: float, high: float, *shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.linspace(low, high, torch.Size(shape).numel(), dtype=dtype).view(shape).to(device)


def noise(shape: tuple[int, ...], device: str) -> Iterator[Case]:
    for name, dtype in (("bits_", torch.int32), ("uniform_", torch.float32), ("rademacher_", torch.float32),
                        ("normal_", torch.float32), ("normal_", torch.float64), ("normal_", torch.bfloat16)):  # fmt: skip
        out = torch.empty(shape, dtype=dtype, device=device)
        for options in ({"seed": 5, "step": 2**33}, {"rng": torch.tensor([5, 7], device=device)}):
            yield case(getattr(ops, name), out, arguments=lambda out, options=options: ((out,), options))


def updates(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Langevin in its forms, norms, guard, perturbation, rows of a buffer: all dtypes."""
    x, grad, velocity = (normal(*shape, seed=s, dtype=dtype, device=device) for s in (1, 2, 3))
    n, wide = shape[0], torch.float64 if dtype is torch.float64 else torch.float32
    per_chain, scale = between(0.01, 0.1, n, dtype=wide, device=device), between(0.5, 2.0, *shape[1:], dtype=wide, device=device)
    rng, active = torch.tensor([7, 3], device=device), torch.arange(n, device=device) % 2 == 0
    total, never = torch.zeros(n, dtype=torch.float64, device=device), torch.full((n,), -1, device=device)
    forms: list[dict[str, Any]] = [
        {"step_size": 0.1, "noise_std": 0.05, "seed": 7},
        {"step_size": 0.1, "clamp": (-1.0, 1.0), "clamp_after": "both", "grad_clip": 0.5, "prior_precision": 0.1, "rng": rng},
        {"step_size": per_chain, "noise_std": per_chain, "grad_clip_norm": 1.0, "active": active, "scale": scale, "seed": 7},
    ]
    for form in forms:
        yield case(ops.langevin_step_, x, arguments=lambda x, form=form: ((x, grad), form))
    heavy = {**forms[0], "momentum": 0.9}
    yield case(ops.langevin_step_, x, velocity, total,
               arguments=lambda x, v, total: ((x, grad), {"velocity": v, "norm_sum": total, **heavy}))  # fmt: skip
    yield lambda backend: [ops.event_norm(x, backend=backend)]
    broken = grad.clone()
    broken[-1, -1] = torch.inf
    options = {"energy": per_chain, "step_size": 0.1, "noise_std": 0.4}
    yield case(ops.guard_, never, active, total, arguments=lambda stopped, active, total: (
        (x, broken), {"divergence_step": stopped, "active": active, "norm_sum": total, **options}))  # fmt: skip
    out = torch.cat([x, x])
    yield case(ops.perturb_, out, out, arguments=lambda out, z: ((out, x, 0.3), {"noise": z, "scale": scale, "seed": 1}))
    slots, fresh = torch.arange(n - 1, -1, -1, device=device), torch.zeros(n, dtype=torch.bool, device=device)
    for init in (("uniform", -1.0, 1.0), ("normal", 0.5), velocity):
        options = {"rejuvenation": 0.4, "init": init, "seed": 1}
        yield case(ops.gather_, x, fresh, arguments=lambda x, fresh, options=options: (
            (x, grad, slots), {"fresh": fresh, **options}))  # fmt: skip
    yield case(ops.scatter_, x, arguments=lambda x: ((x, slots, broken), {}))


def proposals(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Iterator[Case]:
    """What Metropolis' samplers are made of: float32 and float64."""
    x, q, p, grad = (normal(*shape, seed=s, dtype=dtype, device=device) for s in range(4))
    n, d = shape[0], x[0].numel()
    scale = between(0.5, 2.0, *shape[1:], dtype=dtype, device=device)
    kinetic, counters = (torch.zeros(*s, dtype=torch.float64, device=device) for s in ((n,), (n, 5)))
    energy, other = (normal(n, seed=s, dtype=dtype, device=device) for s in (5, 6))
    step, rng = {"kick": 0.05, "drift": 0.1}, torch.tensor([1, 2], device=device)
    for options in ({"grad": grad, "seed": 1, **step}, {"scale": scale, "persistence": 0.5, "rng": rng, **step}):
        yield case(ops.propose_, q, p, kinetic, arguments=lambda q, p, k, options=options: (
            (x,), {"proposal": q, "momentum": p, "kinetic": k, **options}))  # fmt: skip
    if d <= 256:  # the library's product is as good beyond
        factor = (torch.eye(d, dtype=dtype) + 0.1 * torch.ones(d, d, dtype=dtype).triu(1)).to(device)
        dense = {"grad": grad, "factor": factor, "seed": 1, **step}
        yield case(ops.propose_, q, p, kinetic, arguments=lambda q, p, k: (
            (x,), {"proposal": q, "momentum": p, "kinetic": k, **dense}))  # fmt: skip
    yield case(ops.leapfrog_, q, p, arguments=lambda q, p: ((q, p, grad), {"scale": scale, **step}))
    options = {"proposal_grad": p, "log_ratio": 0.1 * energy.double(), "seed": 1}
    yield case(ops.metropolis_, x, energy, grad, counters, arguments=lambda x, e, g, c, options=options: (
        (x, q, e, other), {"grad": g, "counters": c, **options}))  # fmt: skip
    options = {"proposal_grad": grad, "momentum_before": grad, "scale": scale, "kinetic": kinetic, "kick": 0.05, "seed": 1}
    yield case(ops.metropolis_, x, energy, p, counters, arguments=lambda x, e, p, c, options=options: (
        (x, q, e, other), {"momentum": p, "counters": c, **options}))  # fmt: skip
    dynamics = {"persistence": 0.9, "noise_std": 0.4, "kicks": 2, "scale": scale, "seed": 1, **step}
    active = torch.arange(n, device=device) % 2 == 0
    yield case(ops.baoab_, x, p, arguments=lambda x, p: ((x, p, grad), {"active": active, **dynamics}))
    yield case(ops.moments_, q, grad.square(), arguments=lambda mean, squares: ((x, mean, squares), {"count": 3}))
    numbers = [torch.full(s, 0.3, dtype=torch.float64, device=device) for s in ((4, 1), (), shape[1:], shape[1:], (), (4,), ())]
    step_size, probability = torch.full((), 0.2, dtype=dtype, device=device), torch.full_like(counters, 0.6)
    names = ("average", "average_count", "mean", "squares", "count", "search", "length", "step_size", "before")
    yield case(ops.adapt_, *numbers, step_size, x, arguments=lambda *written: (
        (q, probability), {**dict(zip(names, written)), "proposal": p, "momentum": grad, "scale": scale}))  # fmt: skip
    groups = [torch.full(s, 0.3, dtype=torch.float64, device=device) for s in ((4, n), ())]
    yield case(ops.adapt_, *groups, energy, arguments=lambda a, c, step_size: (
        (q, probability), {"average": a, "average_count": c, "step_size": step_size}))  # fmt: skip
    replicas, energies = (normal(n, 4, *event, seed=8, dtype=dtype, device=device) for event in (shape[1:], ()))
    betas, labels = between(1.0, 0.1, 4, dtype=torch.float64, device=device), torch.arange(4, device=device).repeat(n, 1)
    yield case(ops.swap_, replicas, energies, labels, arguments=lambda x, e, labels: (
        (x, e, betas), {"labels": labels, "parity": 1, "seed": 1}))  # fmt: skip


def permutations(device: str) -> Iterator[Case]:
    for n, size in ((1, 1), (100, 1000), (1000, 1000)):
        out = torch.empty(n, dtype=torch.int64, device=device)
        group = torch.arange(n, device=device) % 3
        yield case(ops.randperm_, out, arguments=lambda out, size=size: ((out, size), {"seed": 1}))
        options = {"index": group.flip(0), "group": group, "rng": torch.tensor([1, 2], device=device)}
        yield case(ops.randperm_, out, arguments=lambda out, size=size, options=options: ((out, size), options))


def compare(make: Callable[[str], Iterator[Case]], device: str, tolerance: float = 0.0) -> int:
    """The reference runs on the CPU: a sanitizer would watch each of torch's small kernels too."""
    count = 0
    for run, twin in zip(make(device), make("cpu"), strict=True):
        for ours, truth in zip(run(None), twin("reference"), strict=True):
            bound = max(tolerance, DTYPES.get(ours.dtype, 0.0))
            torch.testing.assert_close(ours.cpu(), truth, rtol=bound, atol=bound, equal_nan=True)
        count += 1
    return count


def chains(device: str) -> int:
    """Whole chains of every energy: states in registers, in shared memory and in the workspace, products in float32 and on
    tensor cores, and what a run can record."""
    energies, count = ef.energies, 0
    torch.manual_seed(0)
    design, classes = torch.randn(90, 6), (torch.rand(90) < 0.5).float()
    precisions = ("float32", "tf32", "bfloat16")
    targets = [
        energies.Gaussian(torch.zeros(2), variance=1.5), energies.Gaussian(torch.zeros(20_000), variance=1.5),
        energies.Gaussian(torch.zeros(30), covariance=torch.eye(30) + 0.5), energies.GaussianMixture(torch.randn(5, 2), 0.8),
        energies.GaussianMixture(torch.randn(5, 70), 0.8), energies.Gamma(torch.full((3,), 9.0)), energies.DoubleWell(dim=3),
        energies.Rosenbrock(2, 1.0, 5.0), energies.Funnel(40), energies.Ring(2, 2.0, 0.5), energies.PhiFour((6, 7), 0.5, 0.3),
        energies.LogisticRegression(design, classes, 1.0), energies.EightSchools(),
        *(energies.MLPEnergy(dim, (24, 17), "silu", precision=p).requires_grad_(False) for p in precisions for dim in (3, 300)),
    ]  # fmt: skip
    samplers = [ef.Langevin(0.002), ef.RandomWalkMetropolis(0.1), ef.HMC(0.02, 3), ef.UnderdampedLangevin(0.02)]
    for energy in targets:
        long = energy.event_shape[0] > 1000
        x = torch.randn(7 if long else 37, *energy.event_shape)
        x = x.abs() + 5.0 if isinstance(energy, energies.Gamma) else x
        coarse = getattr(energy, "precision", "float32") != "float32"
        # A product in another order may round to another bfloat16, a large energy to another float32, and a proposal be judged
        # otherwise.
        bound, most = 1e-2 if coarse else 1e-4, 0.2 if coarse or long else 0.0
        for sampler in samplers:
            options = {"num_steps": 6, "thin": 2, "seed": 5, "moments": True}
            truth = ef.sample(energy.cpu(), sampler, x, strategy="reference", **options)
            ours = ef.sample(energy.to(device), sampler, x.to(device), strategy="fused", **options)
            for a, b in ((ours.samples.transpose(0, 1), truth.samples.transpose(0, 1)), (ours.stats.mean, truth.stats.mean)):
                far = ((a.cpu() - b).abs() > bound * (1 + b.abs())).flatten(1).any(1).float().mean()
                assert float(far) <= most, f"{float(far):.0%} of the chains of {sampler} on {energy} are not the reference's"
            count += 1
    return count


def main(device: str) -> int:
    count = compare(permutations, device)
    for shape in SHAPES:
        count += compare(partial(noise, shape), device)
        count += sum(compare(partial(updates, shape, dtype), device) for dtype in DTYPES)
        count += sum(compare(partial(proposals, shape, dtype), device, 1e-5) for dtype in (torch.float32, torch.float64))
    count += chains(device)
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{count} cases agree with the reference on {device}, backend {ops.backend.pick(None, torch.device(device))}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    raise SystemExit(main(parser.parse_args().device))
