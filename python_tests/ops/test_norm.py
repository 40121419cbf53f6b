"""Norm of each chain's event."""

from __future__ import annotations

import pytest
import torch

import ebm_fast as ef

RELATIVE = {torch.float32: 2e-7, torch.float64: 1e-13, torch.bfloat16: 2e-7, torch.float16: 2e-7}


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (63, 15), (7, 16), (3, 1000), (2, 1, 9, 9), (4,)])
def test_parity(shape, dtype, backend, device):
    x = (torch.randn(shape) * 3).to(dtype).to(device)
    fast = ef.ops.event_norm(x, backend=backend)
    truth = ef.ops.event_norm(x.cpu(), backend="reference")
    assert fast.dtype == truth.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(fast.cpu(), truth, rtol=RELATIVE[dtype], atol=0.0)


def test_extremes(backend, device):
    x = torch.tensor([[3e30, 4e30], [1e-30, 0.0], [float("inf"), 1.0], [float("nan"), 1.0], [0.0, 0.0]], device=device)
    norm = ef.ops.event_norm(x, backend=backend).cpu()
    assert norm[:2].tolist() == pytest.approx([5e30, 1e-30], rel=1e-6)
    assert norm[2].item() == float("inf")
    assert norm[3].isnan()
    assert norm[4].item() == 0.0


def test_same_in_any_batch():
    x = torch.randn(31, 777)
    whole = ef.ops.event_norm(x)
    assert torch.equal(whole, torch.cat([ef.ops.event_norm(x[:9]), ef.ops.event_norm(x[9:])]))


def test_empty_and_bad():
    assert ef.ops.event_norm(torch.zeros(0, 3)).shape == (0,)
    assert ef.ops.event_norm(torch.zeros(3, 0)).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(TypeError, match="x must be a tensor"):
        ef.ops.event_norm(3.0)
    with pytest.raises(ValueError, match="contiguous"):
        ef.ops.event_norm(torch.zeros(3, 4).t())
