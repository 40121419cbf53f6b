"""K Langevin steps on a ConvNet: `ef.langevin_` beside the usual script, the mended one, and that one compiled or graphed."""

from __future__ import annotations

from collections.abc import Callable

import harness
import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.engine.run import pick_strategy
from ebm_fast.models import ConvNetEnergy, thesis_convnet

STEPS, STEP_SIZE, NOISE_STD, CLIP, CLAMP = 20, 10.0, 0.005, 0.03, (-1.0, 1.0)
CASES: dict[str, tuple[int, tuple[int, ...], Callable[[], nn.Module]]] = {
    "8x8 batch 64": (64, (1, 8, 8), lambda: ConvNetEnergy(1, 8, (32, 64))),
    "28x28 batch 64": (64, (1, 28, 28), lambda: ConvNetEnergy(1, 28, (16, 32, 32))),
    "A batch 128": (128, (1, 28, 28), lambda: thesis_convnet("A")),
}


def usual(energy: nn.Module, start: Tensor) -> Tensor:
    """As tutorials write it: parameters collect gradients that nobody asked for, and each step makes new tensors."""
    x = start.clone().requires_grad_(True)
    for _ in range(STEPS):
        e = energy(x)
        e.sum().backward()
        x.data.add_(x.grad.data.clamp_(-CLIP, CLIP), alpha=-STEP_SIZE)
        x.data.add_(torch.randn_like(x.data), alpha=NOISE_STD)
        x.data.clamp_(*CLAMP)
        x.grad.detach_()
        x.grad.zero_()
    return x.detach()


def mended(energy: Callable[[Tensor], Tensor], start: Tensor, noise_std: float = NOISE_STD) -> Tensor:
    """The same without its mistakes: the gradient of x alone, frozen parameters, one buffer for the noise."""
    x, noise = start.clone(), torch.empty_like(start)
    for _ in range(STEPS):
        x.requires_grad_(True)
        (grad,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach()
        x.add_(grad.clamp_(-CLIP, CLIP), alpha=-STEP_SIZE)
        if noise_std:
            x.add_(noise.normal_(), alpha=noise_std)
        x.clamp_(*CLAMP)
    return x


@pytest.mark.parametrize("case", CASES)
def test_chain(case, device, seconds, record):
    if case.startswith("A") and device == "cpu":
        pytest.skip("minutes on a CPU")
    batch, event, make = CASES[case]
    torch.manual_seed(0)
    trained, frozen = make().to(device), make().to(device)
    frozen.load_state_dict(trained.state_dict())
    frozen.requires_grad_(False)
    start = torch.rand(batch, *event, device=device) * 2 - 1
    arguments = {"num_steps": STEPS, "step_size": STEP_SIZE, "grad_clip": CLIP, "clamp": CLAMP, "seed": 1}
    with harness.exact_products():  # a graph captured here is not the one that is timed: noise_std differs
        ours, truth = ef.langevin_(start.clone(), trained, noise_std=0.0, **arguments), mended(frozen, start, 0.0)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
    x = start.clone()
    compiled = torch.compile(frozen)
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.langevin_(x.copy_(start), trained, noise_std=NOISE_STD, **arguments),
        "usual": lambda: usual(trained, start),
        "mended": lambda: mended(frozen, start),
        "mended, compiled": lambda: mended(compiled, start),
    }
    if device == "cuda":
        calls["mended, graphed"] = harness.graphed(lambda: mended(frozen, start))
    result = harness.race(calls, seconds=seconds, device=device)
    strategy = pick_strategy("auto", None, trained, ef.Langevin(STEP_SIZE), x, None)[0]  # "step" once a capture has failed
    assert strategy == ("graph" if device == "cuda" else "step")
    record(
        "langevin_chain", f"{STEPS} steps, ConvNet {case}", result, calls, per_step=result.median("ebm_fast") / STEPS,
        strategy=strategy,
    )  # fmt: skip
