"""Draws without replacement, rejuvenation counted, classes kept apart, write-back, exact resume."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_fast.training.buffer import ReplayBuffer


@pytest.fixture(autouse=True)
def _on_device(device: str) -> Iterator[None]:
    with torch.device(device):
        yield


def numbered(n: int, seed: int, step: int, chain_offset: int = 0) -> torch.Tensor:
    """States that tell what made them: 1000 * step + chain."""
    return torch.arange(n, dtype=torch.float32).add_(1000 * step + chain_offset).unsqueeze(1)


def buffer(size: int = 12, **options: object) -> ReplayBuffer:
    return ReplayBuffer(size, **{"event_shape": (1,), "init": numbered, "seed": 0, **options})


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), data=st.data(), seed=st.integers(0, 5))
def test_draw_and_write_back(size, data, seed):
    n = data.draw(st.integers(1, size))
    chains = buffer(size, seed=seed, rejuvenation=data.draw(st.sampled_from([0.0, 0.3, 1.0])))
    truth = chains.samples.clone()
    for step in range(1, 4):
        drawn = chains.draw(n)
        assert len(set(drawn.slots.tolist())) == n and drawn.slots.min() >= 0 and drawn.slots.max() < size
        expected = torch.where(drawn.fresh.unsqueeze(1), numbered(n, 0, step), truth[drawn.slots])
        assert torch.equal(drawn.x, expected)
        assert torch.equal(chains.samples, truth), "a draw changes nothing until the write"
        drawn.x.add_(0.5)
        chains.write(drawn.slots, drawn.x)
        truth[drawn.slots] = drawn.x
        assert torch.equal(chains.samples, truth)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.25, 1.0])
def test_rejuvenation_is_counted(rate):
    """Within 5 standard errors (false alarm 6e-7); a rate wrong by 5 % would be noticed by the second line."""
    chains = buffer(1000, rejuvenation=rate, seed=3)
    draws = 1000
    count = sum(int(chains.draw(500).fresh.sum()) for _ in range(draws))
    error = 5 * math.sqrt(500 * draws * rate * (1 - rate))
    assert abs(count - 500 * draws * rate) <= error
    assert error < 0.05 * 500 * draws * rate or rate in (0.0, 1.0)


def test_slots_are_uniform_and_unordered():
    """Chi-square of slot by position counts: 12 slots, 5 positions, 4000 draws; 1e-6 quantile of 55 degrees is 118."""
    chains = buffer(12, rejuvenation=0.0)
    counts = torch.zeros(5, 12)
    for _ in range(4000):
        counts[torch.arange(5), chains.draw(5).slots] += 1
    expected = 4000 / 12
    assert ((counts - expected) ** 2 / expected).sum() < 118
    # Power: always taking the slots in increasing order, as a mask would, fails by orders of magnitude.
    assert counts.min() > 0


def test_draws_follow_the_seed_and_the_count_alone():
    def trace(seed: int) -> list[list[int]]:
        chains = buffer(50, seed=seed)
        return [chains.draw(10).slots.tolist() for _ in range(5)]

    assert trace(1) == trace(1)
    seen = {tuple(slots) for seed in range(4) for slots in trace(seed)}
    assert len(seen) == 20


@settings(max_examples=60, deadline=None)
@given(classes=st.integers(1, 5), block=st.integers(1, 6), data=st.data())
def test_classes_stay_apart(classes, block, data):
    chains = buffer(classes * block, num_classes=classes, rejuvenation=0.5)
    n = data.draw(st.integers(1, block))
    y = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    drawn = chains.draw(n, y)
    assert torch.equal(drawn.y, y)
    assert torch.equal(drawn.slots // block, y)
    assert len(set(drawn.slots.tolist())) == n
    unconditional = chains.draw(classes * block)
    assert unconditional.y.bincount().tolist() == [block] * classes


def test_slots_of_a_class_are_uniform():
    chains = buffer(20, num_classes=2, rejuvenation=0.0)
    y = torch.tensor([1, 0, 1, 1])
    counts = torch.zeros(20)
    for _ in range(4000):
        counts[chains.draw(4, y).slots] += 1
    for part, draws in ((counts[:10], 4000), (counts[10:], 12000)):
        # 1e-6 quantile of chi-square with 9 degrees: 45; several slots a draw only shrink the variance.
        assert ((part - draws / 10) ** 2 / (draws / 10)).sum() < 45


def test_every_form_of_init():
    uniform = ReplayBuffer(2000, (3, 2), init=("uniform", -1.0, 3.0), seed=0).samples
    assert (
        uniform.min() >= -1 and uniform.max() <= 3 and abs(uniform.mean() - 1) < 5 * 4 / math.sqrt(12 * 12000)
    )
    normal = ReplayBuffer(2000, (3, 2), init=("normal", 0.5), seed=0).samples
    assert abs(normal.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * 12000) and abs(
        normal.mean()
    ) < 5 * 0.5 / math.sqrt(12000)
    rows = ReplayBuffer(3000, (1,), init=torch.arange(3.0).unsqueeze(1), dtype=torch.float64, seed=0).samples
    assert rows.dtype == torch.float64
    assert all(abs((rows == k).sum() - 1000) < 5 * math.sqrt(3000 * 2 / 9) for k in range(3))
    assert torch.equal(buffer(4).samples, numbered(4, 0, 0))


def test_fresh_states_differ_from_draw_to_draw():
    chains = ReplayBuffer(8, (2,), init=("normal", 1.0), rejuvenation=1.0)
    states = torch.cat([chains.samples, chains.draw(8).x, chains.draw(8).x])
    assert len(states.unique(dim=0)) == 24


@pytest.mark.parametrize("init", [("uniform", -1.0, 3.0), ("normal", 1.0)])
def test_noise_of_half_precision_is_the_rounded_one(init):
    half = ReplayBuffer(50, (2,), init=init, dtype=torch.float16, seed=1).samples
    assert half.dtype == torch.float16
    assert torch.equal(half, ReplayBuffer(50, (2,), init=init, seed=1).samples.half())


@pytest.mark.parametrize(
    "init", [("uniform", -1.0, 1.0), ("normal", 1.0), torch.arange(1000.0).view(500, 2), None]
)
def test_offset_buffers_hold_the_later_chains_of_a_whole_one(init):
    def chains(size: int, chain_offset: int) -> ReplayBuffer:
        states = (lambda *a: numbered(*a).expand(-1, 2)) if init is None else init
        return ReplayBuffer(size, (2,), init=states, rejuvenation=0.5, seed=3, chain_offset=chain_offset)

    whole, first, second = chains(80, 0), chains(40, 0), chains(40, 40)
    assert torch.equal(whole.samples, torch.cat([first.samples, second.samples]))
    assert not torch.equal(first.samples, second.samples)
    drawn, early, late = whole.draw(80), first.draw(40), second.draw(40)
    assert torch.equal(drawn.fresh, torch.cat([early.fresh, late.fresh]))
    assert not torch.equal(early.fresh, late.fresh)
    restarted = torch.cat([early.x, late.x])[drawn.fresh]
    assert torch.equal(drawn.x[drawn.fresh], restarted) and len(restarted) > 10


def test_without_a_seed_torch_s_generator_decides():
    def states(torch_seed: int) -> torch.Tensor:
        torch.manual_seed(torch_seed)
        return torch.cat([ReplayBuffer(5, (2,), init=("normal", 1.0)).samples for _ in range(2)])

    assert torch.equal(states(1), states(1))
    assert len(torch.cat([states(1), states(2)]).unique(dim=0)) == 20


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_what_is_not_finite_is_not_kept(shape):
    chains = ReplayBuffer(6, shape, init=("normal", 1.0), seed=1)
    slots, x = torch.tensor([4, 0, 2, 5]), torch.ones(4, *shape)
    x[1].view(-1)[-1], x[2].view(-1)[0], x[3].view(-1)[-1] = math.nan, math.inf, -math.inf
    expected = chains.samples.clone()
    expected[4] = 1.0
    chains.write(slots, x)
    assert torch.equal(chains.samples, expected)
    chains.write(slots[:0], x[:0])
    assert torch.equal(chains.samples, expected)


def test_resume_is_exact():
    chains = ReplayBuffer(30, (2,), init=("normal", 1.0), rejuvenation=0.3, seed=5)
    for _ in range(3):
        drawn = chains.draw(7)
        chains.write(drawn.slots, drawn.x + 1)
    other = ReplayBuffer(30, (2,), init=("normal", 1.0), rejuvenation=0.3)
    other.load_state_dict(chains.state_dict())
    for _ in range(3):
        a, b = chains.draw(7), other.draw(7)
        assert torch.equal(a.x, b.x) and torch.equal(a.slots, b.slots) and torch.equal(a.fresh, b.fresh)
        chains.write(a.slots, a.x * 2)
        other.write(b.slots, b.x * 2)
    assert torch.equal(chains.samples, other.samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"rejuvenation": 1.5}, "rejuvenation"),
        ({"rejuvenation": math.nan}, "rejuvenation"),
        ({"num_classes": 5}, "multiple of num_classes=5, got 12"),
        ({"init": ("uniform", 1.0)}, "init"),
        ({"init": ("uniform", 1.0, 0.0)}, "lo < hi"),
        ({"init": ("normal", -1.0)}, "std > 0"),
        ({"init": ("normal", math.nan)}, "init"),
        ({"init": ("cauchy", 1.0)}, "init"),
        ({"init": ()}, "init"),
        ({"init": torch.tensor(1.0)}, "init"),
        ({"num_classes": 0}, "num_classes"),
        ({"seed": 1 << 64}, "seed"),
        ({"chain_offset": -1}, "chain_offset"),
        ({"chain_offset": 2**32 - 11}, "chain_offset"),
        ({"init": torch.zeros(3, 2)}, r"init.*\(3, 2\)"),
        ({"init": torch.zeros(0, 1)}, "init"),
        ({"event_shape": 8}, "event_shape: expected the positive sizes"),
        ({"event_shape": (-1, 8)}, "event_shape"),
        ({"init": lambda n, seed, step, offset: torch.zeros(n)}, "init: expected it to return"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        buffer(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2.5}, "size"),
        ({"size": True}, "size"),
        ({"num_classes": 1.5}, "num_classes"),
        ({"rejuvenation": "often"}, "rejuvenation"),
        ({"seed": 1.5}, "seed"),
        ({"chain_offset": 1.5}, "chain_offset"),
        ({"init": 3}, "init"),
        ({"init": ("uniform", "a", 1)}, "init"),
        ({"init": lambda *_: [0.0]}, "init"),
        ({"init": ("normal", 1.0), "dtype": torch.int64}, "dtype"),
        ({"dtype": "float32"}, "dtype: expected a torch.dtype"),
    ],
)
def test_settings_of_a_wrong_type(options, message):
    with pytest.raises(TypeError, match=message):
        buffer(**options)


def test_bad_draws_and_writes():
    plain, classes = buffer(12), buffer(12, num_classes=3)
    with pytest.raises(ValueError, match=r"n: expected 1\.\.12"):
        plain.draw(13)
    with pytest.raises(TypeError, match="n must be an int"):
        plain.draw(1.5)
    with pytest.raises(ValueError, match=r"n: expected 1\.\.4"):
        classes.draw(5, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="no classes"):
        plain.draw(2, torch.zeros(2, dtype=torch.int64))
    outside = (torch.tensor([0, 3]), torch.tensor([-1, 0]))  # noticed on a CPU alone: a GPU would have to be waited for
    for bad in (torch.zeros(2), torch.zeros(3, dtype=torch.int64), *(y for y in outside if not y.is_cuda)):
        with pytest.raises(ValueError, match="y: expected"):
            classes.draw(2, bad)
    x = torch.zeros(2, 1)
    outside = (torch.tensor([0, 12]), torch.tensor([-1, 0]))
    for bad in (torch.zeros(2), torch.tensor(1), *(slots for slots in outside if not slots.is_cuda)):
        with pytest.raises(ValueError, match="slots: expected"):
            plain.write(bad, x)
    for bad in (torch.zeros(2), torch.zeros(3, 1), x.double()):
        with pytest.raises(ValueError, match="x: expected"):
            plain.write(torch.tensor([0, 1]), bad)
    with pytest.raises(ValueError, match="state: expected samples"):
        plain.load_state_dict(buffer(6).state_dict())
    assert torch.equal(plain.samples, numbered(12, 0, 0)) and plain.num_draws == 0


@pytest.mark.cuda
def test_draw_and_write_do_not_wait_for_the_device():
    chains = ReplayBuffer(100, (3,), init=("normal", 1.0), num_classes=5, rejuvenation=0.3, device="cuda")
    y = torch.arange(10, device="cuda") % 5
    torch.cuda.set_sync_debug_mode("error")
    try:
        for labels in (None, y):
            drawn = chains.draw(10, labels)
            chains.write(drawn.slots, drawn.x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
