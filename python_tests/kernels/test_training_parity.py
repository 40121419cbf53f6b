"""Kernels of training against the reference. Triton's run in the interpreter on a CPU: see test_interpreted.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flat import Arguments
from tolerances import UPDATE

from ebm_fast.ops.backend import implementation, why_not

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# no event, odd events, blocks of four, images, events of several passes, and such that get a large program
SHAPES = [(3,), (63,), (300, 3), (9, 4), (6, 3, 5), (3, 2, 4, 8), (3, 1500), (3, 4501)]
# What is given beyond an op's necessary tensors, and numbers that differ from flat.NUMBERS; the last is used for all shapes.
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "perturb_": {
        "plain": {},
        "noise kept": {"noise": True, "sigma_at": "0"},
        "copies": {"noise": True, "x": 3},
        "scaled": {"scale": True},
        "all": {"noise": True, "x": 3, "scale": True, "sigma_at": "n", "rng": True},
    },
    "randperm_": {
        "one number": {"size": 1},
        "a square": {"size": 900},
        "many": {"size": 2**31, "rng": True},
        "all": {"size": 337, "index": True, "group": True},
    },
    "gather_": {
        "nothing new": {"rate": 0.0},
        "uniform": {"kind": 1},
        "rows": {"kind": 0, "rows": True, "fresh": True},
        "all new": {"rate": 1.0, "kind": 1, "fresh": True},
        "all": {"fresh": True, "rng": True},
    },
    "scatter_": {"all": {}},
}


def done(step: Any, name: str, form: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str, *,
         shift: int = 0) -> dict[str, Any]:  # fmt: skip
    """Every argument after a call; two of three rows written back hold what is not finite, one at its end, one at its start."""
    arguments = Arguments(name, shape, dtype, device, form, shift)
    if name == "scatter_":
        rows = arguments.values["x"].view(shape[0], -1)
        rows[1::3, -1], rows[2::3, 0] = torch.nan, -torch.inf
    step(*arguments.values.values())
    for guard in arguments.guards.values():
        guard.assert_margins_untouched()
    return arguments.values


def check(op: Any, name: str, form: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, device: str, **how: Any) -> None:
    fast, truth = (done(step, name, form, shape, dtype, device, **how) for step in (op(name), implementation(name, "reference")))
    bound = 0.0 if name in ("randperm_", "scatter_") or "rows" in form else UPDATE[dtype]
    for key, value in truth.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(fast[key], value, rtol=bound, atol=bound, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in FORMS.items() for form in forms])
def test_forms(name, form, op, device):
    for shape in [(300,)] if name == "randperm_" else [(300, 3), (9, 4)]:
        check(op, name, FORMS[name][form], shape, torch.float32, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["perturb_", "gather_", "scatter_"])
def test_shapes(name, dtype, op, device):
    for shape in SHAPES:
        check(op, name, FORMS[name]["all"], shape, dtype, device)
    check(op, name, FORMS[name]["all"], (9, 8), dtype, device, shift=1)


def test_slots_outside_of_the_buffer(op, device):
    """A gathered row becomes NaN, a row to be written is dropped."""
    slots = torch.tensor([2, -1, 5, 0, 2**40], device=device)
    source = torch.arange(20.0, device=device).view(5, 4)
    out = torch.zeros(5, 4, device=device)
    numbers = (2, 0.0, 0.0, 1.0, 5, 4, 1, 2, 3)
    op("gather_")(out, source, slots, None, None, None, *numbers)
    assert torch.equal(out.isnan().all(1).cpu(), torch.tensor([False, True, True, False, True]))
    assert torch.equal(out[[0, 3]], source[[2, 0]])
    target = source.clone()
    op("scatter_")(target, slots, torch.full((5, 4), 100.0, device=device))
    written = torch.tensor([True, False, True, False, False], device=device)
    assert (target[written] == 100.0).all() and torch.equal(target[~written], source[~written])


@pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu"))
def test_a_cuda_thread_and_a_lane_of_the_cpu_compute_the_same_bits(cuda_on_cpu):
    for name, forms in FORMS.items():
        for form in forms.values():
            shape = (60,) if name == "randperm_" else (60, 33)
            steps = cuda_on_cpu.op(name), implementation(name, "cpu")
            one, other = (done(step, name, form, shape, torch.float32, "cpu") for step in steps)
            for key, value in one.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value.nan_to_num(nan=7.0), other[key].nan_to_num(nan=7.0)), (name, key)
