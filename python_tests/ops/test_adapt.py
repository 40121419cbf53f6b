"""adapt_: parity with the reference in each of its parts, the formulas in NumPy, threads, errors, opcheck."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ops.cases import DTYPES, SHAPES, Drawn, assert_same
from torch import Tensor

import ebm_fast as ef
from ebm_fast.ops.adapt import adapt_steps

# Sums in another order: the slope of ChEES is a small difference of large terms
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-10}
PARTS = ("steps", "groups", "chains", "mass", "chees", "scaled")


def arguments(part: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    draw, n, event = Drawn(shape, torch.float64, device), shape[0], shape[1:]
    counters = torch.rand(n, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    counters[::5, 3] = 0.0
    groups = {"groups": 1 + (n % 3 == 0) * 2, "chains": n}.get(part, 1)
    case: dict[str, Any] = {"x": draw.normal().to(dtype), "counters": counters.to(device)}
    if part != "mass":
        average = torch.tensor([[-1.0], [-0.8], [0.1], [-0.5]], dtype=torch.float64).repeat(1, groups)
        average += 0.1 * torch.arange(groups)
        case |= {
            "average": average.to(device), "average_count": torch.tensor(7.0, dtype=torch.float64, device=device),
            "step_size": torch.full(() if groups == 1 else (n,), 0.3, dtype=dtype, device=device), "target": 0.7,
            "shrinkage": 0.15,
        }  # fmt: skip
    if part in ("mass", "scaled"):
        case |= {"mean": draw.normal()[0].clone() if n else torch.zeros(event), "count": torch.tensor(50.0).double().to(device)}
        case["squares"] = case["mean"].abs() * 40.0
    if part in ("chees", "scaled"):
        case |= {name: draw.normal().to(dtype) for name in ("before", "proposal", "momentum")}
        case |= {"search": torch.tensor([0.2, 0.1, 0.3, 9.0], dtype=torch.float64, device=device), "fraction": 0.625,
                 "length": torch.tensor(1.2, dtype=torch.float64, device=device)}  # fmt: skip
        if case["x"].numel():  # neither counts
            case["proposal"].view(n, -1)[-1, 0], case["momentum"].view(n, -1)[n // 2, -1] = torch.inf, torch.nan
    if part == "scaled":
        case["scale"] = 0.5 + draw.normal()[0].abs().to(dtype)
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("least", [0.0, 0.01])
@pytest.mark.parametrize("part", PARTS)
def test_parity_with_the_reference(part, least, dtype, backend, device):
    for shape in (*SHAPES, (300, 2), (40, 131)):
        fast, truth = (arguments(part, shape, dtype, where) for where in (device, "cpu"))
        before = {name: t.clone() for name, t in truth.items() if isinstance(t, Tensor)}
        for _ in range(3):
            ef.ops.adapt_(backend=backend, least=least, **fast)
            ef.ops.adapt_(backend="reference", least=least, **truth)
        assert_same(fast, truth, TOLERANCE[dtype])
        changed = {name for name, t in before.items() if not torch.equal(t.nan_to_num(), truth[name].nan_to_num())}
        written = {"average", "average_count", "step_size"} if part != "mass" else set()
        written |= {"mean", "squares", "count"} if part in ("mass", "scaled") else set()
        written |= {"search", "length", "before"} if part in ("chees", "scaled") else set()
        assert changed == written


def test_formulas(backend, device):
    """Each part as its source writes it, in NumPy."""
    case = arguments("scaled", (6, 3), torch.float64, device)
    old = {name: t.clone().cpu().numpy() for name, t in case.items() if isinstance(t, Tensor)}
    ef.ops.adapt_(backend=backend, least=0.01, **case)
    new = {name: t.cpu().numpy() for name, t in case.items() if isinstance(t, Tensor)}
    w, sigma = old["counters"][:, 3].copy(), old["scale"]
    w[[0, 3, 5]] = 0.0  # impossible, not a number, infinite
    fine = w > 0
    ahead, behind, v = old["proposal"] / sigma, old["before"] / sigma, old["momentum"]
    apart = ahead - (w[fine, None] * ahead[fine]).sum(0) / w.sum()
    change = (apart**2).sum(1) - ((behind - behind.mean(0)) ** 2).sum(1)
    slope = (w * change * (apart * v).sum(1))[fine].sum() / 6 * 0.625 * 1.2
    log, smooth, second, _ = old["search"]
    second = 0.95 * second + 0.05 * slope**2
    log += np.clip(0.025 * slope / (np.sqrt(second / (1 - 0.95**10)) + 1e-8), -0.35, 0.35)
    log = np.clip(log, np.log(0.3), np.log(300.0))
    np.testing.assert_allclose(new["search"], [log, smooth + (log - smooth) / np.sqrt(10), second, 10], rtol=1e-12)
    np.testing.assert_allclose(new["length"], np.exp(log), rtol=1e-12)
    assert np.array_equal(new["before"], new["x"])
    a = 1 / np.mean(1 / np.maximum(old["counters"][:, 3], 0.01))
    _, smooth, error, mu = old["average"][:, 0]
    error += (0.7 - a - error) / 18
    log = mu - np.sqrt(8) / 0.15 * error
    np.testing.assert_allclose(new["average"][:, 0], [log, smooth + 8**-0.75 * (log - smooth), error, mu], rtol=1e-12)
    np.testing.assert_allclose(new["step_size"], np.exp(log), rtol=1e-12)
    # 50 states of that mean and variance beside six
    first = np.array([[1.0], [-1.0]] * 25) * np.sqrt(old["squares"] / 50) + old["mean"]
    both = np.concatenate((first, old["x"]))
    np.testing.assert_allclose(new["mean"], both.mean(0), rtol=1e-12)
    np.testing.assert_allclose(new["squares"], both.var(0) * 56, rtol=1e-12)
    assert new["count"] == 56


def test_trajectories_stay_between_a_step_and_the_longest(backend, device):
    for direction, bound in ((1.0, 2.0), (-1.0, 1.0)):
        case = arguments("chees", (40, 3), torch.float64, device)
        case["momentum"] = direction * case["proposal"].nan_to_num(0.0, 0.0)
        case["proposal"] = 5.0 * case["proposal"].nan_to_num(0.0, 0.0)
        for _ in range(80):
            case["average"][2], case["step_size"] = 0.0, case["step_size"].fill_(0.3)
            ef.ops.adapt_(backend=backend, longest=2.0, **case)
        assert float(case["length"]) == pytest.approx(bound * 0.3, rel=1e-6)


def test_a_slope_beyond_all_numbers_teaches_nothing(backend, device):
    case = arguments("chees", (8, 3), torch.float64, device)
    for size in (1e300, 1e75):  # the slope itself, its square
        case["proposal"] = torch.full_like(case["x"], size)
        case["proposal"][0] = -size
        ef.ops.adapt_(backend=backend, **case)
        assert bool(torch.isfinite(case["search"]).all()) and float(case["search"][0]) == 0.2


@pytest.mark.parametrize("part", PARTS)
def test_the_same_on_any_number_of_threads_and_bound(part, backend, device):
    threads, ends = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            case = arguments(part, (3001, 70), torch.float32, device)
            if len(ends) < 2:
                ef.ops.adapt_(backend=backend, least=0.02, **case)
            else:
                fixed = {name: value for name, value in case.items() if name not in ("x", "counters", "fraction")}
                adapt_steps(case["x"], case["counters"], backend=backend, **fixed)(0.02, case.get("fraction", 0.5))
            ends.append({name: t.cpu() for name, t in case.items() if isinstance(t, Tensor)})
    finally:
        torch.set_num_threads(threads)
    assert_same(ends[0], ends[1], 0.0)
    assert_same(ends[1], ends[2], 0.0)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.bfloat16)}, TypeError, "x must have dtype float32 or float64"),
        ({"counters": torch.zeros(4, 5)}, ValueError, "counters must be a contiguous tensor"),
        ({"average": None}, ValueError, "average, average_count and step_size go together"),
        ({"average": torch.zeros(4, 3).double()}, ValueError, "groups dividing the 4 chains"),
        ({"step_size": torch.ones(4)}, ValueError, r"step_size must be .* shape \(\)"),
        ({"squares": None}, ValueError, "mean, squares and count go together"),
        ({"mean": torch.zeros(3)}, ValueError, "mean must be .*float64"),
        ({"momentum": None}, ValueError, "search, length, before, proposal and momentum go together"),
        ({"average": torch.zeros(4, 2).double(), "step_size": torch.ones(4)}, ValueError, "search adapts .* shape \\(4, 1\\)"),
        ({"before": torch.zeros(4, 2)}, ValueError, "before must match x"),
        ({"scale": torch.ones(4)}, ValueError, "scale must be"),
        ({"longest": 0.5}, ValueError, "longest must be"),
        ({"shrinkage": 0.0}, ValueError, "shrinkage must be"),
        ({"least": -0.1}, ValueError, "least must be"),
        ({"average": None, "average_count": None, "step_size": None, "mean": None, "squares": None, "count": None}, ValueError,
         "there is nothing to learn"),
        (dict.fromkeys(("search", "length", "before", "proposal", "momentum")), ValueError, "leave it out without search"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case = arguments("scaled", (4, 3), torch.float32, "cpu") | changes
    kept = {name: t.clone() for name, t in case.items() if isinstance(t, Tensor)}
    with pytest.raises(error, match=match):
        ef.ops.adapt_(**case)
    assert all(torch.equal(t.nan_to_num(), case[name].nan_to_num()) for name, t in kept.items())


def test_empty_states_and_overlapping_memory():
    for shape in [(0, 3), (3, 0), (0,)]:
        ef.ops.adapt_(torch.zeros(shape), torch.zeros(shape[0], 5).double(), mean=torch.zeros(shape[1:]).double(),
                      squares=torch.zeros(shape[1:]).double(), count=torch.zeros(()).double())  # fmt: skip
    for one, other in (("before", "x"), ("mean", "squares"), ("before", "proposal"), ("step_size", "scale")):
        case = arguments("scaled", (4, 3), torch.float32, "cpu")
        case[one] = case[other].view(-1)[0] if one == "step_size" else case[other]
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.adapt_(**case)


@pytest.mark.parametrize("part", PARTS)
def test_opcheck(part, device):
    case = arguments(part, (6, 5), torch.float32, device)
    names = ("average", "average_count", "step_size", "mean", "squares", "count", "search", "length", "before", "space",
             "proposal", "momentum", "scale")  # fmt: skip
    if "proposal" in case:
        case |= {"proposal": case["proposal"].nan_to_num(0.0, 0.0), "momentum": case["momentum"].nan_to_num(0.0)}
    case["space"] = torch.zeros(6 + 3 * 5).double().to(device) if "search" in case else None
    args = (case["x"], case["counters"], *(case.get(name) for name in names), 0.8, 0.2, 100.0, 0.01, 0.5, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.adapt_.default, args)
