"""The CUDA kernels of adapt_ against the reference: events of every group of threads, few and many chains."""

from __future__ import annotations

import pytest
import torch
from ops.cases import DTYPES, assert_same
from ops.test_adapt import PARTS, TOLERANCE, arguments

from ebm_fast.ops.adapt import _READ, _WRITTEN
from ebm_fast.reference.adapt import adapt_

# a thread, 8, a warp and a thread block for a chain; one block of elements and several
SHAPES = [(1, 1), (7,), (300, 2), (600, 3), (40, 9), (33, 64), (6, 65), (30, 2, 5, 10), (3, 4100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("least", [0.0, 0.01])
@pytest.mark.parametrize("part", PARTS)
def test_parity_with_the_reference(part, least, dtype, op, device):
    run = op("adapt_")
    for shape in SHAPES:
        cases = [arguments(part, shape, dtype, where) for where in (device, "cpu")]
        for case, function, where in zip(cases, (run, adapt_), (device, "cpu")):
            x, counters = case["x"], case["counters"]
            if "search" in case:
                case["space"] = torch.full((shape[0] + 3 * x[0].numel(),), torch.nan, dtype=torch.float64, device=where)
            tensors = (case.get(name) for name in _WRITTEN + _READ)
            for _ in range(2):
                function(x, counters, *tensors, case.get("target", 0.8), case.get("shrinkage", 0.2), 1000.0, least,
                         case.get("fraction", 0.5))  # fmt: skip
                tensors = (case.get(name) for name in _WRITTEN + _READ)
        for case in cases:
            case.pop("space", None)
        assert_same(*cases, TOLERANCE[dtype])
