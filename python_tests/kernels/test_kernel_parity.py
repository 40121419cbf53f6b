"""Kernels against the reference. On a CPU, Triton's part of this file runs in the interpreter: see test_interpreted.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flat import Guarded
from tolerances import UPDATE, assert_normals_agree

from ebm_fast.ops.backend import implementation, why_not
from ebm_fast.reference import langevin, noise, norm

SHAPES = [(1,), (63,), (1000,), (7, 2), (700, 3), (9, 4), (4, 3, 5), (3, 2, 4, 8), (2, 2500)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
STREAM = (7, -3 << 50, (5 << 32) + 9, 2**32 - 1001)  # purpose, seed, step, chain_offset
BITS, UNIFORM, NORMAL, SIGNS = range(4)
INF = math.inf


def drawn(fill: Any, shape: tuple[int, ...], kind: int, dtype: torch.dtype, device: str, *, shift: int = 0, rng: Any = None,
          stream: tuple[int, ...] = STREAM) -> torch.Tensor:  # fmt: skip
    out = Guarded(shape, dtype, device, shift)
    fill(out.tensor, rng, kind, *stream)
    out.assert_margins_untouched()
    return out.tensor


@pytest.mark.parametrize("shape", SHAPES)
def test_noise(shape, op, device):
    for kind in (BITS, UNIFORM, NORMAL, SIGNS):
        dtype = torch.int32 if kind == BITS else torch.float32
        fast, truth = drawn(op("noise_"), shape, kind, dtype, device), drawn(noise.noise_, shape, kind, dtype, device)
        if kind == NORMAL:
            assert_normals_agree(fast, truth)
        else:
            assert torch.equal(fast, truth), kind


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("kind", [UNIFORM, NORMAL, SIGNS])
def test_other_dtypes_hold_the_float32_numbers(kind, dtype, op, device):
    for shape in [(63, 5), (9, 4)]:
        wide = drawn(op("noise_"), shape, kind, torch.float32, device)
        assert torch.equal(drawn(op("noise_"), shape, kind, dtype, device), wide.to(dtype))


def test_noise_of_unaligned_memory_of_split_batches_and_of_device_counters(op, device):
    fill = op("noise_")
    whole = drawn(fill, (40, 8), NORMAL, torch.float32, device)
    assert torch.equal(drawn(fill, (40, 8), NORMAL, torch.float32, device, shift=1), whole)
    purpose, seed, step, offset = STREAM
    first = drawn(fill, (13, 8), NORMAL, torch.float32, device)
    rest = drawn(fill, (27, 8), NORMAL, torch.float32, device, stream=(purpose, seed, step, offset + 13))
    assert torch.equal(torch.cat((first, rest)), whole)
    rng = torch.tensor([seed, step - 5], device=device)
    assert torch.equal(drawn(fill, (40, 8), NORMAL, torch.float32, device, rng=rng, stream=(purpose, 0, 5, offset)), whole)
    other = drawn(fill, (40, 8), NORMAL, torch.float32, device, stream=(purpose, seed, step - (1 << 32), offset))
    assert not torch.equal(other, whole)


PLAIN: dict[str, Any] = {
    "step_size": 0.1, "noise_std": 0.3, "momentum": 0.0, "prior_precision": 0.0, "grad_clip": INF, "step_lo": -INF,
    "step_hi": INF, "noise_lo": -INF, "noise_hi": INF,
}  # fmt: skip
# Names of tensors (per chain "n", scalar on the device "0") and values that differ from PLAIN.
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "noise only": {"grad": None},
    "noise-free": {"noise_std": 0.0},
    "clip": {"grad_clip": 0.5},
    "clamp after noise": {"noise_lo": -0.5, "noise_hi": 0.7},
    "clamp after step, open below": {"step_hi": 0.2},
    "clamp after both": {"step_lo": -0.6, "step_hi": 0.6, "noise_lo": -0.5, "noise_hi": 0.5},
    "prior": {"prior_precision": 0.4},
    "velocity": {"velocity": "x", "momentum": 0.9},
    "step on the device": {"step_size_at": "0"},
    "step per chain": {"step_size_at": "n", "step_size": 0.0},
    "noise on the device": {"noise_std_at": "0", "noise_std": 0.0},
    "noise per chain": {"noise_std_at": "n", "noise_std": 0.0},
    "gradient scale": {"grad_scale": "n"},
    "active": {"active": torch.uint8},
    "preconditioner": {"scale": "x"},
    "preconditioner, velocity, step per chain": {"scale": "x", "velocity": "x", "step_size_at": "n", "noise_std_at": "0"},
    "preconditioner, noise only": {"scale": "x", "grad": None},
    "all but velocity": {
        "scale": "x", "step_size_at": "n", "noise_std_at": "n", "grad_scale": "n", "active": torch.bool, "prior_precision": 0.4,
        "grad_clip": 0.8, "step_lo": -1.0, "step_hi": 1.5, "noise_lo": -0.9, "noise_hi": 1.2,
    },
    "all": {
        "velocity": "x", "momentum": 0.9, "scale": "x", "step_size_at": "n", "noise_std_at": "0", "grad_scale": "n",
        "active": torch.uint8,
        "prior_precision": 0.4, "grad_clip": 0.8, "step_lo": -1.0, "step_hi": 1.5, "noise_lo": -0.9, "noise_hi": 1.2,
    },
}  # fmt: skip


def both(op: Any, *args: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [updated(step, *args) for step in (op("langevin_step_"), langevin.langevin_step_)]


def updated(step: Any, form: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str, *, shift: int = 0,
            rng: Any = None, stream: tuple[int, ...] = STREAM) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """State and velocity after one step from states drawn by a fixed seed."""
    generator = torch.Generator().manual_seed(5)
    chains, arithmetic = shape[0], torch.float64 if dtype == torch.float64 else torch.float32
    x, velocity = (Guarded(shape, dtype, device, shift) for _ in range(2))
    for state in (x, velocity):
        state.filled(torch.randn(shape, generator=generator, dtype=torch.float64))
    grad = Guarded(shape, dtype, device, shift).filled(torch.randn(shape, generator=generator, dtype=torch.float64))
    coefficient = {
        "n": torch.rand(chains, generator=generator, dtype=torch.float64).to(device, arithmetic),
        "0": torch.tensor(0.07, device=device, dtype=arithmetic),
    }
    active = torch.rand(chains, generator=generator) < 0.5
    scale = torch.rand(shape[1:], generator=generator, dtype=torch.float64).to(device, arithmetic) + 0.5
    step(
        x.tensor, form.get("grad", grad), velocity.tensor if "velocity" in form else None, None,
        *(coefficient.get(form.get(name)) for name in ("step_size_at", "noise_std_at", "grad_scale")),
        active.to(device, form["active"]) if "active" in form else None, scale if "scale" in form else None, rng,
        *(form.get(name, value) for name, value in PLAIN.items()), *stream,
    )  # fmt: skip
    x.assert_margins_untouched()
    velocity.assert_margins_untouched()
    return x.tensor, velocity.tensor


def assert_steps_agree(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...], tolerance: float) -> None:
    for fast, truth in zip(a, b):
        torch.testing.assert_close(fast, truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FORMS)
def test_langevin_forms(name, op, device):
    for shape in [(700, 3), (9, 4)]:
        assert_steps_agree(*both(op, FORMS[name], shape, torch.float32, device), UPDATE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["plain", "all but velocity", "all"])
def test_langevin_dtypes(name, dtype, op, device):
    for shape in [(1,), (63,), (4, 3, 5), (300, 8)]:
        assert_steps_agree(*both(op, FORMS[name], shape, dtype, device), UPDATE[dtype])


@pytest.mark.parametrize("bounds", [{}, {"grad_clip": 0.5, "noise_lo": 0.0, "noise_hi": 1.0}], ids=["plain", "clip and clamp"])
def test_an_infinite_state_is_never_repaired(bounds, op, device):
    for dim in (4, 3):  # whole blocks have kernels of their own
        x = torch.rand(3, dim, device=device)
        x[1, 1] = INF
        op("langevin_step_")(x, torch.rand_like(x), *[None] * 8, *(PLAIN | bounds).values(), *STREAM)
        assert x.isnan().nonzero().tolist() == [[1, 1]]
        assert x.isfinite().sum() == x.numel() - 1


def test_float64_keeps_its_coefficients(op, device):
    form = FORMS["all"] | {"noise_std_at": None, "noise_std": 0.0, "step_size_at": None, "step_lo": -0.1, "noise_hi": 0.9}
    assert_steps_agree(*both(op, form, (63, 5), torch.float64, device), 1e-15)


def test_langevin_in_unaligned_memory_and_with_device_counters(op, device):
    step_ = op("langevin_step_")
    purpose, seed, step, offset = STREAM
    rng = torch.tensor([seed, step - 5], device=device)
    for name in ("plain", "all"):
        whole = updated(step_, FORMS[name], (40, 8), torch.float32, device)
        assert_steps_agree(updated(step_, FORMS[name], (40, 8), torch.float32, device, shift=1), whole, 0.0)
        moved = updated(step_, FORMS[name], (40, 8), torch.float32, device, rng=rng, stream=(purpose, 0, 5, offset))
        assert_steps_agree(moved, whole, 0.0)


def test_a_nan_stays_a_nan_under_clamps(op, device):
    x = torch.tensor([[math.nan, 0.0, 1e30, -1e30]], device=device)
    grad = torch.tensor([[0.0, math.nan, 0.0, 0.0]], device=device)
    numbers = (PLAIN | {"grad_clip": 1.0, "step_lo": -2.0, "step_hi": 2.0, "noise_lo": -1.0, "noise_hi": 1.0}).values()
    op("langevin_step_")(x, grad, *[None] * 8, *numbers, *STREAM)
    assert x.isnan().tolist() == [[True, True, False, False]]
    assert x[0, 2:].tolist() == [1.0, -1.0]


@pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu"))
def test_a_cuda_thread_and_a_lane_of_the_cpu_compute_the_same_bits(cuda_on_cpu):
    for kind in (BITS, UNIFORM, NORMAL, SIGNS):
        dtype = torch.int32 if kind == BITS else torch.float32
        lanes = implementation("noise_", "cpu")
        assert torch.equal(*(drawn(fill, (300, 1333), kind, dtype, "cpu") for fill in (cuda_on_cpu.op("noise_"), lanes)))
    for name in FORMS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            steps = cuda_on_cpu.op("langevin_step_"), implementation("langevin_step_", "cpu")
            assert_steps_agree(*(updated(step, FORMS[name], (60, 33), dtype, "cpu") for step in steps), 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(dtype, op, device):
    event_norm = op("event_norm")
    for shape in [(1,), (63,), (7, 1), (5, 3, 5), (300, 16), (3, 1024), (2, 5001), (2, 6000)]:
        x = Guarded(shape, dtype, device).filled(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
        fast = event_norm(x)
        assert fast.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(fast, norm.event_norm(x), rtol=1e-14 if dtype == torch.float64 else 2e-7, atol=0.0)
        assert torch.equal(event_norm(x[:1]), fast[:1])
    if dtype in (torch.float32, torch.float64):  # squares that float32 could not hold
        big = torch.tensor([[3e30, 4e30], [INF, 0.0], [math.nan, 0.0], [0.0, 0.0]], dtype=dtype, device=device)
        expected = torch.tensor([5e30, INF, math.nan, 0.0], dtype=dtype, device=device)
        torch.testing.assert_close(event_norm(big), expected, equal_nan=True)


@pytest.mark.parametrize("op", ["triton"], indirect=True)
def test_64_bit_indices_change_nothing(op, device, monkeypatch):
    from ebm_fast.kernels import norm as norm_module
    from ebm_fast.kernels import philox

    def everything() -> list[torch.Tensor]:
        x, velocity = updated(op("langevin_step_"), FORMS["all"], (700, 3), torch.float32, device)
        return [x, velocity, op("event_norm")(x), drawn(op("noise_"), (300, 8), NORMAL, torch.float32, device)]

    narrow = everything()
    for module in (philox, norm_module):
        monkeypatch.setattr(module, "WIDE_FROM", 0)
    torch.testing.assert_close(everything(), narrow, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.cuda
def test_more_elements_than_32_bits_count(op, device):
    if device == "cpu":
        pytest.skip("takes 4 GB and a GPU's speed")
    purpose, seed, step, _ = STREAM
    out = torch.empty(2**21 + 8, 1025, dtype=torch.bfloat16, device=device)
    op("noise_")(out, None, NORMAL, purpose, seed, step, 5)
    last = drawn(op("noise_"), (8, 1025), NORMAL, torch.bfloat16, device, stream=(purpose, seed, step, 5 + 2**21))
    assert torch.equal(out[-8:], last)
    numbers = (PLAIN | {"step_size": 1.0, "noise_std": 0.0}).values()
    op("langevin_step_")(out, out.clone(), *[None] * 8, *numbers, *STREAM)
    assert not out.any()
    out[-1] = 2.0
    assert op("event_norm")(out)[-2:].tolist() == [0.0, pytest.approx(2.0 * 1025**0.5)]
