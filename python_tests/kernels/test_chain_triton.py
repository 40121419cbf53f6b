"""The whole chain in Triton on energies written in it, against the reference on the same energy's descriptor.

On a CPU this file runs in Triton's interpreter: see test_interpreted.py.
"""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", minversion="3.3")
from user_energies import TARGETS, banana, double_well, normal

from ebm_fast.ops import chain_

INF = math.inf
MOVES: dict[str, dict[str, Any]] = {
    "langevin": {"transition": "langevin", "noise_std": 0.05},
    "noise_first": {"transition": "langevin", "noise_std": 0.05, "noise_first": True},
    "random_walk": {"transition": "random_walk"},
    "mala": {"transition": "hmc", "leapfrogs": 1},
    "hmc": {"transition": "hmc", "leapfrogs": 4, "max_error": 1000.0},
    "ghmc": {"transition": "hmc", "leapfrogs": 2, "flip": True, "persistence": 0.7},
    "baoab": {"transition": "baoab", "persistence": 0.8, "noise_std": 0.6},
}  # fmt: skip
COUNTER = {"seed": 2**63 + 5, "step": 2**32 - 4, "chain_offset": 11}


@pytest.fixture(autouse=True)
def steps(device: str) -> int:
    """Of a run: the interpreter takes some 20 ms for a step."""
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the interpreter, see test_interpreted.py")
    return 50 if device == "cuda" else 6


def run(target: Any, x: Tensor, backend: str, steps: int, device: str, **options: Any) -> SimpleNamespace:
    """A recorded run from x, which stays; everything that it wrote, on the CPU."""
    n, kept, wide = x.shape[0], steps // options.get("thin", 1), torch.float64
    langevin = options["transition"] == "langevin"
    out: dict[str, Any] = {
        "samples": torch.full((kept, *x.shape), math.nan), "energies": torch.full((kept, n), math.nan),
        "mean": torch.zeros_like(x), "squares": torch.zeros_like(x), "energy": torch.full((n,), math.nan),
        "grad": torch.full(x.shape, math.nan),
    }  # fmt: skip
    if langevin or options["transition"] == "baoab":
        out |= {"divergence_step": torch.full((n,), -1), "norm_sum": torch.zeros(n, dtype=wide)}
    else:
        out["counters"] = torch.ones(n, 5, dtype=wide)
    if not langevin:
        out["hamiltonians"] = torch.full((kept, n), math.nan, dtype=wide)
    if options["transition"] == "baoab" or options.get("flip") or options.get("heavy_ball"):
        out["momentum"] = normal(*x.shape, seed=9)
    elif options["transition"] == "hmc" and options.get("leapfrogs", 1) != 1:
        out["momentum"], out["proposal"] = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    out |= options
    out = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in out.items()}
    x = x.clone().to(device)
    what = target.descriptor() if hasattr(target, "descriptor") else SimpleNamespace(**vars(target))
    what_parameters = what.parameters.to(device)
    object.__setattr__(what, "parameters", what_parameters)
    chain_(x, what, steps=steps, backend=backend, **out)
    return SimpleNamespace(**{k: v.cpu() if isinstance(v, Tensor) else v for k, v in out.items()}, x=x.cpu())


def assert_same_chain(a: SimpleNamespace, b: SimpleNamespace, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` relative to 1 + |x|, with the same decisions."""
    if hasattr(a, "counters"):
        assert torch.equal(a.counters[:, 1:3], b.counters[:, 1:3])
    if hasattr(a, "divergence_step") and a.divergence_step is not None:
        assert torch.equal(a.divergence_step, b.divergence_step)
    for name in ("samples", "x", "mean"):
        ours, true = getattr(a, name), getattr(b, name)
        assert ((ours - true).abs() / (1 + true.abs())).max().item() <= tolerance, name
    for name in ("energies", "energy", "grad", "hamiltonians", "counters", "norm_sum", "momentum", "proposal", "squares"):
        if getattr(a, name, None) is not None:
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=3e-5, atol=1e-4)


def step_of(move: str, size: float) -> float:
    return {"langevin": size * size / 2, "noise_first": size * size / 2, "random_walk": 3 * size}.get(move, size)


PAIRS = [("banana", move) for move in MOVES] + [
    ("gaussian", "langevin"), ("gaussian", "ghmc"), ("gaussian", "baoab"), ("mixture", "hmc"), ("mixture", "noise_first"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "move"), PAIRS)
def test_every_transition_is_the_chain_of_the_reference(name, move, steps, device):
    ours, analytic, size = TARGETS[name]
    options = {**MOVES[move], "step_size": step_of(move, size), **COUNTER}
    x = normal(20, ours.dim, seed=3)
    fused = run(ours, x, "triton", steps, device, **options)
    reference = run(analytic, x, "reference", steps, device, **options)
    assert_same_chain(fused, reference)
    if move == "random_walk":
        assert 0.05 < (fused.counters[:, 1].mean() - 1) / steps < 0.98
    if move == "langevin":  # an error of 2 % in the gradient would be seen
        wrong = run(analytic, x, "reference", steps, device, **{**options, "step_size": 1.02 * options["step_size"]})
        with pytest.raises(AssertionError):
            assert_same_chain(fused, wrong)


def test_fifty_steps_agree_to_a_hundred_thousandth(device):
    ours, analytic, size = TARGETS["banana"]
    options = {**MOVES["ghmc"], "step_size": size, **COUNTER, "thin": 10}
    x = normal(32, 2, seed=3)
    fused = run(ours, x, "triton", 50, device, **options)
    assert_same_chain(fused, run(analytic, x, "reference", 50, device, **options))
    assert 50 < fused.counters[:, 1].sum() - 32 < 50 * 32


def schedules(steps: int, n: int) -> dict[str, dict[str, Any]]:
    scale = 0.5 + normal(5, seed=4).abs()
    rows, table = 0.5 + torch.rand(steps, 1), 0.5 + torch.rand(steps, n)
    langevin = {
        "transition": "langevin", "step_size": 0.02 * table, "noise_std": 0.3 * rows, "scale": scale, "prior_precision": 0.3,
        "heavy_ball": 0.8, "grad_clip": 0.7, "step_bounds": (-0.9, 1.2), "noise_bounds": (-0.8, INF),
    }  # fmt: skip
    return {
        "langevin": langevin,
        "langevin, noise first": {**langevin, "noise_first": True, "step_size": 0.02 * table[0], "heavy_ball": 0.0},
        "langevin, norm": {"transition": "langevin", "step_size": torch.tensor(0.03), "noise_std": table[0],
                           "grad_clip_norm": 0.5},
        "langevin, norm 0, quiet": {"transition": "langevin", "step_size": 0.03, "grad_clip_norm": 0.0,
                                    "noise_bounds": (-0.4, 0.5)},
        "random walk": {"transition": "random_walk", "step_size": 0.5 * rows, "scale": scale, "beta": table},
        "hmc": {"transition": "hmc", "step_size": 0.2 * table, "beta": 0.3 + rows, "scale": scale,
                "leapfrogs": [1 + k % 3 for k in range(steps)]},
        "ghmc": {"transition": "hmc", "step_size": 0.1 * table[0], "flip": True, "persistence": 0.9, "leapfrogs": 1,
                 "max_error": 0.01},
        "baoab": {"transition": "baoab", "step_size": 0.2 * rows, "scale": scale, "persistence": torch.linspace(0.1, 0.9, n),
                  "noise_std": table},
    }  # fmt: skip


@pytest.mark.parametrize("form", schedules(1, 1))
def test_every_option_and_schedule(form, steps, device):
    steps = min(steps, 6)
    torch.manual_seed(1)
    ours, analytic, _ = TARGETS["gaussian"]
    options = {**schedules(steps, 11)[form], "seed": 4}
    x = normal(11, 5, seed=3)
    assert_same_chain(run(ours, x, "triton", steps, device, **options), run(analytic, x, "reference", steps, device, **options))


@pytest.mark.parametrize("move", ["langevin", "ghmc"])
def test_a_chain_is_the_same_however_it_is_cut(move, device):
    """Bitwise: batch, order of calls, carried energies, thinning, counters on the device."""
    ours, _, size = TARGETS["banana"]
    options = {**MOVES[move], "step_size": step_of(move, size), "seed": 3}
    x = normal(40, 2, seed=3)
    whole = run(ours, x, "triton", 4, device, **options)
    part = {**options, "chain_offset": 33, "thin": 2, "rng": torch.tensor([3, -5]), "step": 5}
    if move == "ghmc":
        part["momentum"] = normal(40, 2, seed=9)[33:].clone()
    last = run(ours, x[33:], "triton", 4, device, **{**part, "seed": 8})
    assert torch.equal(last.samples, whole.samples[1::2, 33:])
    assert torch.equal(last.energies, whole.energies[1::2, 33:])
    first = run(ours, x, "triton", 1, device, **options)
    carried = {name: getattr(first, name) for name in ("energy", "grad", "mean", "squares", "momentum") if hasattr(first, name)}
    rest = run(ours, first.x, "triton", 3, device, **{**options, **carried, "step": 1, "count": 1, "carried": True})
    assert torch.equal(rest.samples, whole.samples[1:])
    assert torch.equal(rest.x, whole.x)
    assert torch.equal(rest.mean, whole.mean)
    assert torch.equal(rest.squares, whole.squares)


@pytest.mark.parametrize("move", ["langevin", "noise_first", "baoab"])
def test_chains_that_cannot_go_on_are_frozen_at_the_step_of_the_reference(move, device):
    """A double well with a step far beyond stability: x grows like x^3 until it leaves the range; others stay."""
    ours, analytic, _ = TARGETS["double_well"]
    x = normal(12, 3, seed=3)
    x[::3] *= 30.0
    steps = 8
    options = {**MOVES[move], "step_size": 0.14 if move == "baoab" else 0.02, "noise_std": 0.1, "seed": 3}
    fused, reference = run(ours, x, "triton", steps, device, **options), run(analytic, x, "reference", steps, device, **options)
    assert torch.equal(fused.divergence_step, reference.divergence_step)
    lost = fused.divergence_step >= 0
    assert lost[::3].any()
    assert not lost.all()
    assert torch.isfinite(fused.x).all()
    assert torch.equal(fused.samples[-1][lost], fused.samples[-2][lost])
    again = {**options, "divergence_step": fused.divergence_step, "step": steps}
    if move == "baoab":
        again["momentum"] = fused.momentum
    resumed = run(ours, fused.x, "triton", 1, device, **again)
    assert torch.equal(resumed.x[lost], fused.x[lost])
    assert not torch.equal(resumed.x[~lost], fused.x[~lost])


def test_proposals_that_are_not_finite_are_rejected_and_counted(device):
    ours, analytic, _ = TARGETS["exponential"]
    x = normal(20, 1, seed=3).exp()
    options = {**MOVES["random_walk"], "step_size": 2.0, "seed": 3}
    fused = run(ours, x, "triton", 6, device, **options)
    assert_same_chain(fused, run(analytic, x, "reference", 6, device, **options))
    assert (fused.samples > 0).all()
    assert fused.counters[:, 2].sum() > 20 + 10
    wild = run(double_well, normal(5, 3), "triton", 3, device, **{**MOVES["hmc"], "step_size": 1e12, "seed": 3})
    assert torch.equal(wild.counters[:, 2], torch.full((5,), 4.0, dtype=torch.float64))
    assert torch.isfinite(wild.samples).all()


def test_least_of_a_call(device):
    """Nothing recorded, nothing carried: only x moves."""
    x = normal(3, 2).to(device)
    start = x.clone()
    chain_(x, banana.to(device).descriptor(), "langevin", steps=2, step_size=0.01, noise_std=0.1, seed=1)
    true = start.cpu()
    chain_(true, TARGETS["banana"][1], "langevin", steps=2, step_size=0.01, noise_std=0.1, seed=1, backend="reference")
    banana.to("cpu")
    torch.testing.assert_close(x.cpu(), true, rtol=1e-6, atol=1e-6)
