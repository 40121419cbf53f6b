"""The fused ops of training beside the calls of PyTorch that they replace, at the sizes of a training batch."""

from __future__ import annotations

from collections.abc import Callable

import harness
import pytest
import torch
from torch import Tensor

from ebm_fast import ops

BATCH, SIZE, RATE = 128, 10_000, 0.05
EVENTS = {"2": (2,), "784": (784,), "3x32x32": (3, 32, 32)}


@pytest.mark.parametrize("name", EVENTS)
def test_perturb(name, device, seconds, record):
    x = torch.randn(BATCH, *EVENTS[name], device=device)
    out, noise, other = (torch.empty_like(x) for _ in range(3))
    ops.perturb_(out, x, 0.3, noise=noise, seed=1)
    torch.testing.assert_close(out, x + 0.3 * noise, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(noise, ops.normal_(torch.empty_like(x), seed=1, purpose="data_noise"))
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ops.perturb_(out, x, 0.3, noise=noise, seed=1),
        "normal_, add": lambda: torch.add(x, ops.normal_(noise, seed=1), alpha=0.3, out=out),
        "torch": lambda: torch.add(x, other.normal_(), alpha=0.3, out=out),
    }
    copy, copy_bytes = harness.copy_of(x.numel(), device)
    result = harness.race(calls | {"copy": copy}, seconds=seconds / 3, device=device)
    record("training_ops", f"perturb_ {BATCH} x {name}", result, calls, bytes_moved=12 * x.numel(), copy_bytes=copy_bytes)


def kept_finite(buffer: Tensor, slots: Tensor, x: Tensor) -> None:
    kept = x.isfinite().view(len(x), -1).all(1).view(-1, *[1] * (x.dim() - 1))
    buffer.index_copy_(0, slots, torch.where(kept, x, buffer[slots]))


@pytest.mark.parametrize("name", EVENTS)
def test_buffer(name, device, seconds, record):
    """A draw (slots, rows, restarts), and the way back."""
    event = EVENTS[name]
    buffer, x = torch.randn(SIZE, *event, device=device), torch.empty(BATCH, *event, device=device)
    slots, fresh = torch.empty(BATCH, dtype=torch.int64, device=device), torch.empty(BATCH, dtype=torch.bool, device=device)

    def draw() -> None:
        ops.randperm_(slots, SIZE, seed=1, step=2)
        ops.gather_(x, buffer, slots, rejuvenation=RATE, init=("uniform", -1.0, 1.0), fresh=fresh, seed=1, step=2)

    def plain() -> Tensor:
        places = torch.rand(SIZE, device=device).topk(BATCH).indices
        new = torch.rand(BATCH, *[1] * len(event), device=device) < RATE
        return torch.where(new, torch.rand(BATCH, *event, device=device) * 2 - 1, buffer[places])

    draw()
    assert torch.equal(x[~fresh], buffer[slots[~fresh]]) and len(slots.unique()) == BATCH
    calls: dict[str, Callable[[], object]] = {"ebm_fast": draw, "torch": plain}
    result = harness.race(calls, seconds=seconds / 3, device=device)
    record("training_ops", f"draw {BATCH} of {SIZE} x {name}", result, calls)

    twin = buffer.clone()
    ops.scatter_(buffer, slots, x)
    kept_finite(twin, slots, x)
    assert torch.equal(buffer, twin)
    calls = {"ebm_fast": lambda: ops.scatter_(buffer, slots, x), "torch": lambda: kept_finite(twin, slots, x)}
    result = harness.race(calls, seconds=seconds / 3, device=device)
    record("training_ops", f"write {BATCH} of {SIZE} x {name}", result, calls)
