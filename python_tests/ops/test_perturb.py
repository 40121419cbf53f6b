"""perturb_: parity with the reference, the formula, batches, threads, errors, opcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.cases import COUNTER, Drawn, assert_same
from tolerances import UPDATE

import ebm_fast as ef

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (63, 5), (7, 3, 5), (1000, 2), (3, 1000), (2, 1, 8, 8), (1000,), (40, 33), (2, 5001)]
FORMS: dict[str, tuple[str, ...]] = {"bare": (), "noise": ("noise",), "all": ("noise", "scale", "n")}


def arguments(form: str, shape: tuple[int, ...], copies: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    draw, rows = Drawn(shape, dtype, device), (shape[0] * copies, *shape[1:])
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    case: dict[str, Any] = {"out": draw.poison(rows), "x": draw.normal(), "sigma": 0.3} | COUNTER
    if "n" in FORMS[form]:
        case["sigma"] = draw.positive(rows[:1]).to(arithmetic)
    if "scale" in FORMS[form]:
        case["scale"] = draw.positive(shape[1:]).to(arithmetic)
    if "noise" in FORMS[form]:
        case["noise"] = draw.poison(rows)
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, dtype, backend, device):
    for copies in (1, 3):
        for shape in SHAPES:
            fast, truth = (arguments(form, shape, copies, dtype, where) for where in (device, "cpu"))
            assert ef.ops.perturb_(backend=backend, **fast) is fast["out"]
            ef.ops.perturb_(backend="reference", **truth)
            assert_same(fast, truth, UPDATE[dtype])


def test_formula_by_hand(device):
    """The noise is that of `normal_`, and y = x + sigma scale z to a rounding of float64."""
    case = arguments("all", (4, 3, 5), 2, torch.float64, device)
    ef.ops.perturb_(**case)
    z = ef.ops.normal_(torch.empty_like(case["out"]), purpose="data_noise", **COUNTER)
    assert torch.equal(case["noise"], z)
    x = case["x"].repeat_interleave(2, 0)
    torch.testing.assert_close(case["out"], x + case["sigma"][:, None, None] * case["scale"] * z, rtol=1e-15, atol=1e-15)


def test_a_row_is_the_same_in_any_batch_and_on_any_number_of_threads(backend, device):
    for shape in [(600, 33), (4, 30000)]:
        whole = arguments("noise", shape, 1, torch.float32, device)
        torch.set_num_threads(2)
        ef.ops.perturb_(backend=backend, **whole)
        torch.set_num_threads(1)
        first, last = whole["out"][:1], whole["out"][3:]
        for got, a, b in ((first, 0, 1), (last, 3, shape[0])):
            part = torch.full_like(got, torch.nan)
            ef.ops.perturb_(part, whole["x"][a:b], 0.3, backend=backend, **COUNTER | {"chain_offset": 17 + a})
            assert torch.equal(part, got)
    rng = torch.tensor([12, 38], device=device)
    x = torch.zeros(9, 4, device=device)
    counters = ({"seed": 12, "step": 40}, {"rng": rng, "step": 2})
    ends = [ef.ops.perturb_(torch.empty_like(x), x, 1.0, backend=backend, **counter) for counter in counters]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"out": torch.zeros(6, 2, dtype=torch.int64)}, TypeError, "out must have dtype"),
        ({"out": torch.zeros(2, 6).t()}, ValueError, "out must be contiguous"),
        ({"x": torch.ones(4, 2)}, ValueError, r"x must hold a whole fraction of out's rows.*\(4, 2\)"),
        ({"x": torch.ones(0, 2)}, ValueError, "x must hold"),
        ({"x": torch.ones(3, 3)}, ValueError, "x must hold"),
        ({"x": torch.ones(3, 2, dtype=torch.float64)}, ValueError, "x must hold.*float64"),
        ({"x": torch.ones(3, 2, requires_grad=True)}, ValueError, "x must not require grad"),
        ({"sigma": -1.0}, ValueError, "sigma must be finite and at least 0"),
        ({"sigma": torch.ones(3)}, ValueError, r"sigma must be a number or a tensor of shape \(\) or \(6,\)"),
        ({"noise": torch.zeros(3, 2)}, ValueError, "noise must match"),
        ({"scale": torch.ones(3)}, ValueError, "scale must be"),
        ({"purpose": "luck"}, ValueError, "purpose must be one of"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case = {"out": torch.zeros(6, 2), "x": torch.ones(3, 2), "sigma": 1.0, "seed": 0} | changes
    with pytest.raises(error, match=match):
        ef.ops.perturb_(**case)
    assert not case["out"].any()


def test_empty_states_and_overlapping_memory():
    for shape in [(0, 3), (3, 0)]:
        ef.ops.perturb_(torch.zeros(shape), torch.zeros(3, *shape[1:]), 1.0, seed=0)
    x = torch.zeros(3, 2)
    for tensors in ({"out": x}, {"out": torch.zeros(3, 2), "noise": x}):
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.perturb_(x=x, sigma=1.0, seed=0, **tensors)


@pytest.mark.parametrize("form", ["bare", "all"])
def test_opcheck(form, device):
    case = arguments(form, (6, 4), 2, torch.float32, device)
    sigma = case["sigma"]
    at, number = (sigma, 0.0) if isinstance(sigma, torch.Tensor) else (None, sigma)
    case["out"].zero_()
    args = (case["out"], case.get("noise"), case["x"], case.get("scale"), at, None, number, 11, 1, 2, 3, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.perturb_.default, args)
