"""baoab_: parity with the reference in every form, batches, threads, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import COUNTER, DTYPES, SHAPES, Drawn, assert_same, chains_of
from tolerances import UPDATE

import ebm_fast as ef

COEFFICIENTS = ("kick", "drift", "persistence", "noise_std")
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two kicks": {"kicks": 2},
    "no noise": {"noise_std": 0.0, "persistence": 1.0},
    "scaled": {"scale": True},
    "a step a chain": {"kick": "n", "drift": "n", "persistence": "n", "noise_std": "n"},
    "steps on the device": {"kick": "0", "drift": "0", "persistence": "0", "noise_std": "0", "kicks": 2},
    "frozen": {"active": torch.bool},
    "all": {"kick": "n", "drift": "0", "persistence": "n", "noise_std": "n", "kicks": 2, "scale": True, "active": torch.uint8},
}


def arguments(form: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    options, draw = FORMS[form], Drawn(shape, dtype, device)
    case: dict[str, Any] = {"x": draw.normal(), "momentum": draw.normal(), "grad": draw.normal()} | COUNTER
    for name, default in zip(COEFFICIENTS, (0.1, 0.2, 0.9, 0.4)):
        case[name] = draw.coefficient(options.get(name, default))
    case["kicks"] = options.get("kicks", 1)
    case["scale"] = draw.positive(shape[1:]) if options.get("scale") else None
    case["active"] = (torch.arange(shape[0]) % 3 != 0).to(device, options["active"]) if "active" in options else None
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_reference(form, dtype, backend, device):
    for shape in SHAPES:
        fast, truth = (arguments(form, shape, dtype, where) for where in (device, "cpu"))
        before = truth["x"].clone()
        ef.ops.baoab_(backend=backend, **fast)
        ef.ops.baoab_(backend="reference", **truth)
        assert_same(fast, truth, UPDATE[dtype])
        if truth["active"] is not None:
            frozen = ~truth["active"].bool()
            assert torch.equal(fast["x"].cpu()[frozen], before[frozen])


def test_formula_by_hand():
    draw = Drawn((50, 7), torch.float64, "cpu")
    x, p, g, scale = draw.normal(), draw.normal(), draw.normal(), draw.positive((7,))
    end, momentum = x.clone(), p.clone()
    ef.ops.baoab_(end, momentum, g, kick=0.1, drift=0.2, persistence=0.8, noise_std=0.6, kicks=2, scale=scale, seed=3, step=9,
                  backend="reference")  # fmt: skip
    z = ef.ops.normal_(torch.empty_like(x), seed=3, step=9, purpose="momentum", backend="reference")
    kicked = p - 0.2 * scale * g
    refreshed = 0.8 * kicked + 0.6 * z
    torch.testing.assert_close(momentum, refreshed, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(end, x + 0.2 * scale * (kicked + refreshed), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("form", ["plain", "all"])
def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads(form, backend, device):
    for shape in [(40, 33), (40, 3), (9000, 7), (4, 40001)]:
        whole = arguments(form, shape, torch.float32, device)
        parts = [chains_of(arguments(form, shape, torch.float32, device), a, b) for a, b in ((0, 1), (1, 2), (2, shape[0]))]
        for threads, cases in ((2, [whole]), (1, parts)):
            torch.set_num_threads(threads)
            for case in cases:
                ef.ops.baoab_(backend=backend, **case)
        for name in ("x", "momentum"):
            assert torch.equal(whole[name], torch.cat([part[name] for part in parts])), (shape, name)


def test_rng_tensor_replaces_seed_and_step(backend, device):
    ends = []
    for counter in ({"seed": 12, "step": 40}, {"rng": torch.tensor([12, 38], device=device), "step": 2}):
        case = arguments("plain", (30, 5), torch.float32, device) | {"seed": None} | counter
        ef.ops.baoab_(backend=backend, **case)
        ends.append(case["x"])
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.bfloat16)}, TypeError, "x must have dtype float32 or float64"),
        ({"momentum": torch.zeros(4)}, ValueError, "momentum must match x"),
        ({"grad": torch.zeros(3, 4).t()}, ValueError, "grad must be contiguous"),
        ({"scale": torch.ones(4)}, ValueError, "scale must be a contiguous tensor"),
        ({"active": torch.ones(4)}, ValueError, "active must be a contiguous tensor"),
        ({"kicks": 3}, ValueError, "kicks must be 1 or 2, got 3"),
        ({"noise_std": -0.5}, ValueError, "noise_std must be finite and at least 0"),
        ({"persistence": math.nan}, ValueError, "persistence must be a finite number"),
        ({"chain_offset": -1}, ValueError, "chain_offset must be in"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case = {"x": torch.zeros(4, 3), "momentum": torch.ones(4, 3), "grad": torch.ones(4, 3), "kick": 0.1, "drift": 0.1,
            "persistence": 0.5, "noise_std": 0.1, "seed": 0} | changes  # fmt: skip
    with pytest.raises(error, match=match):
        ef.ops.baoab_(**case)
    assert not case["x"].any()


def test_empty_states_and_overlapping_memory():
    numbers = {"kick": 0.1, "drift": 0.1, "persistence": 0.5, "noise_std": 0.1, "seed": 0}
    for shape in [(0, 3), (3, 0), (0,)]:
        ef.ops.baoab_(*(torch.zeros(shape) for _ in range(3)), **numbers)
    x, g = torch.zeros(4, 3), torch.zeros(4, 3)
    for tensors in ((x, x, g), (x, g, g), (x, g, x)):
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.baoab_(*tensors, **numbers)


@pytest.mark.parametrize("form", ["plain", "all"])
def test_opcheck(form, device):
    case = arguments(form, (6, 5), torch.float32, device)
    at = [case[name] if isinstance(case[name], torch.Tensor) else None for name in COEFFICIENTS]
    args = (*(case[name] for name in ("x", "momentum", "grad", "scale", "active")), *at, None, 0.1, 0.2, 0.9, 0.4, 2, 3, 1, 2, 3,
            "auto")  # fmt: skip
    torch.library.opcheck(torch.ops.ebm_fast.baoab_.default, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_kicks_are_one_after_the_other(backend, device, dtype):
    """Bit for bit: the last half kick of a step may ride on the first of the next, or not."""
    x, p, grad = (ef.ops.normal_(torch.empty(7, 9, device=device), seed=s).to(dtype) for s in (1, 2, 3))
    y, q = x.clone(), p.clone()
    settings = {"drift": 0.1, "persistence": 0.8, "noise_std": 0.6, "seed": 4, "backend": backend}
    ef.ops.baoab_(x, p, grad, kick=0.07, kicks=2, **settings)
    ef.ops.leapfrog_(y, q, grad, kick=0.07, drift=0.0, backend=backend)
    ef.ops.baoab_(y, q, grad, kick=0.07, **settings)
    assert torch.equal(x, y)
    assert torch.equal(p, q)
