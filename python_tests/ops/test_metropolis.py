"""metropolis_: parity with the reference in every form, the decision's law, what is not finite, batches, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import COUNTER, DTYPES, SHAPES, Drawn, assert_same, chains_of

import ebm_fast as ef

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
FORMS: dict[str, dict[str, Any]] = {
    "random walk": {},
    "random walk, hot": {"beta": 0.3, "counters": True},
    "asymmetric": {"log_ratio": True, "counters": True, "beta": "n"},
    "with gradient": {"grad": True, "counters": True},
    "trajectory": {"grad": True, "momentum": True, "kinetic": True, "kick": 0.3, "counters": True, "max_error": 1.0},
    "trajectory, kicked before": {"grad": True, "momentum": True, "kinetic": True, "counters": True},
    "trajectory, scaled": {"grad": True, "momentum": True, "kinetic": True, "kick": 0.3, "scale": True, "beta": "0"},
    "kick without carrying the gradient": {"proposal_grad": True, "momentum": True, "kick": "n", "counters": True},
    "flip": {"grad": True, "momentum": True, "before": True, "kinetic": True, "kick": 0.3, "counters": True},
    "flip, no kick": {"momentum": True, "before": True, "kinetic": True},
    "all": {"grad": True, "momentum": True, "before": True, "kinetic": True, "kick": "n", "scale": True, "beta": "n",
            "log_ratio": True, "counters": True, "max_error": 0.5},
}  # fmt: skip


def arguments(form: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    """One case; kinetic energies at the start near those at the end, so that a good part of all chains accepts and rejects."""
    options, draw, n = FORMS[form], Drawn(shape, dtype, device), shape[0]
    case: dict[str, Any] = {"x": draw.normal(), "proposal": draw.normal()} | COUNTER
    case["energy"], case["proposal_energy"] = draw.normal((n,)), draw.normal((n,))
    if options.get("grad"):
        case["grad"] = draw.normal()
    if options.get("grad") or options.get("proposal_grad"):
        case["proposal_grad"] = draw.normal()
    if options.get("scale"):
        case["scale"] = draw.positive(shape[1:])
    case["kick"], case["beta"] = draw.coefficient(options.get("kick", 0.0)), draw.coefficient(options.get("beta", 1.0), 1.0)
    if options.get("momentum"):
        case["momentum"] = draw.normal()
    if options.get("before"):
        case["momentum_before"] = draw.normal()
    if options.get("kinetic"):
        kick = case["kick"]
        if isinstance(kick, torch.Tensor) and kick.ndim:
            kick = kick.view(-1, *[1] * (len(shape) - 1))
        kick = kick * case.get("scale", 1.0)
        after = case["momentum"] - kick * case["proposal_grad"] if "proposal_grad" in case else case["momentum"]
        case["kinetic"] = 0.5 * after.double().view(n, -1).square().sum(1) + draw.normal((n,), torch.float64)
    if options.get("log_ratio"):
        case["log_ratio"] = draw.normal((n,), torch.float64)
    if options.get("counters"):
        case["counters"] = draw.normal((n, 5), torch.float64)
    case["max_error"] = options.get("max_error", math.inf)
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, dtype, backend, device):
    accepted = total = 0
    for shape in SHAPES:
        fast, truth = (arguments(form, shape, dtype, where) for where in (device, "cpu"))
        before = truth["energy"].clone()
        ef.ops.metropolis_(backend=backend, **fast)
        ef.ops.metropolis_(backend="reference", **truth)
        assert_same(fast, truth, TOLERANCE[dtype])
        accepted, total = accepted + int((truth["energy"] != before).sum()), total + shape[0]
    assert 0.2 < accepted / total < 0.9


def test_formula_by_hand():
    """Decisions, energies, gradients, momenta and counters, recomputed chain by chain in Python."""
    case = arguments("all", (200, 3), torch.float64, "cpu")
    old = {name: value.clone() for name, value in case.items() if isinstance(value, torch.Tensor)}
    ef.ops.metropolis_(backend="reference", **case)
    u = ef.ops.uniform_(torch.empty(200, 1), purpose="accept", backend="reference", **COUNTER)[:, 0]
    for i in range(200):
        p = old["momentum"][i] - old["kick"][i] * old["scale"] * old["proposal_grad"][i]
        kinetic = 0.5 * float(p @ p)
        a = float(old["beta"][i] * (old["energy"][i] - old["proposal_energy"][i]) + old["kinetic"][i] - kinetic)
        a += float(old["log_ratio"][i])
        accepted = math.log(u[i]) <= a
        assert torch.equal(case["x"][i], old["proposal" if accepted else "x"][i])
        assert torch.equal(case["grad"][i], old["proposal_grad" if accepted else "grad"][i])
        assert case["energy"][i] == old["proposal_energy" if accepted else "energy"][i]
        torch.testing.assert_close(case["momentum"][i], p if accepted else -old["momentum_before"][i], rtol=1e-14, atol=1e-14)
        probability = min(1.0, math.exp(a))
        end = float(old["beta"][i] * case["energy"][i]) + (kinetic if accepted else float(old["kinetic"][i]))
        start = old["counters"][i].tolist()
        wanted = [start[0] + probability, start[1] + accepted, start[2] + (a < -0.5), probability, end]
        assert case["counters"][i].tolist() == pytest.approx(wanted, rel=1e-13, abs=1e-13)


def test_chains_accept_with_probability_e_to_the_a(backend, device):
    """500000 decisions at a = ln 0.37: false alarm 1e-6 (4.9 standard errors, 0.0033); a ratio off by 2 % is caught."""
    n, probability = 500_000, 0.37
    x, energy = torch.zeros(n, 1, device=device), torch.zeros(n, device=device)
    higher = torch.full((n,), -math.log(probability), device=device)
    ef.ops.metropolis_(x, torch.ones_like(x), energy, higher, seed=11, step=3, backend=backend)
    error = 4.9 * math.sqrt(probability * (1 - probability) / n)
    assert abs(float(x.double().mean()) - probability) < error
    assert abs(0.02 * probability) > 2.0 * error
    assert torch.equal(energy, x[:, 0] * higher)


def test_proposals_that_are_not_finite_are_rejected_and_counted(backend, device):
    inf, nan = math.inf, math.nan
    for dim in (2, 200):
        energy = torch.tensor([0.0, 0.0, 0.0, 0.0, nan, inf, 0.0, -inf, 0.0, 0.0], device=device)
        proposed = torch.tensor([inf, nan, -inf, 0.0, 0.0, 0.0, 0.0, 0.0, 5000.0, 0.0], device=device)
        momentum = torch.zeros(10, dim, device=device)
        momentum[3, 1], momentum[6, 0] = nan, inf
        x, counters = torch.zeros(10, dim, device=device), torch.zeros(10, 5, dtype=torch.float64, device=device)
        ef.ops.metropolis_(x, torch.ones_like(x), energy, proposed, momentum=momentum, counters=counters, max_error=1000.0,
                           seed=1, kinetic=torch.zeros(10, dtype=torch.float64, device=device), backend=backend)  # fmt: skip
        accepted = [False, False, False, False, False, True, False, False, False, True]
        assert x.bool().all(1).tolist() == accepted
        assert counters[:, 1].bool().tolist() == accepted
        # from an infinite energy everything is better; to one of -inf nothing leads back
        assert counters[:, 2].bool().tolist() == [True, True, True, True, True, False, True, True, True, False]
        assert counters[:, 3].tolist() == [0.0] * 5 + [1.0] + [0.0] * 3 + [1.0]


@pytest.mark.parametrize("form", ["trajectory", "all"])
def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads(form, backend, device):
    for shape in [(40, 33), (40, 3), (600, 30)] + [(3, 270001)] * (form == "all"):
        whole = arguments(form, shape, torch.float32, device)
        parts = [chains_of(arguments(form, shape, torch.float32, device), a, b) for a, b in ((0, 1), (1, 2), (2, shape[0]))]
        for threads, cases in ((1, [whole]), (2, parts)):
            torch.set_num_threads(threads)
            for case in cases:
                ef.ops.metropolis_(backend=backend, **case)
        for name in ("x", "energy", "grad", "momentum", "counters"):
            assert torch.equal(whole[name], torch.cat([part[name] for part in parts])), (shape, name)


def test_rng_tensor_replaces_seed_and_step(backend, device):
    ends = []
    rng = torch.tensor([12, 38], device=device)
    for counter in ({"seed": 12, "step": 40}, {"rng": rng, "step": 2}, {"seed": 12, "step": 41}):
        case = arguments("random walk", (300, 2), torch.float32, device) | {"seed": None} | counter
        ef.ops.metropolis_(backend=backend, **case)
        ends.append(case["x"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def bad(**changes: Any) -> dict[str, Any]:
    case = {"x": torch.zeros(4, 3), "proposal": torch.ones(4, 3), "energy": torch.zeros(4), "proposal_energy": torch.zeros(4)}
    return case | {"seed": 0} | changes


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.bfloat16)}, TypeError, "x must have dtype float32 or float64"),
        ({"proposal": None}, TypeError, "proposal must be a tensor, got NoneType"),
        ({"energy": torch.zeros(3)}, ValueError, r"energy must be a contiguous tensor of shape \(4,\)"),
        ({"proposal_energy": torch.zeros(4, dtype=torch.float64)}, ValueError, "proposal_energy must be .*torch.float32"),
        ({"grad": torch.zeros(4, 3)}, ValueError, "grad needs proposal_grad"),
        ({"momentum_before": torch.zeros(4, 3)}, ValueError, "momentum_before needs momentum"),
        ({"kick": 0.1, "momentum": torch.zeros(4, 3)}, ValueError, "kick needs momentum and proposal_grad"),
        ({"inverse_factor": torch.eye(2), "momentum": torch.zeros(4, 3)}, ValueError, r"inverse_factor must be .* \(3, 3\)"),
        ({"inverse_factor": torch.eye(3)}, ValueError, "inverse_factor needs momentum"),
        ({"kinetic": torch.zeros(4)}, ValueError, "kinetic must be .*torch.float64"),
        ({"log_ratio": torch.zeros(4, 1, dtype=torch.float64)}, ValueError, "log_ratio must be"),
        ({"counters": torch.zeros(4, 4, dtype=torch.float64)}, ValueError, r"counters must be .*shape \(4, 5\), torch.float64"),
        ({"counters": [0.0]}, ValueError, "counters must be"),
        ({"beta": math.inf}, ValueError, "beta must be a finite number"),
        ({"max_error": -1.0}, ValueError, "max_error must be"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(changes, error, match):
    case = bad(**changes)
    with pytest.raises(error, match=match):
        ef.ops.metropolis_(**case)
    assert not case["x"].any()


def test_overlapping_memory():
    x, energy = torch.zeros(4, 3), torch.zeros(4)
    for changes in ({"x": x, "proposal": x}, {"energy": energy, "proposal_energy": energy}, {"grad": x, "proposal_grad": x},
                    {"x": x, "proposal_grad": x}, {"momentum": x, "momentum_before": x}):  # fmt: skip
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.metropolis_(**bad(**changes))


def test_empty_states():
    for shape in [(0, 3), (3, 0), (0,)]:
        energy = torch.zeros(shape[0])
        ef.ops.metropolis_(torch.zeros(shape), torch.zeros(shape), energy, torch.full_like(energy, -1.0), seed=0)
        assert (energy == -1.0).all()


def test_inverse_factor_whitens_a_velocity(backend, device):
    for dtype in DTYPES:
        case = arguments("trajectory, kicked before", (63, 5), dtype, device)
        factor = torch.linspace(0.2, 1.4, 25, dtype=dtype, device=device).view(5, 5).triu()
        velocity = case["momentum"] @ factor
        given = {name: t.clone() if isinstance(t, torch.Tensor) else t for name, t in case.items()}
        given |= {"momentum": velocity, "inverse_factor": torch.linalg.inv(factor).contiguous()}
        ef.ops.metropolis_(backend=backend, **given)
        ef.ops.metropolis_(backend=backend, **case)
        assert torch.equal(given["momentum"], velocity)  # only read
        for name in ("x", "energy", "counters"):
            torch.testing.assert_close(given[name], case[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["trajectory", "all"])
def test_opcheck(form, device):
    case = arguments(form, (6, 5), torch.float32, device)
    at = [case[name] if isinstance(case[name], torch.Tensor) else None for name in ("kick", "beta")]
    names = ("x", "proposal", "energy", "proposal_energy", "grad", "proposal_grad", "momentum", "momentum_before", "kinetic",
             "scale", "inverse_factor", "log_ratio", "counters")  # fmt: skip
    args = (*(case.get(name) for name in names), *at, None, 0.1, 0.2, 10.0, 2, 1, 2, 3, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.metropolis_.default, args)
