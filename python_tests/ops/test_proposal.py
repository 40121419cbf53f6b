"""propose_: parity with the reference in every form, batches, threads, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import COUNTER, DTYPES, SHAPES, Drawn, assert_same, chains_of
from tolerances import UPDATE

import ebm_fast as ef

FORMS: dict[str, dict[str, Any]] = {
    "random walk": {"outputs": "proposal", "drift": 0.7, "purpose": "proposal"},
    "random walk, a step a chain": {"outputs": "proposal", "drift": "n", "purpose": "proposal"},
    "random walk, scaled": {"outputs": "proposal", "drift": "0", "scale": True, "purpose": "proposal"},
    "momentum": {"outputs": "momentum kinetic"},
    "kinetic alone": {"outputs": "kinetic"},
    "refreshed": {"outputs": "momentum kinetic", "persistence": 0.8},
    "refreshed, a persistence a chain": {"outputs": "momentum kinetic", "persistence": "n"},
    "kept": {"outputs": "proposal momentum", "persistence": -1.0, "drift": 0.1},
    "trajectory": {"outputs": "proposal momentum kinetic", "grad": True, "kick": 0.05, "drift": 0.1},
    "trajectory in place": {"outputs": "x momentum kinetic", "grad": True, "kick": 0.05, "drift": 0.1},
    "trajectory without its momentum": {"outputs": "proposal kinetic", "grad": True, "kick": 0.05, "drift": 0.1},
    "trajectory, scaled": {"outputs": "proposal momentum kinetic", "grad": True, "kick": 0.05, "drift": 0.1, "scale": True},
    "trajectory, a step a chain": {"outputs": "proposal momentum kinetic", "grad": True, "kick": "n", "drift": "n"},
    "all": {"outputs": "proposal momentum kinetic", "grad": True, "kick": "n", "drift": "0", "scale": True, "persistence": 0.6},
    "all, kick on the device": {"outputs": "proposal momentum", "grad": True, "kick": "0", "drift": "n", "scale": True,
                                "persistence": "0"},
    "factor": {"outputs": "momentum", "factor": True},
    "factor, random walk": {"outputs": "x", "factor": True, "drift": "n", "purpose": "proposal"},
    "factor, trajectory": {"outputs": "proposal momentum kinetic", "grad": True, "kick": 0.05, "drift": 0.1, "factor": True},
    "factor, a step a chain": {"outputs": "proposal kinetic", "grad": True, "kick": "n", "drift": "0", "factor": True},
}  # fmt: skip
# With a factor: beside tiles of few and many short events, columns that fill registers and that do not, and one for the library
FACTOR_SHAPES = [(1, 1), (63, 5), (7, 3, 5), (1000, 2), (300, 1), (1000,), (40, 33), (5, 64), (530, 100), (3, 1000), (2, 1030)]


def arguments(form: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    options, draw = FORMS[form], Drawn(shape, dtype, device)
    case: dict[str, Any] = {"x": draw.normal()} | COUNTER
    if options.get("grad"):
        case["grad"] = draw.normal()
    if options.get("scale"):
        case["scale"] = draw.positive(shape[1:])
    if options.get("factor"):
        d = torch.Size(shape[1:]).numel()
        case["factor"] = (draw.normal((d, d)) / d**0.5).masked_fill_(torch.ones(d, d, device=device).tril(-1) > 0, math.nan)
    case["kick"], case["drift"] = (draw.coefficient(options.get(name, 0.0)) for name in ("kick", "drift"))
    case["persistence"] = draw.coefficient(options.get("persistence", 0.0))
    case["purpose"] = options.get("purpose", "momentum")
    for name in options["outputs"].split():
        if name == "kinetic":
            case[name] = draw.poison(shape[:1], torch.float64)
        elif name == "momentum":
            case[name] = draw.normal() if options.get("persistence") else draw.poison()
        else:
            case["proposal"] = case["x"] if name == "x" else draw.poison()
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, dtype, backend, device):
    for shape in FACTOR_SHAPES if "factor" in form else SHAPES:
        fast, truth = (arguments(form, shape, dtype, where) for where in (device, "cpu"))
        ef.ops.propose_(backend=backend, **fast)
        ef.ops.propose_(backend="reference", **truth)
        assert_same(fast, truth, UPDATE[dtype])


def test_formula_by_hand():
    draw = Drawn((50, 7), torch.float64, "cpu")
    x, grad, scale, before = draw.normal(), draw.normal(), draw.positive((7,)), draw.normal()
    proposal, momentum, kinetic = torch.empty_like(x), before.clone(), torch.empty(50, dtype=torch.float64)
    ef.ops.propose_(x, proposal=proposal, momentum=momentum, kinetic=kinetic, grad=grad, scale=scale, kick=0.1, drift=0.2,
                    persistence=0.6, seed=3, step=9, backend="reference")  # fmt: skip
    z = ef.ops.normal_(torch.empty_like(x), seed=3, step=9, purpose="momentum", backend="reference")
    p = 0.6 * before + 0.8 * z
    torch.testing.assert_close(kinetic, 0.5 * (p * p).sum(1), rtol=1e-14, atol=0.0)
    p = p - 0.1 * scale * grad
    torch.testing.assert_close(momentum, p, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(proposal, x + 0.2 * scale * p, rtol=1e-14, atol=1e-14)


def test_formula_of_a_factor_by_hand():
    draw = Drawn((50, 7), torch.float64, "cpu")
    x, grad, root = draw.normal(), draw.normal(), draw.normal((7, 7)).tril()
    proposal, momentum, kinetic = torch.empty_like(x), torch.empty_like(x), torch.empty(50, dtype=torch.float64)
    ef.ops.propose_(x, proposal=proposal, momentum=momentum, kinetic=kinetic, grad=grad, factor=root.T.contiguous(), kick=0.1,
                    drift=0.2, seed=3, step=9, backend="reference")  # fmt: skip
    z = ef.ops.normal_(torch.empty_like(x), seed=3, step=9, purpose="momentum", backend="reference")
    torch.testing.assert_close(kinetic, 0.5 * (z * z).sum(1), rtol=1e-14, atol=0.0)
    v = torch.stack([root @ row for row in z]) - 0.1 * grad
    torch.testing.assert_close(momentum, v, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(proposal, x + 0.2 * v, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("form", ["trajectory", "all", "factor, trajectory"])
def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads(form, backend, device):
    for shape in [(40, 33), (40, 3), (600, 30), *([(70, 300)] if "factor" in form else [(3, 40000), (2, 70001)])]:
        whole = arguments(form, shape, torch.float32, device)
        parts = [chains_of(arguments(form, shape, torch.float32, device), a, b, ("scale", "factor"))
                 for a, b in ((0, 1), (1, 2), (2, shape[0]))]  # fmt: skip
        for threads, cases in ((1, [whole]), (2, parts)):
            torch.set_num_threads(threads)
            for case in cases:
                ef.ops.propose_(backend=backend, **case)
        # on a GPU the product of so long an event is the library's, which rounds as the number of chains would have it
        bound = 1e-5 if device == "cuda" and "factor" in form and shape[1] > 256 else 0.0
        for name in ("proposal", "momentum", "kinetic"):
            parted = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(whole[name], parted, rtol=bound, atol=bound, msg=name)


def test_rng_tensor_replaces_seed_and_step(backend, device):
    x, a, b = torch.zeros(5, 6, device=device), torch.empty(5, 6, device=device), torch.empty(5, 6, device=device)
    ef.ops.propose_(x, proposal=a, drift=1.0, seed=12, step=40, backend=backend)
    ef.ops.propose_(x, proposal=b, drift=1.0, rng=torch.tensor([12, 38], device=device), step=2, backend=backend)
    assert torch.equal(a, b)
    z = ef.ops.normal_(torch.empty_like(a), seed=12, step=40, purpose="momentum", backend=backend)
    assert torch.equal(a, z)


def test_what_is_not_finite_stays_in_its_chain(backend, device):
    x, grad = torch.zeros(3, 9, device=device), torch.zeros(3, 9, device=device)
    grad[1, 4], x[2, 0] = math.nan, math.inf
    proposal, kinetic = torch.empty_like(x), torch.empty(3, dtype=torch.float64, device=device)
    ef.ops.propose_(x, proposal=proposal, grad=grad, kinetic=kinetic, kick=0.5, drift=1.0, seed=0, backend=backend)
    assert proposal[1, 4].isnan()
    assert proposal[2, 0].item() == math.inf
    assert proposal.isfinite().sum().item() == 25
    assert kinetic.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.bfloat16)}, TypeError, "x must have dtype float32 or float64.*not reversible"),
        ({"proposal": torch.zeros(4, 2)}, ValueError, "proposal must match x"),
        ({"momentum": torch.zeros(3, 4).t()}, ValueError, "momentum must be contiguous"),
        ({"grad": 3}, TypeError, "grad must be a tensor"),
        ({"scale": torch.ones(4)}, ValueError, r"scale must be a contiguous tensor of shape \(3,\)"),
        ({"factor": torch.ones(3)}, ValueError, r"factor must be a contiguous tensor of shape \(3, 3\)"),
        ({"factor": torch.eye(3), "scale": torch.ones(3)}, ValueError, "scale .diagonal. or factor .dense., not both"),
        ({"factor": torch.eye(3), "persistence": 0.5, "momentum": torch.zeros(4, 3)}, ValueError, "no persistence, got 0.5"),
        ({"kinetic": torch.zeros(4)}, ValueError, r"kinetic must be a contiguous tensor of shape \(4,\), torch.float64"),
        ({"kick": math.nan}, ValueError, "kick must be a finite number"),
        ({"drift": torch.zeros(3)}, ValueError, r"drift must be a number or a tensor of shape \(\) or \(4,\)"),
        ({"persistence": 1.5, "momentum": torch.zeros(4, 3)}, ValueError, r"persistence must be in \[-1, 1\], got 1.5"),
        ({"persistence": 0.5}, ValueError, "persistence=0.5 needs momentum"),
        ({"persistence": torch.ones(3), "momentum": torch.zeros(4, 3)}, ValueError, r"persistence must be a number or a tensor"),
        ({"purpose": "lunch"}, ValueError, "purpose must be one of"),
        ({"step": -1}, ValueError, "step must be in"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(changes, error, match):
    case = {"x": torch.zeros(4, 3), "proposal": torch.full((4, 3), 7.0), "seed": 0} | changes
    with pytest.raises(error, match=match):
        ef.ops.propose_(**case)
    assert (case["proposal"] == (7.0 if "proposal" not in changes else 0.0)).all()


def test_overlapping_memory():
    memory = torch.zeros(64)
    x, shifted = memory[:32].view(4, 8), memory[8:40].view(4, 8)
    with pytest.raises(ValueError, match="x overlaps proposal in memory in part"):
        ef.ops.propose_(x, proposal=shifted, drift=1.0, seed=0)
    with pytest.raises(ValueError, match="overlaps"):
        ef.ops.propose_(x, momentum=x, seed=0)


def test_empty_states():
    for shape in [(0, 3), (3, 0), (0,)]:
        x, kinetic = torch.zeros(shape), torch.full(shape[:1], 5.0, dtype=torch.float64)
        ef.ops.propose_(x, proposal=x.clone(), kinetic=kinetic, seed=0)
        assert (kinetic == 0.0).all()


@pytest.mark.parametrize("form", ["trajectory", "all", "factor, trajectory"])
def test_opcheck(form, device):
    case = arguments(form, (6, 5), torch.float32, device)
    at = [case[name] if isinstance(case[name], torch.Tensor) else None for name in ("kick", "drift")]
    args = (case["x"], case["proposal"], torch.zeros_like(case["x"]), case["grad"], case.get("scale"), case.get("factor"),
            case["kinetic"], *at, None, None, None, 0.1, 0.2, case["persistence"], 0.8, 3, 1, 2, 3, "auto")  # fmt: skip
    torch.library.opcheck(torch.ops.ebm_fast.propose_.default, args)
