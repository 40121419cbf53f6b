"""leapfrog_: parity with the reference, reversibility, batches, threads, errors, opcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.cases import DTYPES, SHAPES, Drawn, assert_same, chains_of

import ebm_fast as ef

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-15}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"kick": 0.1, "drift": 0.2},
    "kick alone": {"kick": 0.1, "drift": 0.0},
    "scaled": {"kick": 0.1, "drift": 0.2, "scale": True},
    "a step a chain": {"kick": "n", "drift": "n"},
    "steps on the device": {"kick": "0", "drift": "0"},
    "a kick a chain, scaled": {"kick": "n", "drift": "0", "scale": True},
    "a drift a chain, scaled": {"kick": -0.1, "drift": "n", "scale": True},
}


def arguments(form: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    options, draw = FORMS[form], Drawn(shape, dtype, device)
    case: dict[str, Any] = {"x": draw.normal(), "momentum": draw.normal(), "grad": draw.normal()}
    case["scale"] = draw.positive(shape[1:]) if options.get("scale") else None
    return case | {name: draw.coefficient(options[name]) for name in ("kick", "drift")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, dtype, backend, device):
    for shape in SHAPES:
        fast, truth = (arguments(form, shape, dtype, where) for where in (device, "cpu"))
        before = fast["x"].clone()
        ef.ops.leapfrog_(backend=backend, **fast)
        ef.ops.leapfrog_(backend="reference", **truth)
        assert_same(fast, truth, TOLERANCE[dtype])
        if form == "kick alone":
            assert torch.equal(fast["x"], before)


def test_formula_by_hand():
    x, p, g, scale = (torch.tensor(a, dtype=torch.float64) for a in ([[1.0, 2.0]], [[3.0, -1.0]], [[0.5, 4.0]], [2.0, 0.5]))
    ef.ops.leapfrog_(x, p, g, kick=0.25, drift=0.5, scale=scale, backend="reference")
    assert p.tolist() == [[2.75, -1.5]]
    assert x.tolist() == [[3.75, 1.625]]


def test_a_trajectory_runs_back(backend, device):
    """20 steps on E = x^2 / 2, the momentum turned round, 20 more: the start, to rounding."""
    draw = Drawn((30, 21), torch.float64, device)
    x, p, scale = draw.normal(), draw.normal(), draw.positive((21,))
    start, e = x.clone(), 0.3
    for _ in range(2):
        ef.ops.leapfrog_(x, p, x.clone(), kick=e / 2, drift=e, scale=scale, backend=backend)
        for _ in range(19):
            ef.ops.leapfrog_(x, p, x.clone(), kick=e, drift=e, scale=scale, backend=backend)
        ef.ops.leapfrog_(x, p, x.clone(), kick=e / 2, drift=0.0, scale=scale, backend=backend)
        p.neg_()
    torch.testing.assert_close(x, start, rtol=0.0, atol=1e-12)


def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads(backend, device):
    for form in ("plain", "a kick a chain, scaled"):
        for shape in [(40, 33), (9000, 31), (3, 140000)]:
            whole = arguments(form, shape, torch.float32, device)
            parts = [chains_of(arguments(form, shape, torch.float32, device), a, b) for a, b in ((0, 1), (1, shape[0]))]
            for threads, cases in ((2, [whole]), (1, parts)):
                torch.set_num_threads(threads)
                for case in cases:
                    ef.ops.leapfrog_(backend=backend, **case)
            for name in ("x", "momentum"):
                assert torch.equal(whole[name], torch.cat([part[name] for part in parts])), (form, shape, name)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.float16)}, TypeError, "x must have dtype float32 or float64"),
        ({"momentum": torch.zeros(4, 2)}, ValueError, "momentum must match x"),
        ({"grad": None}, TypeError, "grad must be a tensor, got NoneType"),
        ({"scale": torch.ones(3, dtype=torch.float64)}, ValueError, "scale must be a contiguous tensor"),
        ({"kick": "0.1"}, TypeError, "kick must be a number"),
        ({"drift": torch.zeros(4, 1)}, ValueError, "drift must be a number or a tensor of shape"),
        ({"backend": "fast"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case = {"x": torch.zeros(4, 3), "momentum": torch.zeros(4, 3), "grad": torch.ones(4, 3), "kick": 0.1, "drift": 0.1} | changes
    with pytest.raises(error, match=match):
        ef.ops.leapfrog_(**case)
    assert not case["x"].any()


def test_overlapping_memory():
    x, g = torch.zeros(4, 3), torch.zeros(4, 3)
    for case in ({"x": x, "momentum": x, "grad": g}, {"x": x, "momentum": g, "grad": g}):
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.leapfrog_(**case, kick=0.1, drift=0.1)


def test_empty_states():
    for shape in [(0, 3), (3, 0), (0,)]:
        ef.ops.leapfrog_(*(torch.zeros(shape) for _ in range(3)), kick=0.1, drift=0.1)


@pytest.mark.parametrize("form", ["plain", "a kick a chain, scaled"])
def test_opcheck(form, device):
    case = arguments(form, (6, 5), torch.float32, device)
    at = [case[name] if isinstance(case[name], torch.Tensor) else None for name in ("kick", "drift")]
    args = (case["x"], case["momentum"], case["grad"], case["scale"], *at, 0.1, 0.2, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.leapfrog_.default, args)
