"""guard_: the bound by hand, parity with the reference, what is not finite, batches, errors, opcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops.cases import SHAPES, Drawn, assert_same, chains_of

import ebm_fast as ef

LARGEST = {d: torch.finfo(d).max for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
DTYPES = list(LARGEST)


def arguments(shape: tuple[int, ...], dtype: torch.dtype, device: str, **options: Any) -> dict[str, Any]:
    """Steps so large that the bound lies among the chains: which of them are frozen depends on every number."""
    draw = Drawn(shape, dtype, device)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    n = shape[:1]
    dim = math.prod(shape[1:])
    near = float(LARGEST[dtype] / math.sqrt(dim) / 2)
    case: dict[str, Any] = {"x": draw.normal(), "grad": draw.normal(), "momentum": draw.normal()}
    case |= {"energy": draw.normal(n, arithmetic), "step_size": near, "step": 2**40}
    case["divergence_step"] = torch.where(torch.arange(n[0]) % 7 == 2, 5, -1).to(device)
    case["active"] = torch.zeros(n, dtype=torch.bool, device=device)
    case["norm_sum"] = draw.normal(n, torch.float64)
    return case | options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kinetic", [False, True])
def test_parity_with_the_reference(dtype, kinetic, backend, device):
    seen = set()
    for shape in SHAPES:
        size = math.sqrt(LARGEST[dtype] / 4.0) / max(math.prod(shape[1:]), 1) ** 0.25 if kinetic else None
        for options in ({}, {"grad_clip": 0.9}, {"grad_clip_norm": 1.5}, {"stretch": 1.1, "heavy_ball": -0.9}):
            fast, truth = (arguments(shape, dtype, where, kinetic=kinetic, **options) for where in (device, "cpu"))
            for case in (fast, truth):
                case["step_size"] = case["step_size"] if size is None else size
            ef.ops.guard_(backend=backend, **fast)
            ef.ops.guard_(backend="reference", **truth)
            assert_same(fast, truth, 2e-7)
            assert torch.equal(fast["active"].cpu(), truth["divergence_step"] < 0)
            seen |= set(truth["divergence_step"].tolist())
    assert seen == {-1, 5, 2**40}


def test_the_bound_by_hand():
    """Either side of it, for each term: the chain whose bound is just above the largest number is frozen."""
    largest = LARGEST[torch.float32]
    x, grad = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    velocity = torch.tensor([[6.0, 8.0]])
    terms: list[tuple[dict[str, Any], float]] = [
        ({"step_size": 1.0}, 2.0),
        ({"step_size": 1.0, "stretch": 3.0}, 18.0),
        ({"step_size": 1.0, "grad_clip": 0.5}, 0.5 * math.sqrt(2.0)),
        ({"step_size": 1.0, "grad_clip_norm": 0.25}, 0.25),
        ({"step_size": 1.0, "prior_precision": -2.0}, 12.0),
        ({"noise_std": 1.0, "stretch": 2.0}, 2 * 6.77),
        ({"heavy_ball": -1.0, "momentum": velocity}, 10.0),
        ({"step_size": torch.tensor(1.0)}, 2.0),
        ({"noise_std": torch.tensor([1.0])}, 6.77),
    ]
    for options, factor in terms:
        for scale, stopped in ((0.9999, False), (1.0001, True)):
            c = scale * largest / factor
            scaled = {k: c * v if k in ("step_size", "noise_std", "heavy_ball") else v for k, v in options.items()}
            step = torch.full((1,), -1)
            ef.ops.guard_(x, grad, energy=torch.zeros(1), divergence_step=step, step=3, **scaled)
            assert (step.item() == 3) == stopped, (options, scale)
    e = math.sqrt(largest / 2.0)  # of BAOAB: e (e |g|), then e |v|, e 6.77 n
    fast, noisy = {"momentum": velocity, "step_size": largest / 10.0}, {"noise_std": 1.0, "step_size": largest / 6.77}
    for options in ({"step_size": e}, fast, noisy):
        if "momentum" in options or "noise_std" in options:
            grad = torch.zeros(1, 2)
        for scale, stopped in ((0.9999, False), (1.0001, True)):
            step = torch.full((1,), -1)
            scaled = {k: v * scale if k == "step_size" else v for k, v in options.items()}
            ef.ops.guard_(x, grad, energy=torch.zeros(1), divergence_step=step, step=3, kinetic=True, **scaled)
            assert (step.item() == 3) == stopped, (options, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_frozen_and_not_summed(dtype, backend, device):
    nan, inf = math.nan, math.inf
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    x, grad, momentum = (torch.ones(9, 20, dtype=dtype, device=device) for _ in range(3))
    energy = torch.zeros(9, dtype=arithmetic, device=device)
    energy[0], energy[1], energy[2] = nan, inf, -inf
    x[3, 7], x[4, 19] = nan, inf
    grad[5, 0], grad[6, 18] = nan, -inf
    momentum[7, 3] = nan
    for clip, kept in (({}, {8}), ({"grad_clip": 1.0}, {6, 8}), ({"grad_clip_norm": 1.0}, {8})):
        step = torch.full((9,), -1, device=device)
        norms, active = torch.zeros(9, dtype=torch.float64, device=device), torch.zeros(9, dtype=torch.uint8, device=device)
        ef.ops.guard_(x, grad, energy=energy, divergence_step=step, norm_sum=norms, active=active, momentum=momentum,
                      heavy_ball=0.5, step_size=0.1, backend=backend, **clip)  # fmt: skip
        assert set(torch.nonzero(step < 0).flatten().tolist()) == kept
        assert set(torch.nonzero(active).flatten().tolist()) == kept
        assert norms.cpu()[[i for i in range(9) if i not in kept]].tolist() == [0.0] * (9 - len(kept))
        assert norms[8].item() == pytest.approx(math.sqrt(20.0), rel=1e-6)


def test_float16_events_whose_norm_leaves_the_range_go_on(backend, device):
    x = torch.full((1, 20_000), 600.0, dtype=torch.float16, device=device)  # of norm 84853
    grad = torch.ones_like(x)
    step = torch.full((1,), -1, device=device)
    options = {"energy": torch.zeros(1, device=device), "divergence_step": step, "step_size": 0.1, "backend": backend}
    ef.ops.guard_(x, grad, **options)
    assert step.item() == -1
    ef.ops.guard_(x, grad, noise_std=1e4, **options)
    assert step.item() == 0


def test_a_chain_is_the_same_in_any_batch_and_step_lives_on_the_device():
    for shape in ((40, 33), (11, 5001)):
        whole = arguments(shape, torch.float32, "cpu")
        parts = [chains_of(whole, 0, 7), chains_of(whole, 7, shape[0])]
        rng = torch.tensor([1, 2**40 - 3])
        ef.ops.guard_(**whole)
        for part in parts:
            ef.ops.guard_(**part | {"step": 3, "rng": rng})
        for name in ("divergence_step", "norm_sum", "active"):
            assert torch.equal(torch.cat([p[name] for p in parts]), whole[name])


def test_bad_arguments_are_named():
    good = arguments((4, 3), torch.float32, "cpu")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"grad": torch.zeros(4, 2)}, ValueError, "grad must match x"),
        ({"energy": None}, ValueError, r"energy must be a contiguous tensor of shape \(4,\)|energy must be"),
        ({"energy": torch.zeros(4, dtype=torch.float64)}, ValueError, "energy must be"),
        ({"divergence_step": torch.zeros(4)}, ValueError, "divergence_step must be"),
        ({"active": torch.zeros(4)}, ValueError, "active must be"),
        ({"norm_sum": torch.zeros(4)}, ValueError, "norm_sum must be"),
        ({"step_size": -1.0}, ValueError, "step_size must be finite and at least 0"),
        ({"noise_std": torch.zeros(3)}, ValueError, "noise_std must be a number or a tensor"),
        ({"grad_clip": math.nan}, ValueError, "grad_clip must be"),
        ({"step": -1}, ValueError, "step must be in"),
        ({"rng": torch.zeros(2)}, ValueError, "rng must be"),
    ]
    for changed, error, match in cases:
        with pytest.raises(error, match=match):
            ef.ops.guard_(**good | changed)
    both = torch.zeros(8, dtype=torch.float64)
    with pytest.raises(ValueError, match="overlaps"):
        ef.ops.guard_(both.view(4, 2), both.view(4, 2), norm_sum=both[:4])
    empty = torch.zeros(3, 0)
    active = torch.zeros(3, dtype=torch.bool)
    ef.ops.guard_(empty, empty, energy=torch.zeros(3), divergence_step=torch.tensor([-1, 4, -1]), active=active)
    assert active.tolist() == [True, False, True]


def test_registered_for_compile():
    case = arguments((4, 3), torch.float32, "cpu")
    flat = (case["x"], case["grad"], None, case["energy"], case["divergence_step"], case["active"], case["norm_sum"], None, None,
            None, None, 0.1, 0.1, 1.0, 0.0, 0.0, math.inf, math.inf, False, 3, "auto")  # fmt: skip
    torch.library.opcheck(torch.ops.ebm_fast.guard_.default, flat)
