"""The random-number contract: same numbers on every backend, whatever the batch, the threads, the process or the restart."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_normals_agree

import ebm_fast as ef
from ebm_fast.reference.philox import philox4x32_10

SHAPES = [(1, 1), (1, 1000), (63, 5), (7, 3, 5), (1000, 2), (3, 1000), (5, 4), (2, 63), (300, 1), (4, 1, 2, 2), (5,)]
COUNTERS = [
    {"seed": 0},
    {"seed": 2**64 - 1, "step": 2**56 - 1, "chain_offset": 2**31 + 7, "purpose": "swap"},
    {"seed": -5, "step": 2**32 + 3, "chain_offset": 12345, "purpose": "init"},
]
KINDS = {"bits_": torch.int32, "uniform_": torch.float32, "normal_": torch.float32, "rademacher_": torch.float32}


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    return torch.full(shape, float("nan") if dtype.is_floating_point else -77, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    words = philox4x32_10(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
    assert tuple(int(w) for w in words) == expected


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_numbers_on_every_backend(kind, counter, backend, device):
    for shape in SHAPES:
        fill = getattr(ef.ops, kind)
        fast = fill(poisoned(shape, KINDS[kind], device), backend=backend, **counter).cpu()
        truth = fill(poisoned(shape, KINDS[kind]), backend="reference", **counter)
        if kind == "normal_":
            assert_normals_agree(fast, truth)
        else:
            assert torch.equal(fast, truth), (kind, shape)


def test_normals_agree_on_a_million_draws(backend, device):
    fast = ef.ops.normal_(poisoned((1000, 1000), torch.float32, device), seed=11, backend=backend)
    truth = ef.ops.normal_(poisoned((1000, 1000), torch.float32), seed=11, backend="reference")
    assert_normals_agree(fast, truth)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["normal_", "rademacher_"])
def test_other_dtypes_are_the_float32_numbers_converted(kind, dtype, backend, device):
    narrow = getattr(ef.ops, kind)(poisoned((63, 5), dtype, device), seed=3, backend=backend)
    wide = getattr(ef.ops, kind)(poisoned((63, 5), torch.float32, device), seed=3, backend=backend)
    assert torch.equal(narrow, wide.to(dtype))


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 90),
    dim=st.integers(1, 37),
    cut=st.integers(0, 90),
    offset=st.integers(0, 2**32 - 91),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_chain_is_the_same_in_any_batch(n, dim, cut, offset, seed):
    cut = min(cut, n)
    whole = ef.ops.normal_(torch.empty(n, dim), seed=seed, chain_offset=offset)
    parts = [
        ef.ops.normal_(torch.empty(cut, dim), seed=seed, chain_offset=offset),
        ef.ops.normal_(torch.empty(n - cut, dim), seed=seed, chain_offset=offset + cut) if cut < n else whole[n:],
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("shape", [(4096, 33), (3, 200_001), (100_003, 2)])
def test_result_does_not_depend_on_the_thread_count(shape):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ef.ops.normal_(poisoned(shape, torch.float32), seed=5))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])


def test_seed_and_step_may_live_on_the_device(backend, device):
    rng = torch.tensor([77, 2**40], device=device)
    ints = ef.ops.normal_(torch.empty(9, 7, device=device), seed=77, step=2**40 + 3, backend=backend)
    tensor = ef.ops.normal_(torch.empty(9, 7, device=device), rng=rng, step=3, backend=backend)
    assert torch.equal(ints, tensor)
    assert rng.tolist() == [77, 2**40]


def test_neighbouring_seeds_steps_chains_and_purposes_are_unrelated():
    n = 1 << 20
    base = ef.ops.normal_(torch.empty(1, n), seed=1, step=1)
    others = {
        "seed": ef.ops.normal_(torch.empty(1, n), seed=2, step=1),
        "step": ef.ops.normal_(torch.empty(1, n), seed=1, step=2),
        "high step": ef.ops.normal_(torch.empty(1, n), seed=1, step=1 + 2**32),
        "chain": ef.ops.normal_(torch.empty(1, n), seed=1, step=1, chain_offset=1),
        "purpose": ef.ops.normal_(torch.empty(1, n), seed=1, step=1, purpose="langevin"),
        "high seed": ef.ops.normal_(torch.empty(1, n), seed=1 + 2**32, step=1),
        "shifted": base.roll(1),
    }
    for name, other in others.items():
        correlation = (base * other).mean().item()
        # sd 1/sqrt(n) = 1e-3; the bound has a false-alarm rate of 1e-6 and sees a 2 % shared part of the numbers
        assert abs(correlation) < 4.9 / n**0.5, (name, correlation)
    assert abs((base * (0.98 * others["seed"] + 0.02 * base)).mean().item()) > 4.9 / n**0.5


def test_without_a_seed_torch_governs():
    torch.manual_seed(4)
    first = ef.ops.normal_(torch.empty(8)), ef.ops.normal_(torch.empty(8))
    torch.manual_seed(4)
    second = ef.ops.normal_(torch.empty(8)), ef.ops.normal_(torch.empty(8))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    generator = torch.Generator().manual_seed(9)
    own = ef.ops.normal_(torch.empty(8), generator=generator)
    assert torch.equal(own, ef.ops.normal_(torch.empty(8), generator=torch.Generator().manual_seed(9)))


def _digest() -> str:
    # NumPy's bytes: torch's own parallel sums hang in a forked child
    return hashlib.sha256(ef.ops.normal_(torch.empty(512, 512), seed=8).numpy().tobytes()).hexdigest()


def _child(queue) -> None:
    queue.put(_digest())


def test_a_forked_child_works_and_draws_the_same():
    parent = _digest()  # the parent's thread pool is warm
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == parent
    finally:
        child.join(10)
        child.kill()


def test_threads_of_the_user_do_not_disturb_each_other():
    expected = [ef.ops.normal_(torch.empty(700, 301), seed=s) for s in range(4)]
    results: list[torch.Tensor | None] = [None] * 4

    def work(seed: int) -> None:
        for _ in range(5):
            results[seed] = ef.ops.normal_(torch.empty(700, 301), seed=seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(expected, results))


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"seed": 2**64}, ValueError, "seed must fit in 64 bits"),
        ({"seed": 1.5}, TypeError, "seed must be an int, got float"),
        ({"seed": 1, "step": -1}, ValueError, "step must be in"),
        ({"seed": 1, "step": 2**56}, ValueError, "step must be in"),
        ({"seed": 1, "chain_offset": 2**32 - 3}, ValueError, "chain_offset must be in"),
        ({"seed": 1, "purpose": "dice"}, ValueError, "purpose must be one of user, langevin"),
        ({"rng": torch.zeros(2)}, ValueError, "rng must be a contiguous int64 tensor"),
        ({"seed": 1, "backend": "fpga"}, ValueError, "backend must be one of auto, reference"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    out = torch.zeros(4, 2)
    with pytest.raises(error, match=match):
        ef.ops.normal_(out, **kwargs)
    assert not out.any()


def test_bad_outputs_are_named():
    with pytest.raises(TypeError, match="out must be a tensor"):
        ef.ops.normal_([1.0], seed=0)
    with pytest.raises(TypeError, match="out must have dtype"):
        ef.ops.normal_(torch.empty(3, dtype=torch.int64), seed=0)
    with pytest.raises(TypeError, match="out must have dtype"):
        ef.ops.uniform_(torch.empty(3, dtype=torch.float16), seed=0)
    with pytest.raises(ValueError, match="contiguous"):
        ef.ops.normal_(torch.empty(4, 6).t(), seed=0)
    with pytest.raises(ValueError, match="contiguous"):
        ef.ops.normal_(torch.zeros(1).expand(4), seed=0)
    with pytest.raises(ValueError, match="without dimensions"):
        ef.ops.normal_(torch.tensor(1.0), seed=0)
    with pytest.raises(ValueError, match="must not require grad"):
        ef.ops.normal_(torch.zeros(3, requires_grad=True), seed=0)
    assert ef.ops.normal_(torch.empty(0, 4), seed=0).shape == (0, 4)
    assert ef.ops.normal_(torch.empty(4, 0), seed=0).shape == (4, 0)


def test_huge_shapes_are_refused_or_counted_right():
    with pytest.raises(ValueError, match=r"at most 2\*\*34 elements"):
        ef.ops.normal_(torch.empty(1, 2**34 + 1, device="meta"), seed=0)
    with pytest.raises(ValueError, match="chain_offset must be in"):
        ef.ops.normal_(torch.empty(2**31, 1, device="meta"), seed=0, chain_offset=2**31 + 1)
    # The last blocks of an event that is too long to compare whole: one chain of 2^27 elements, by slices of the reference.
    from ebm_fast.reference.noise import bits_of
    from ebm_fast.reference.philox import philox4x32_10

    dim = 2**27
    tail = ef.ops.bits_(torch.empty(1, dim, dtype=torch.int32), seed=9)[0, -8:]
    blocks = torch.tensor([dim // 4 - 2, dim // 4 - 1])
    zero = torch.zeros(2, dtype=torch.int64)
    words = philox4x32_10((blocks, zero, zero, zero), (torch.tensor(9), torch.tensor(0)))
    assert torch.equal(tail, bits_of(torch.stack(words, dim=-1).flatten()))


def test_read_only_memory_is_refused(tmp_path):
    import warnings

    import numpy as np

    np.save(tmp_path / "a.npy", np.zeros((64, 64), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        locked = torch.from_numpy(np.load(tmp_path / "a.npy", mmap_mode="r"))
    with pytest.raises(ValueError, match="read-only memory"):
        ef.ops.normal_(locked, seed=0)
    for backend in ("reference", "cpu"):
        with pytest.raises(ValueError, match="velocity lies in read-only memory"):
            ef.ops.langevin_step_(torch.zeros(64, 64), torch.ones(64, 64), step_size=0.1, velocity=locked, backend=backend)
        with pytest.raises(ValueError, match="x lies in read-only memory"):
            ef.langevin_(locked, lambda x: x.square().sum(1), num_steps=1, step_size=0.1, backend=backend)
    ours = torch.from_numpy(np.zeros((4, 4), np.float32))
    assert ef.ops.normal_(ours, seed=0).abs().sum() > 0


def test_no_two_purposes_share_numbers():
    assert len(set(ef.ops.PURPOSES.values())) == len(ef.ops.PURPOSES)
    assert all(0 <= tag < 256 for tag in ef.ops.PURPOSES.values())
