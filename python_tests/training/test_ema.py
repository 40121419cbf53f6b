"""The average against its definition, swapping, and exact resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ebm_fast.training.ema import EMA


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.float64))


def perturb(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))


@pytest.mark.parametrize("warmup", [False, True])
def test_average_follows_its_definition(warmup):
    module = net()
    ema = EMA(module, 0.9, warmup=warmup)
    truth = [p.detach().clone() for p in module.parameters()]
    for t in range(200):
        perturb(module, t)
        decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        truth = [
            decay * a + (1 - decay) * p.detach() for a, p in zip(truth, module.parameters(), strict=True)
        ]
        ema.update()
    for a, b in zip(ema.average.values(), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.dtype == b.dtype


def test_applied_to_swaps_in_place_and_back_even_after_an_error():
    module = net()
    ema = EMA(module, 0.5, warmup=False)
    perturb(module, 1)
    ema.update()
    addresses = [p.data_ptr() for p in module.parameters()]
    present = [p.detach().clone() for p in module.parameters()]
    average = {name: a.clone() for name, a in ema.average.items()}

    def look_and_fail() -> None:
        with ema.applied_to():
            assert all(torch.equal(p, average[name]) for name, p in module.named_parameters())
            assert not any(torch.equal(p, q) for p, q in zip(module.parameters(), present, strict=True))
            assert [p.data_ptr() for p in module.parameters()] == addresses
            raise KeyError

    with pytest.raises(KeyError):
        look_and_fail()
    for p, before in zip(module.parameters(), present, strict=True):
        assert torch.equal(p, before)
    for name, a in ema.average.items():
        assert torch.equal(a, average[name])


def test_within_an_autocast_block_the_averaged_weights_are_read():
    module = nn.Linear(3, 4)
    ema, x = EMA(module), torch.ones(2, 3)
    perturb(module, 1)
    with torch.autocast(x.device.type, torch.bfloat16):
        present = module(x)
        with ema.applied_to():
            averaged = module(x)
        again = module(x)
    assert torch.equal(present, again) and not torch.equal(present, averaged)


def test_state_round_trip_continues_bit_for_bit():
    module = net()
    ema = EMA(module)
    for t in range(5):
        perturb(module, t)
        ema.update()
    other = EMA(module)
    other.load_state_dict(ema.state_dict())
    perturb(module, 9)
    ema.update()
    other.update()
    assert all(torch.equal(ema.average[name], other.average[name]) for name in ema.average)
    assert other.num_updates == 6


def test_errors():
    with pytest.raises(ValueError, match="decay"):
        EMA(net(), 1.0)
    with pytest.raises(TypeError, match="decay must be a number"):
        EMA(net(), "a")
    with pytest.raises(ValueError, match="with parameters"):
        EMA(nn.Flatten())
    with pytest.raises(ValueError, match=r"0.weight: \(4, 3\) here, \(5, 3\) there"):
        EMA(net()).load_state_dict(EMA(nn.Sequential(nn.Linear(3, 5))).state_dict())
    with (
        pytest.raises(ValueError, match="module: expected parameters"),
        EMA(net()).applied_to(nn.Linear(3, 4)),
    ):
        pass
