"""randperm_: parity with the reference, the law of places and pairs of places, batches, groups, errors, opcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ebm_fast as ef

COUNTER: dict[str, Any] = {"seed": 2**63 + 1, "step": 2**33, "chain_offset": 17}
KNOWN = [6014, 9686, 1777, 5551, 2445, 6114]


def drawn(n: int, size: int, device: str, **options: Any) -> Tensor:
    out = torch.full((n,), -7, dtype=torch.int64, device=device)
    return ef.ops.randperm_(out, size, **{**COUNTER, **options})


def permutations(size: int, count: int, device: str, **options: Any) -> Tensor:  # (count, size)
    """`count` permutations, each a group's."""
    i = torch.arange(count * size, device=device)
    group = i // size
    return (drawn(len(i), size, device, index=i % size, group=group, **options) - group * size).view(count, size)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 10_007, 2**31])
def test_parity_and_distinct_numbers(size, backend, device):
    n = min(size, 3000)
    fast, truth = drawn(n, size, device, backend=backend), drawn(n, size, "cpu", backend="reference")
    assert torch.equal(fast.cpu(), truth)
    assert len(truth.unique()) == n and truth.min() >= 0 and truth.max() < size
    index, group = torch.arange(n).flip(0) * 3 % size, torch.arange(n) % 4
    ours, theirs = (
        drawn(n, size, where, index=index.to(where), group=group.to(where), backend=who)
        for where, who in ((device, backend), ("cpu", "reference"))
    )
    assert torch.equal(ours.cpu(), theirs) and torch.equal(theirs // size, group)


def test_known_answer():
    """The contract's numbers, which no change of code may change."""
    for backend in ("auto", "reference"):
        got = drawn(6, 10_000, "cpu", seed=1, step=3, chain_offset=2, backend=backend)
        assert got.tolist() == KNOWN, got.tolist()


@pytest.mark.parametrize("size", [4, 5, 12, 17])
def test_pairs_of_places_are_uniform(size, device):
    """Chi-square of the images of (0, 1) and of (2, 3) over 60,000 permutations, at 1e-6 (normal approximation of the chi-square,
    4.9 and a tenth of a deviation for its skewness). Power: cells that are 10 % more likely every other time give a statistic
    0.01 * 60,000 = 600 above the mean, which is more than twice the bound."""
    count, cells = 60_000, size * (size - 1)
    p = permutations(size, count, device).cpu()
    off = ~torch.eye(size, dtype=torch.bool)
    freedom = cells - 1
    bound = freedom + 4.9 * (2 * freedom) ** 0.5 + 16.0
    assert 2 * (bound - freedom) < 600
    for first in (0, 2):
        found = torch.bincount(p[:, first] * size + p[:, first + 1], minlength=size * size).view(size, size)[off].double()
        assert float(((found - count / cells) ** 2 / (count / cells)).sum()) < bound, first


def test_places_of_a_large_permutation_are_uniform(device):
    """128 of 1000, 2000 times: chi-square with 999 degrees at 1e-6; no number twice."""
    i = torch.arange(2000 * 128, device=device)
    k = drawn(len(i), 1000, device, index=i % 128, group=i // 128).cpu().view(2000, 128) % 1000
    assert all(len(row.unique()) == 128 for row in k[:50])
    expected = 256.0
    found = torch.bincount(k.flatten(), minlength=1000).double()
    # Without replacement a count's variance is that of a binomial times 1 - 127 / 999.
    assert float(((found - expected) ** 2 / expected).sum()) < 999 + 4.9 * (2 * 999) ** 0.5 + 16.0
    assert len(k.unique(dim=0)) == 2000


def test_a_number_hangs_on_its_index_alone(backend, device):
    whole = drawn(2000, 5000, device, backend=backend)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(drawn(2000, 5000, device, backend=backend), whole)
    assert torch.equal(drawn(70, 5000, device, backend=backend), whole[:70])
    index = torch.arange(70, 2000, device=device)
    assert torch.equal(drawn(1930, 5000, device, index=index, backend=backend), whole[70:])
    rng = torch.tensor([12, 38], device=device)
    moved = drawn(70, 5000, device, seed=None, rng=rng, step=2, backend=backend)
    assert torch.equal(moved, drawn(70, 5000, device, seed=12, step=40, backend=backend))
    for other in ({"seed": 5}, {"step": 1}, {"purpose": "shuffle"}, {"chain_offset": 18}):
        assert int((drawn(2000, 5000, device, **other) == whole).sum()) < 10


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"out": torch.zeros(4)}, TypeError, "out must be a contiguous int64 tensor"),
        ({"out": torch.zeros(4, 2, dtype=torch.int64)}, TypeError, r"out must be .*\(4, 2\)"),
        ({"size": 3}, ValueError, "out: expected at most size=3 numbers, got 4"),
        ({"size": 0}, ValueError, "size must be an int in"),
        ({"size": 2**31 + 1}, ValueError, "size must be an int in"),
        ({"size": 9.0}, ValueError, "size must be an int in"),
        ({"index": torch.zeros(3, dtype=torch.int64)}, ValueError, "index must be"),
        ({"group": torch.zeros(4)}, ValueError, "group must be"),
        ({"purpose": "luck"}, ValueError, "purpose must be one of"),
        ({"step": -1}, ValueError, "step must be in"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    case: dict[str, Any] = {"out": torch.zeros(4, dtype=torch.int64), "size": 9, "seed": 0} | changes
    out, size = case.pop("out"), case.pop("size")
    with pytest.raises(error, match=match):
        ef.ops.randperm_(out, size, **case)
    assert not out.any()


def test_opcheck(device):
    out, index = torch.zeros(6, dtype=torch.int64, device=device), torch.arange(6, device=device)
    for tensors in ((None, None, None), (index, index % 2, torch.tensor([1, 2], device=device))):
        torch.library.opcheck(torch.ops.ebm_fast.randperm_.default, (out, *tensors, 9, 9, 1, 2, 3, "auto"))
