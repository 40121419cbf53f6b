"""chain_ on long events, whose elements have the lanes to themselves: the chains of the reference, however they are cut.

Lengths are no multiple of a block or a vector; lattices are narrower than a vector, one site wide, or end inside one.
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ops.test_chain import MOVES, assert_same_chain, descriptor, isa, normal, run, start, step_of
from torch import Tensor

from ebm_fast.ops import chain_
from ebm_fast.ops.backend import why_not
from ebm_fast.ops.native import ENERGIES, chain_in_lanes

pytestmark = pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
assert isa  # the fixture
N, K = 3, 12


def phi_four(height: int, width: int) -> SimpleNamespace:
    return descriptor("phi_four", height * width, (height, width), -0.5, 0.3)


# (descriptor, leapfrog step)
TARGETS = {
    "gaussian_diagonal": (descriptor("gaussian_diagonal", 769, (), normal(769), normal(769, seed=1).exp()), 0.02),
    "gamma": (descriptor("gamma", 771, (), 2 + normal(771).exp(), normal(771, seed=1).exp()), 0.005),
    "double_well": (descriptor("double_well", 770, (), 1.0, 1.1), 0.02),
    "rosenbrock": (descriptor("rosenbrock", 1001, (), 1.0, 5.0), 0.004),
    "funnel": (descriptor("funnel", 781, (), 3.0), 0.02),
    "ring": (descriptor("ring", 1003, (), 30.0, 0.5), 0.02),
    "phi_four": (phi_four(27, 29), 0.02),
    "phi_four_16": (phi_four(50, 16), 0.02),
    "phi_four_narrow": (phi_four(111, 7), 0.02),
    "phi_four_row": (phi_four(1, 773), 0.02),
    "phi_four_column": (phi_four(773, 1), 0.02),
}


def begin(name: str, n: int = N) -> Tensor:
    """Inside the support, and where energies are of order 1000: float32 has them to 1e-4."""
    x = start(TARGETS[name][0], n)
    return x + 2.0 if name == "gamma" else 0.2 * x if name == "rosenbrock" else x


def test_which_chains_have_the_lanes_to_themselves(isa):
    """By the event alone: a batch may then be cut anywhere. Matrix products and mixtures share parameters among chains."""
    assert {kind for kind in ENERGIES if chain_in_lanes(kind, 768)} == {target.kind for target, _ in TARGETS.values()}
    assert not any(chain_in_lanes(kind, 767) for kind in ENERGIES)
    assert all(chain_in_lanes(target.kind, target.dim) for target, _ in TARGETS.values())


@functools.cache
def reference(name: str, move: str) -> SimpleNamespace:
    return fused(name, move, "reference")


def fused(name: str, move: str, backend: str = "cpu") -> SimpleNamespace:
    target, size = TARGETS[name]
    options: dict[str, Any] = {**MOVES[move], "step_size": step_of(move, size), "seed": 2**63 + 5, "step": 2**32 - 5}
    if move in ("mala", "langevin"):
        options["scale"] = 0.5 + normal(target.dim, seed=4).abs()
    return run(target, begin(name), backend, steps=K, chain_offset=11, **options)


@pytest.mark.parametrize("name", TARGETS)
def test_every_pair_is_the_chain_of_the_reference(name, isa):
    for move in MOVES:
        assert_same_chain(fused(name, move), reference(name, move))


LANGEVIN: dict[str, dict[str, Any]] = {  # what does not exist of the last vector would be clamped to 0.2 too
    "clamps": {"step_bounds": (0.2, 0.9), "noise_bounds": (0.1, 1.0), "grad_clip": 0.7},
    "heavy_ball": {"heavy_ball": 0.8, "step_bounds": (0.2, 0.9), "grad_clip_norm": 0.5, "prior_precision": 0.5},
    "schedule": {"step_size": 0.002 * normal(K, 1, seed=6).abs(), "noise_std": normal(K, N, seed=7).abs()},
}


@pytest.mark.parametrize("noise_first", [False, True])
@pytest.mark.parametrize("form", LANGEVIN)
@pytest.mark.parametrize("name", ["ring", "double_well", "phi_four"])
def test_forms_of_langevin(name, form, noise_first):
    target = TARGETS[name][0]
    options = {"transition": "langevin", "step_size": 0.003, "noise_std": 0.2, "seed": 1, "noise_first": noise_first,
               "steps": K, **LANGEVIN[form]}  # fmt: skip
    assert_same_chain(run(target, begin(name), **options), run(target, begin(name), "reference", **options))


@pytest.mark.parametrize("move", ["langevin", "hmc", "ghmc", "baoab"])
@pytest.mark.parametrize("name", ["rosenbrock", "phi_four"])
def test_a_chain_is_the_same_however_it_is_cut(name, move):
    """Bitwise: threads, batch, order of calls, carried energies, thinning; moments are those of the samples."""
    target, size = TARGETS[name]
    n, shape = 41, (41, target.dim)
    x0, options = begin(name, n), {**MOVES[move], "step_size": step_of(move, size), "seed": 3, "steps": 14}
    whole = run(target, x0, **options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        mean, squares = torch.zeros(shape), torch.zeros(shape)
        again = run(target, x0, **{**options, "thin": 7, "mean": mean, "squares": squares})
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.samples, whole.samples[6::7])
    assert torch.equal(again.energies, whole.energies[6::7])
    torch.testing.assert_close(mean, whole.samples.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squares / 13, whole.samples.var(0), rtol=1e-3, atol=1e-6)
    has_momentum = move in ("ghmc", "baoab")
    for first, last in ((0, 1), (5, 40), (40, 41)):
        part = {"momentum": normal(*shape, seed=9)[first:last].clone()} if has_momentum else {}
        cut = run(target, x0[first:last], **{**options, "chain_offset": first, **part})
        assert torch.equal(cut.samples, whole.samples[:, first:last])
    rest = {k: v for k, v in options.items() if k not in ("seed", "steps")}
    if has_momentum:
        rest["momentum"] = normal(*shape, seed=9)
    x, energy, grad, parts = x0.clone(), torch.empty(n), torch.empty(shape), []
    for step, steps in ((0, 1), (1, 9), (10, 4)):
        parts.append(torch.empty(steps, *shape))
        chain_(x, target, steps=steps, step=step, seed=3, samples=parts[-1], energy=energy, grad=grad, carried=step > 0,
               backend="cpu", **rest)  # fmt: skip
    assert torch.equal(torch.cat(parts), whole.samples)


@pytest.mark.parametrize("move", ["langevin", "baoab"])
def test_chains_that_cannot_go_on_are_frozen_at_the_step_of_the_reference(move, isa):
    """A double well with a step far beyond stability, in every other chain: x grows like x^3 until it leaves the range."""
    target = TARGETS["double_well"][0]
    x0 = start(target, 6)
    x0[::2, 769] = 30.0
    options = {**MOVES[move], "step_size": 0.02 if move == "langevin" else 0.14, "noise_std": 0.01, "seed": 3, "steps": 20}
    got, expected = run(target, x0, **options), run(target, x0, "reference", **options)
    assert torch.equal(got.divergence_step, expected.divergence_step)
    lost = got.divergence_step >= 0
    assert lost.tolist() == [True, False] * 3
    assert torch.isfinite(got.x).all()
    assert torch.equal(got.samples[-1][lost], got.samples[-2][lost])
    resumed = run(target, got.x, **{**options, "step": 20, "divergence_step": got.divergence_step.clone()})
    assert torch.equal(resumed.x[lost], got.x[lost])
    assert not torch.equal(resumed.x[~lost], got.x[~lost])


def test_what_leaves_a_support_is_rejected_and_counted_or_frozen(isa):
    """Gamma: wherever in the event the element lies."""
    target = TARGETS["gamma"][0]
    options = {**MOVES["random_walk"], "step_size": 0.4, "seed": 3, "steps": K}
    got = run(target, start(target, N), **options)
    assert_same_chain(got, run(target, start(target, N), "reference", **options))
    assert got.counters[:, 2].sum() == N * K
    x0 = begin("gamma", 5)
    for chain, element in enumerate((0, 3, 400, 770)):
        x0[chain, element] = -0.1
    frozen = run(target, x0, **{**MOVES["langevin"], "step_size": 1e-6, "noise_std": 1e-3, "seed": 3, "steps": 2})
    assert frozen.divergence_step.tolist() == [0, 0, 0, 0, -1]


def test_the_stationary_law_of_long_chains():
    """Diagonal Gaussian, 50 chains of 1001 numbers from the exact law, 60 HMC proposals: the mean square of the 50 050
    standardised numbers within 4.9 standard errors (1e-6 two-sided; 0.63 %) of 1. Precisions off by 5 % are seen."""
    mean, precision = normal(1001), normal(1001, seed=1).exp()

    def square(factor: float) -> float:
        target = descriptor("gaussian_diagonal", 1001, (), mean, factor * precision)
        x0 = mean + normal(50, 1001, seed=8) / (factor * precision).sqrt()
        end = run(target, x0, steps=60, transition="hmc", leapfrogs=5, step_size=0.12, seed=11, thin=60)
        assert 0.4 < end.counters[:, 1].mean() / 60 < 0.98
        z: Tensor = (end.x - mean).double() * precision.double().sqrt()
        return z.square().mean().item()

    bound = 4.9 * math.sqrt(2 / 50_050)
    assert abs(square(1.0) - 1) < bound
    assert abs(square(1.05) - 1) > bound
