"""Kernels of the Metropolis family against the reference. Triton's run in the interpreter on a CPU: see test_interpreted.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flat import STREAM, Arguments
from tolerances import UPDATE

from ebm_fast.ops.backend import implementation, why_not

DTYPES = [torch.float32, torch.float64]
# one element, odd events, blocks of four, images, events of several passes, and such that get a large program
SHAPES = [(1,), (63,), (300, 3), (9, 4), (4, 3, 5), (3, 2, 4, 8), (2, 1500), (1, 4501)]
INF = math.inf
REFRESHED = {"momentum": "read", "persistence": 0.6, "fresh": 0.8}
# What is given beyond an op's necessary tensors, and numbers that differ from flat.NUMBERS.
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "propose_": {
        "random walk": {"proposal": True},
        "random walk in place": {"proposal": "x", "scale": True},
        "random walk, a step a chain": {"proposal": True, "drift_at": "n", "rng": True},
        "momentum": {"momentum": True},
        "kinetic energy alone": {"kinetic": True},
        "refreshed": {"kinetic": True} | REFRESHED,
        "refreshed, on the device": {"kinetic": True, "momentum": "read", "persistence_at": "0", "fresh_at": "0"},
        "kept": {"proposal": True, "momentum": "read", "persistence": -1.0, "fresh": 0.0},
        "trajectory": {"proposal": True, "momentum": True, "grad": True, "kinetic": True},
        "trajectory in place": {"proposal": "x", "grad": True, "kinetic": True},
        "trajectory, steps on the device": {"proposal": True, "momentum": True, "grad": True, "kick_at": "0", "drift_at": "n"},
        "all": {"proposal": True, "grad": True, "kinetic": True, "scale": True, "kick_at": "n", "drift_at": "0", "rng": True}
        | REFRESHED | {"persistence_at": "n", "fresh_at": "n"},
        "factor": {"momentum": True, "factor": True},
        "factor, trajectory": dict.fromkeys(("proposal", "momentum", "grad", "kinetic", "factor", "rng"), True)
        | {"kick_at": "n", "drift_at": "0"},
    },
    "leapfrog_": {
        "plain": {},
        "kick alone": {"drift": 0.0},
        "scaled": {"scale": True},
        "steps on the device": {"kick_at": "0", "drift_at": "0"},
        "a step a chain": {"drift_at": "n"},
        "all": {"scale": True, "kick_at": "n", "drift_at": "n"},
    },
    "baoab_": {
        "plain": {"persistence": 0.7},
        "two kicks": {"persistence": 0.7, "kicks": 2},
        "no noise": {"persistence": 0.7, "noise_std": 0.0},
        "on the device": dict.fromkeys(("kick_at", "drift_at", "persistence_at", "noise_std_at"), "0"),
        "active": {"persistence": 0.7, "active": torch.bool},
        "all": dict.fromkeys(("kick_at", "drift_at", "persistence_at", "noise_std_at"), "n")
        | {"scale": True, "active": torch.uint8, "rng": True, "kicks": 2},
    },
    "guard_": {
        "norms": {"norm_sum": True},
        "langevin": {"energy": True, "divergence_step": True, "active": torch.uint8},
        "some leave the range": {"energy": True, "divergence_step": True, "active": torch.bool, "step_size": 1.5e38},
        "baoab": {"energy": True, "divergence_step": True, "momentum": True, "kinetic": True, "step_size": 1e19},
        "clipped": {"energy": True, "divergence_step": True, "step_size": 1.5e38, "grad_clip": 1.0, "norm_sum": True},
        "clipped norm": {"energy": True, "divergence_step": True, "step_size": 1.5e38, "grad_clip_norm": 2.0, "rng": True},
        "all": dict.fromkeys(("energy", "divergence_step", "momentum", "norm_sum", "rng"), True)
        | {"active": torch.uint8, "step_size_at": "n", "noise_std_at": "n", "stretch_at": "0", "heavy_ball": -1e38,
           "prior_precision": 1e38},
    },
    "moments_": {"plain": {}, "first": {"count": 1}, "all": {"count_at": True}},
    "metropolis_": {
        "random walk": {"kick": 0.0},
        "asymmetric": {"kick": 0.0, "log_ratio": True, "counters": True, "beta_at": "0"},
        "Langevin": {"grad": True, "proposal_grad": True, "momentum": True, "kinetic": True, "counters": True},
        "kick without gradients kept": {"proposal_grad": True, "momentum": True, "kinetic": True, "kick_at": "0"},
        "momentum, no kick": {"momentum": True, "kinetic": True, "kick": 0.0, "counters": True},
        "flip, no kick": {"momentum": True, "kinetic": True, "kick": 0.0, "momentum_before": True},
        "all": dict.fromkeys(("grad", "proposal_grad", "momentum", "momentum_before", "kinetic", "scale", "log_ratio", "counters",
                              "rng"), True) | {"kick_at": "n", "beta_at": "n"},
    },
    "swap_": {"plain": {}, "other pairs": {"parity": 1}, "all": dict.fromkeys(("grad", "labels", "counters", "rng"), True)},
}  # fmt: skip


def done(step: Any, name: str, form: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str, *, shift: int = 0,
         **changed: Any) -> dict[str, Any]:  # fmt: skip
    """Every argument after a call, in which `changed` replace what was drawn."""
    arguments = Arguments(name, shape, dtype, device, form, shift)
    for key, value in changed.items():
        arguments.values[key] = value.clone() if isinstance(value, torch.Tensor) else value
    step(*arguments.values.values())
    for guard in arguments.guards.values():
        guard.assert_margins_untouched()
    return arguments.values


def assert_same(fast: dict[str, Any], truth: dict[str, Any], tolerance: float) -> None:
    for key, value in truth.items():
        if isinstance(value, torch.Tensor):  # 0.5 |p|^2 of p in float32 is as uncertain as its elements are many
            bound = tolerance * (1 + fast["x"][0].numel()) if key == "counters" else tolerance
            torch.testing.assert_close(fast[key], value, rtol=bound, atol=bound, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}")


def tolerance_of(name: str, dtype: torch.dtype) -> float:
    """Noise is a float32 number everywhere; what has none keeps float64's digits."""
    return UPDATE[dtype] if dtype == torch.float32 or name in ("propose_", "baoab_") else 1e-13


def check(op: Any, name: str, form: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str,
          **changed: Any) -> dict[str, Any]:  # fmt: skip
    if name == "swap_":
        shape = (shape[0], 5, *shape[1:])
    steps = op(name), implementation(name, "reference")
    fast, truth = (done(step, name, form, shape, dtype, device, **changed) for step in steps)
    assert_same(fast, truth, tolerance_of(name, dtype))
    return fast


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in FORMS.items() for form in forms])
def test_forms(name, form, op, device):
    for shape in [(300, 3), (9, 4)]:
        check(op, name, FORMS[name][form], shape, torch.float32, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
def test_shapes(name, dtype, op, device):
    for shape in SHAPES:
        check(op, name, FORMS[name]["all"], shape, dtype, device)


def test_factors_of_any_size(op, device):
    """One element, threads or tiles that are filled and that are not, and the largest. Triton's is of float32 alone: in float64
    the product is the library's, see ops/proposal.py."""
    native = op("propose_").__module__ != "ebm_fast.kernels.proposal"
    for dtype in DTYPES if native else DTYPES[:1]:
        for shape in [(1,), (5, 2), (9, 16), (70, 31), (3, 8, 8), (17, 127), *([(9, 256)] if native else [])]:
            check(op, "propose_", FORMS["propose_"]["factor, trajectory"], shape, dtype, device)


@pytest.mark.parametrize("name", ["leapfrog_", "baoab_", "propose_", "metropolis_"])
def test_float64_keeps_its_coefficients(name, op, device):
    numbers = {"kick": 0.1, "drift": 1.0 / 3.0}
    form = {"leapfrog_": numbers, "baoab_": numbers | {"persistence": 0.7, "noise_std": 0.0},
            "propose_": {"momentum": "read", "persistence": -1.0, "fresh": 0.0, "proposal": True, "drift": 1.0 / 3.0},
            "metropolis_": FORMS["metropolis_"]["Langevin"] | {"kick": 0.1, "beta": 1.0 / 3.0}}[name]  # fmt: skip
    steps = op(name), implementation(name, "reference")
    fast, truth = (done(step, name, form, (40, 5), torch.float64, device) for step in steps)
    assert_same(fast, truth, 4e-15)


@pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu"))
@pytest.mark.parametrize("name", FORMS)
def test_a_cuda_thread_and_a_lane_of_the_cpu_compute_the_same_bits(name, cuda_on_cpu):
    for form in FORMS[name].values():
        for shape in [(60, 5, 33), (2, 5, 901)] if name == "swap_" else [(60, 33), (7, 3)]:
            steps = cuda_on_cpu.op(name), implementation(name, "cpu")
            thread, lane = (done(step, name, form, shape, torch.float32, "cpu") for step in steps)
            for key, value in lane.items():
                if isinstance(value, torch.Tensor):  # sums are in float64, in an order of their own
                    bound = 1e-13 if key in ("kinetic", "counters", "norm_sum") else 0.0
                    torch.testing.assert_close(thread[key], value, rtol=bound, atol=bound, equal_nan=True)


@pytest.mark.parametrize("name", ["propose_", "metropolis_", "swap_"])
def test_a_chain_is_the_same_in_any_batch_and_in_unaligned_memory(name, op, device):
    form = {key: value for key, value in FORMS[name]["all"].items() if key != "rng"}
    for shape in [(40, 33), (40, 4), (2, 2, 4501)] if name == "swap_" else [(40, 33), (40, 4), (40,), (2, 4501)]:
        whole = done(op(name), name, form, shape, torch.float32, device)
        shifted = done(op(name), name, form, shape, torch.float32, device, shift=1)
        if device == "cuda" and "kinetic" in shifted:  # Triton may add up float64 numbers of unaligned rows in another order
            torch.testing.assert_close(shifted["kinetic"], whole["kinetic"], rtol=1e-15, atol=0.0)
            shifted["kinetic"] = whole["kinetic"]
        assert_same(shifted, whole, 0.0)
        cut = max(shape[0] // 3, 1)
        drawn = Arguments(name, shape, torch.float32, device, form).values
        per_chain = [k for k, v in drawn.items() if isinstance(v, torch.Tensor) and v.ndim and k not in ("scale", "betas")]
        for first, last in [(0, cut), (cut, shape[0])]:
            changed = {key: drawn[key][first:last] for key in per_chain} | {"chain_offset": STREAM["chain_offset"] + first}
            part = done(op(name), name, form, shape, torch.float32, device, **changed)
            assert_same({k: part[k] for k in (*per_chain, "x")}, {k: whole[k][first:last] for k in per_chain}, 0.0)


def test_both_decisions_are_common_and_probabilities_right(op, device):
    n = 2000
    a = torch.linspace(-3.0, 0.5, n, dtype=torch.float64, device=device)
    counters = torch.zeros(n, 5, dtype=torch.float64, device=device)
    zero = torch.zeros(n, device=device)
    form = {"counters": True, "log_ratio": True, "max_error": 2.9}
    after = check(op, "metropolis_", form, (n,), torch.float32, device, log_ratio=a, counters=counters, energy=zero,
                  proposal_energy=zero)  # fmt: skip
    probability = a.clamp(max=0.0).exp()
    torch.testing.assert_close(after["counters"][:, 0], probability, rtol=1e-12, atol=0.0)
    assert torch.equal(after["counters"][:, 2].bool(), a < -2.9)
    # 4.9 standard deviations at a false-alarm rate of 1e-6: a tenth more or fewer acceptances would be 5
    expected, spread = probability.sum().item(), (probability * (1.0 - probability)).sum().sqrt().item()
    assert abs(after["counters"][:, 1].sum().item() - expected) < 4.9 * spread < 0.1 * expected


def test_exponentials_of_any_size(op, device):
    a = torch.cat((-torch.logspace(-12, 2.8, 600, dtype=torch.float64), torch.tensor([0.0, -745.0, -800.0, -INF]))).to(device)
    form = {"counters": True, "log_ratio": True, "kick": 0.0}
    after = check(op, "metropolis_", form, a.shape, torch.float64, device, log_ratio=a,
                  counters=torch.zeros(len(a), 5, dtype=torch.float64, device=device), beta=0.0)  # fmt: skip
    torch.testing.assert_close(after["counters"][:, 3], a.exp(), rtol=1e-12, atol=1e-300)
    assert after["counters"][-1].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_rejected_and_counted(dtype, op, device):
    nan = math.nan
    old = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, INF, INF, nan, -INF], dtype=dtype, device=device)
    new = torch.tensor([nan, INF, -INF, -99.0, -99.0, 0.0, INF, -99.0, 0.0], dtype=dtype, device=device)
    momentum = torch.zeros(9, 3, dtype=dtype, device=device)
    momentum[3, 1], momentum[4, 2] = nan, INF
    form = {"momentum": True, "momentum_before": True, "counters": True, "kick": 0.0, "max_error": INF}
    after = check(op, "metropolis_", form, (9, 3), dtype, device, energy=old, proposal_energy=new, momentum=momentum,
                  counters=torch.zeros(9, 5, dtype=torch.float64, device=device))  # fmt: skip
    assert after["counters"][:, 1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert after["counters"][:, 2].tolist() == [1, 1, 1, 1, 1, 0, 1, 1, 0]
    assert after["counters"][:, 3].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    energy = torch.tensor([[0.0, -INF, 0.0, nan, 0.0], [INF, 0.0, 0.0, INF, 0.0], [-INF, -INF, nan, 0.0, 0.0]], dtype=dtype)
    pairs = check(op, "swap_", {"counters": True}, (3, 1), dtype, device, energy=energy.to(device),
                  counters=torch.zeros(3, 4, 2, dtype=torch.float64, device=device))  # fmt: skip
    assert not pairs["counters"].any()


def test_events_without_elements_still_change_their_energies(op, device):
    check(op, "metropolis_", {"counters": True, "momentum": True, "kick": 0.0}, (50, 0), torch.float32, device)
    check(op, "swap_", {"labels": True, "counters": True}, (50, 0), torch.float64, device)


def test_replicas_without_a_pair_stay(op, device):
    drawn = Arguments("swap_", (3, 2, 4), torch.float32, device, {}).values
    after = done(op("swap_"), "swap_", {"parity": 1}, (3, 2, 4), torch.float32, device)
    assert torch.equal(after["x"], drawn["x"]) and torch.equal(after["energy"], drawn["energy"])


def test_moments_of_a_stream_far_from_zero(op, device):
    x = torch.randn(50, 7, 3, generator=torch.Generator().manual_seed(2)).to(device) + 1000.0
    mean, squares = torch.zeros(2, 7, 3, device=device)
    for count, state in enumerate(x, start=1):
        op("moments_")(state, mean, squares, None, count)
    torch.testing.assert_close(mean, x.double().mean(0).float(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(squares / 49, x.double().var(0).float(), rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("op", ["triton"], indirect=True)
def test_64_bit_indices_change_nothing(op, device, monkeypatch):
    from ebm_fast.kernels import philox, rows

    def everything() -> list[dict[str, Any]]:
        return [
            {k: v for k, v in done(op(name), name, forms["all"], shape, torch.float32, device).items() if torch.is_tensor(v)}
            for name, forms in FORMS.items() for shape in [(300, 3), (9, 4)]
        ]  # fmt: skip

    narrow = everything()
    for module in (philox, rows):
        monkeypatch.setattr(module, "WIDE_FROM", 0)
    torch.testing.assert_close(everything(), narrow, rtol=0.0, atol=0.0, equal_nan=True)
