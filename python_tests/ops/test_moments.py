"""moments_: parity with the reference, agreement with the two-pass moments, threads, errors, opcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.cases import DTYPES, SHAPES, Drawn, assert_same

import ebm_fast as ef

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def arguments(count: Any, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Any]:
    draw = Drawn(shape, dtype, device)
    case = {"x": draw.normal(), "mean": draw.normal(), "squares": draw.normal()}
    return case | {"count": count.to(device) if isinstance(count, torch.Tensor) else count}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3, torch.tensor(7)], ids=["first", "third", "on the device"])
def test_parity_with_the_reference(count, dtype, backend, device):
    for shape in SHAPES:
        fast, truth = (arguments(count, shape, dtype, where) for where in (device, "cpu"))
        ef.ops.moments_(backend=backend, **fast)
        ef.ops.moments_(backend="reference", **truth)
        assert_same(fast, truth, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_and_variance_far_from_the_origin(dtype, backend, device):
    """Mean 1000, standard deviation 1: the naive sum of squares in float32 would be off by a tenth."""
    samples = 1000.0 + torch.randn(400, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    mean, squares = (torch.zeros(5, 7, dtype=dtype, device=device) for _ in range(2))
    for k, x in enumerate(samples):
        ef.ops.moments_(x.to(device), mean, squares, count=k + 1, backend=backend)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(mean.cpu().double(), samples.double().mean(0), rtol=tolerance, atol=0.0)
    variance = (squares / 399).cpu().double()
    torch.testing.assert_close(variance, samples.double().var(0), rtol=1e-9 if dtype == torch.float64 else 2e-3, atol=0.0)


def test_the_same_on_any_number_of_threads(backend, device):
    ends = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        case = arguments(3, (70, 5003), torch.float32, device)
        ef.ops.moments_(backend=backend, **case)
        ends.append(case)
    assert_same(ends[0], {name: t.cpu() for name, t in ends[1].items() if name != "count"}, 0.0)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.bfloat16)}, TypeError, "x must have dtype float32 or float64"),
        ({"mean": torch.zeros(4, 3, dtype=torch.float64)}, ValueError, "mean must match x"),
        ({"squares": torch.zeros(3, 4).t()}, ValueError, "squares must be contiguous"),
        ({"count": 0}, ValueError, "count must be an int of at least 1, got 0"),
        ({"count": 1.0}, ValueError, "count must be an int"),
        ({"count": torch.tensor(1.0)}, ValueError, r"count must be .*torch.int64"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case = {"x": torch.ones(4, 3), "mean": torch.zeros(4, 3), "squares": torch.zeros(4, 3), "count": 1} | changes
    with pytest.raises(error, match=match):
        ef.ops.moments_(**case)
    assert not case["mean"].any()


def test_empty_states_and_overlapping_memory():
    for shape in [(0, 3), (3, 0), (0,)]:
        ef.ops.moments_(*(torch.zeros(shape) for _ in range(3)), count=1)
    x, m = torch.zeros(4, 3), torch.zeros(4, 3)
    for tensors in ((x, x, m), (x, m, x), (x, m, m)):
        with pytest.raises(ValueError, match="overlaps"):
            ef.ops.moments_(*tensors, count=1)


@pytest.mark.parametrize("at", [None, torch.tensor(4)], ids=["number", "tensor"])
def test_opcheck(at, device):
    case = arguments(1, (6, 5), torch.float32, device)
    args = (case["x"], case["mean"], case["squares"], None if at is None else at.to(device), 3, "auto")
    torch.library.opcheck(torch.ops.ebm_fast.moments_.default, args)
