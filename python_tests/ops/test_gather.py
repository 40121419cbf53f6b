"""gather_ and scatter_: parity with the reference, which rows are new, what is not finite, batches, threads, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import COUNTER, Drawn, assert_same
from tolerances import UPDATE

import ebm_fast as ef

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (63, 5), (7, 3, 5), (1000, 2), (3, 1000), (2, 1, 8, 8), (1000,), (40, 33), (2, 5001)]
INITS = ("uniform", "normal", "rows")


def arguments(init: str, shape: tuple[int, ...], dtype: torch.dtype, device: str, rate: float = 0.4) -> dict[str, Any]:
    draw, n = Drawn(shape, dtype, device), shape[0]
    kinds = {"uniform": ("uniform", -1.0, 3.0), "normal": ("normal", 2.0), "rows": draw.normal((7, *shape[1:]))}
    return {
        "out": draw.poison(), "source": draw.normal((n + 5, *shape[1:])), "slots": (torch.arange(n) + 5).flip(0).to(device),
        "rejuvenation": rate, "init": kinds[init], "fresh": torch.zeros(n, dtype=torch.bool, device=device),
    } | COUNTER  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("init", INITS)
def test_parity_with_the_reference(init, dtype, backend, device):
    fresh = rows = 0
    for shape in SHAPES:
        fast, truth = (arguments(init, shape, dtype, where) for where in (device, "cpu"))
        assert ef.ops.gather_(backend=backend, **fast) is fast["out"]
        ef.ops.gather_(backend="reference", **truth)
        assert_same(fast, truth | {"init": None}, UPDATE[dtype])
        fresh, rows = fresh + int(truth["fresh"].sum()), rows + shape[0]
    assert abs(fresh / rows - 0.4) < 4.9 * math.sqrt(0.24 / rows), "4.9 standard errors"


def test_what_is_new_and_what_is_not(backend, device):
    """Rows of the source bit for bit, or the numbers of `uniform_` and `normal_`; no row at rate 0, all at rate 1."""
    for init, noise in (("uniform", ef.ops.uniform_), ("normal", ef.ops.normal_)):
        for rate in (0.0, 0.4, 1.0):
            case = arguments(init, (300, 9), torch.float32, device, rate)
            ef.ops.gather_(backend=backend, **case)
            z = noise(torch.empty_like(case["out"]), purpose="init", backend=backend, **COUNTER)
            chance = ef.ops.uniform_(torch.empty(300, 1, device=device), purpose="rejuvenation", **COUNTER).squeeze(1)
            new = 4.0 * z - 1.0 if init == "uniform" else 2.0 * z
            assert torch.equal(case["fresh"], chance <= rate)
            assert torch.equal(case["out"], torch.where(case["fresh"][:, None], new, case["source"][case["slots"]]))
    case = arguments("rows", (4000, 2), torch.float32, device, 1.0)
    ef.ops.gather_(backend=backend, **case)
    which = (case["out"][:, None] == case["init"][None]).all(2)
    assert (which.sum(1) == 1).all()
    error = 4.9 * math.sqrt(4000 / 7 * 6 / 7)
    assert ((which.sum(0) - 4000 / 7).abs() < error).all() and error < 0.2 * 4000 / 7


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_not_written(dtype, backend, device):
    for shape in SHAPES:
        draw, n = Drawn(shape, dtype, device), shape[0]
        target, x, slots = draw.normal((n + 5, *shape[1:])), draw.normal(), (torch.arange(n) + 5).flip(0).to(device)
        flat = x.view(n, -1)
        flat[1::4, -1], flat[2::4, 0], flat[3::4, flat.shape[1] // 2] = math.nan, math.inf, -math.inf
        expected = target.clone()
        expected[slots[::4]] = x[::4]
        for who in (backend, "reference"):
            out = target.clone()
            assert ef.ops.scatter_(out, slots, x, backend=who) is out
            assert torch.equal(out, expected), (shape, who)


def test_the_largest_numbers_are_finite(backend, device):
    x = torch.full((2, 40), torch.finfo(torch.float32).max, device=device)
    assert torch.equal(ef.ops.scatter_(torch.zeros_like(x), torch.tensor([1, 0], device=device), x, backend=backend), x)


def test_a_row_is_the_same_in_any_batch_and_on_any_number_of_threads(backend, device):
    for init in INITS:
        for shape in [(1400, 33), (30, 9000)]:
            ends = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                whole = arguments(init, shape, torch.float32, device)
                ends.append(ef.ops.gather_(backend=backend, **whole))
            assert torch.equal(*ends)
            part = {k: v[3:].contiguous() if k in ("out", "slots", "fresh") else v for k, v in whole.items()}
            part |= {"chain_offset": 20, "out": torch.full_like(part["out"], math.nan)}
            assert torch.equal(ef.ops.gather_(backend=backend, **part), ends[0][3:])
    rng = torch.tensor([COUNTER["seed"] - 2**64, COUNTER["step"] - 2], device=device)
    moved = ef.ops.gather_(**whole | {"seed": None, "step": 2, "rng": rng, "backend": backend})
    assert torch.equal(moved, ends[0])


GATHER: dict[str, Any] = {"out": torch.zeros(3, 2), "source": torch.ones(5, 2), "slots": torch.arange(3), "seed": 0}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"out": torch.zeros(3, 2, dtype=torch.int32)}, TypeError, "out must have dtype"),
        ({"source": torch.ones(5, 3)}, ValueError, r"source must be .*\(rows, 2\).*\(5, 3\)"),
        ({"source": torch.ones(0, 2)}, ValueError, "source must be"),
        ({"source": [1.0]}, TypeError, "source must be a tensor"),
        ({"source": torch.ones(2, 5).t()}, ValueError, "source must be contiguous"),
        ({"slots": torch.arange(4)}, ValueError, "slots must be"),
        ({"slots": torch.zeros(3)}, ValueError, "slots must be .*torch.int64"),
        ({"slots": torch.tensor([0, 5, 1])}, ValueError, r"slots: expected 0\.\.4, got 0\.\.5"),
        ({"slots": torch.tensor([0, -1, 1])}, ValueError, r"slots: expected 0\.\.4, got -1\.\.1"),
        ({"rejuvenation": 1.5}, ValueError, "rejuvenation must be a probability"),
        ({"init": ("cauchy", 1.0)}, ValueError, "init must be"),
        ({"init": ("normal", "a")}, TypeError, "each number of init"),
        ({"init": torch.ones(3)}, ValueError, "init must be contiguous"),
        ({"fresh": torch.zeros(3)}, ValueError, "fresh must be"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_of_gather_are_named(changes, error, match):
    case = GATHER | changes
    with pytest.raises(error, match=match):
        ef.ops.gather_(**case)
    assert not case["out"].any()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"target": torch.zeros(5, 2, dtype=torch.int32)}, TypeError, "target must have dtype"),
        ({"x": torch.ones(3, 3)}, ValueError, r"x must be contiguous, \(rows, 2\)"),
        ({"x": torch.ones(3, 2).double()}, ValueError, "x must be"),
        ({"slots": torch.arange(2)}, ValueError, "slots must be"),
        ({"slots": torch.tensor([0, 5, 1])}, ValueError, r"slots: expected 0\.\.4, got 0\.\.5"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_of_scatter_are_named(changes, error, match):
    case = {"target": torch.zeros(5, 2), "slots": torch.arange(3), "x": torch.ones(3, 2)} | changes
    with pytest.raises(error, match=match):
        ef.ops.scatter_(**case)
    assert not case["target"].any()


def test_empty_states_and_overlapping_memory():
    none = torch.zeros(0, dtype=torch.int64)
    ef.ops.gather_(torch.zeros(0, 2), torch.zeros(5, 2), none, seed=0)
    ef.ops.gather_(torch.zeros(3, 0), torch.zeros(5, 0), torch.arange(3), seed=0)
    ef.ops.scatter_(torch.zeros(5, 2), none, torch.zeros(0, 2))
    buffer = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="overlaps"):
        ef.ops.gather_(buffer[:3], buffer, torch.arange(3), seed=0)
    with pytest.raises(ValueError, match="overlaps"):
        ef.ops.scatter_(buffer, torch.arange(3), buffer[:3])


def test_opcheck(device):
    case = arguments("rows", (6, 4), torch.float32, device)
    case["out"].zero_()
    common = (case["out"], case["source"], case["slots"])
    for rest in ((None, None, None, 2), (case["init"], case["fresh"], torch.tensor([1, 2], device=device), 0)):
        args = (*common, *rest, 0.4, 0.0, 1.0, 5, 4, 1, 2, 3, "auto")
        torch.library.opcheck(torch.ops.ebm_fast.gather_.default, args)
    torch.library.opcheck(torch.ops.ebm_fast.scatter_.default, (case["source"], case["slots"], case["out"], "auto"))
