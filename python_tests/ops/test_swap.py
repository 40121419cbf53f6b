"""swap_: parity with the reference, the decision's law, what is not finite, batches, threads, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import COUNTER, DTYPES, Drawn, assert_same, chains_of

import ebm_fast as ef

SHAPES = [(1, 2, 3), (7, 5), (300, 4, 2), (3, 9, 5, 7), (40, 8, 1), (2, 3000), (5, 1, 3), (2, 3, 1000), (1, 2)]
FORMS: dict[str, tuple[str, ...]] = {"bare": (), "gradients": ("grad",), "all": ("grad", "labels", "counters")}


def arguments(form: str, shape: tuple[int, ...], parity: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    draw, (n, r) = Drawn(shape, dtype, device), shape[:2]
    case: dict[str, Any] = {"x": draw.normal(), "energy": draw.normal((n, r)), "parity": parity} | COUNTER
    case["betas"] = torch.linspace(1.0, 0.1, r, dtype=torch.float64).to(device) * 3.0
    if "grad" in FORMS[form]:
        case["grad"] = draw.normal()
    if "labels" in FORMS[form]:
        case["labels"] = torch.arange(n * r).view(n, r).to(device)
    if "counters" in FORMS[form]:
        case["counters"] = draw.normal((n, r - 1, 2), torch.float64)
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, parity, dtype, backend, device):
    swapped = tried = 0
    for shape in SHAPES:
        fast, truth = (arguments(form, shape, parity, dtype, where) for where in (device, "cpu"))
        before = truth["energy"].clone()
        ef.ops.swap_(backend=backend, **fast)
        ef.ops.swap_(backend="reference", **truth)
        assert_same({k: v for k, v in fast.items() if k != "counters"}, truth | {"counters": None}, 0.0)
        if "counters" in truth:
            torch.testing.assert_close(fast["counters"].cpu(), truth["counters"], rtol=1e-13, atol=1e-13)
        swapped += int((truth["energy"] != before).sum())
        tried += shape[0] * ((shape[1] - parity) // 2 * 2)
    assert 0.3 < swapped / tried < 0.99


def test_formula_by_hand():
    case = arguments("all", (60, 5, 2), 1, torch.float64, "cpu")
    old = {name: value.clone() for name, value in case.items() if isinstance(value, torch.Tensor)}
    ef.ops.swap_(backend="reference", **case)
    u = ef.ops.uniform_(torch.empty(60, 5), purpose="swap", backend="reference", **COUNTER)
    for i in range(60):
        place = list(range(5))
        counters = old["counters"][i].clone()
        for j in (1, 3):
            a = float((old["betas"][j] - old["betas"][j + 1]) * (old["energy"][i, j] - old["energy"][i, j + 1]))
            counters[j, 0] += min(1.0, math.exp(a))
            if math.log(u[i, j]) <= a:
                place[j], place[j + 1] = j + 1, j
                counters[j, 1] += 1.0
        for name in ("x", "energy", "grad", "labels"):
            assert torch.equal(case[name][i], old[name][i, place]), name
        torch.testing.assert_close(case["counters"][i], counters, rtol=1e-14, atol=1e-14)


def test_neighbours_swap_with_probability_e_to_the_a(backend, device):
    """400000 pairs at a = (1 - 1/2) (0 - 2) = -1: false alarm 1e-6 (4.9 standard errors, 0.0038); 2.5 % more would be seen."""
    n, probability = 400_000, math.exp(-1.0)
    x = torch.tensor([0.0, 1.0], device=device).repeat(n, 1)
    energy = 2.0 * x
    betas = torch.tensor([1.0, 0.5], dtype=torch.float64, device=device)
    ef.ops.swap_(x, energy, betas, parity=0, seed=5, step=7, backend=backend)
    error = 4.9 * math.sqrt(probability * (1.0 - probability) / n)
    assert abs(float(x[:, 0].double().mean()) - probability) < error
    assert 0.025 * probability > 2.0 * error
    assert torch.equal(energy, 2.0 * x)


def test_energies_that_are_not_finite_stay(backend, device):
    inf, nan = math.inf, math.nan
    energy = torch.tensor([[inf, 0.0], [nan, 0.0], [0.0, inf], [0.0, nan], [-inf, 0.0], [5.0, 0.0]], device=device)
    x = torch.tensor([0.0, 1.0], device=device).repeat(6, 1)
    counters = torch.zeros(6, 1, 2, dtype=torch.float64, device=device)
    betas = torch.tensor([1.0, 0.1], dtype=torch.float64, device=device)
    ef.ops.swap_(x, energy, betas, parity=0, counters=counters, seed=0, backend=backend)
    assert x[:, 0].tolist() == [0.0] * 5 + [1.0]
    assert counters[:, 0].tolist() == [[0.0, 0.0]] * 5 + [[1.0, 1.0]]


def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads(backend, device):
    for shape in [(40, 5, 3), (600, 6, 40), (3, 4, 30000)]:
        whole = arguments("all", shape, 0, torch.float32, device)
        shared = ("betas",)
        parts = [
            chains_of(arguments("all", shape, 0, torch.float32, device), a, b, shared) for a, b in ((0, 1), (1, 2), (2, shape[0]))
        ]
        for threads, cases in ((2, [whole]), (1, parts)):
            torch.set_num_threads(threads)
            for case in cases:
                ef.ops.swap_(backend=backend, **case)
        for name in ("x", "energy", "grad", "labels", "counters"):
            assert torch.equal(whole[name], torch.cat([part[name] for part in parts])), (shape, name)


def test_rng_tensor_replaces_seed_and_step(backend, device):
    ends = []
    for counter in ({"seed": 12, "step": 40}, {"rng": torch.tensor([12, 38], device=device), "step": 2}):
        case = arguments("bare", (100, 6), 0, torch.float32, device) | {"seed": None} | counter
        ef.ops.swap_(backend=backend, **case)
        ends.append(case["x"])
    assert torch.equal(ends[0], ends[1])


def bad(**changes: Any) -> dict[str, Any]:
    case = {"x": torch.zeros(4, 3, 2), "energy": torch.zeros(4, 3), "betas": torch.ones(3, dtype=torch.float64), "parity": 0}
    return case | {"seed": 0} | changes


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, 2, dtype=torch.float16)}, TypeError, "x must have dtype float32 or float64"),
        ({"x": torch.zeros(4)}, ValueError, r"x must have shape \(n, replicas, \*event\), got \(4,\)"),
        ({"energy": torch.zeros(4, 2)}, ValueError, r"energy must be a contiguous tensor of shape \(4, 3\)"),
        ({"energy": None}, ValueError, "energy must be .*got NoneType"),
        ({"betas": torch.ones(3)}, ValueError, "betas must be .*torch.float64"),
        ({"grad": torch.zeros(4, 3)}, ValueError, "grad must match x"),
        ({"labels": torch.zeros(4, 3)}, ValueError, "labels must be .*torch.int64"),
        ({"counters": torch.zeros(4, 3, 2, dtype=torch.float64)}, ValueError, r"counters must be .*\(4, 2, 2\)"),
        ({"parity": 2}, ValueError, "parity must be 0 or 1, got 2"),
        ({"step": 2**56}, ValueError, "step must be in"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    with pytest.raises(error, match=match):
        ef.ops.swap_(**bad(**changes))


def test_empty_states_and_overlapping_memory():
    for shape in [(0, 3, 2), (3, 0, 2), (3, 2, 0), (3, 1, 4)]:
        r = shape[1]
        ef.ops.swap_(torch.zeros(shape), torch.zeros(shape[:2]), torch.ones(r, dtype=torch.float64), parity=0, seed=0)
    x = torch.zeros(4, 3, 2)
    with pytest.raises(ValueError, match="overlaps"):
        ef.ops.swap_(**bad(x=x, grad=x))


@pytest.mark.parametrize("form", ["bare", "all"])
def test_opcheck(form, device):
    case = arguments(form, (6, 4, 2), 0, torch.float32, device)
    args = (*(case.get(name) for name in ("x", "energy", "betas", "grad", "labels", "counters")), None, 0, 8, 1, 2, 3, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.swap_.default, args)
