"""P1: the fused Langevin update beside PyTorch's three calls, their compiled form, and JAX.

On a GPU a call of few numbers is the host's time; the kernels alone are timed from a CUDA graph of LAUNCHES calls.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import harness
import pytest
import torch
from torch import Tensor

import ebm_fast as ef

STEP_SIZE, NOISE_STD, CLIP, CLAMP = 0.01, 0.005, 0.03, (0.0, 1.0)
BYTES = 12  # per float: x and gradient read, x written
LAUNCHES = 20  # in a graph
TARGETS = {"cpu": {"eager": 6.0, "compiled": 30.0}, "cuda": {"eager": 2.2}}


def plain(x: Tensor, grad: Tensor) -> None:
    x.add_(grad, alpha=-STEP_SIZE).add_(torch.randn_like(x), alpha=NOISE_STD)


def clipped(x: Tensor, grad: Tensor) -> None:
    x.add_(grad.clamp(-CLIP, CLIP), alpha=-STEP_SIZE).add_(torch.randn_like(x), alpha=NOISE_STD).clamp_(*CLAMP)


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], None], dict[str, Any]]] = {
    "plain": (plain, {}),
    "clip+clamp": (clipped, {"grad_clip": CLIP, "clamp": CLAMP}),
}


def check(form: str, device: str) -> None:
    """The very numbers of the reference, and without noise those of the eager form."""
    eager, options = FORMS[form]
    start, grad = torch.rand(100, 1001, device=device), torch.randn(100, 1001, device=device) * 0.05
    kwargs = {"step_size": STEP_SIZE, "seed": 3, **options}
    ours, truth = start.clone(), start.clone()
    ef.ops.langevin_step_(ours, grad, noise_std=NOISE_STD, **kwargs)
    ef.ops.langevin_step_(truth, grad, noise_std=NOISE_STD, backend="reference", **kwargs)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-6)
    ours, noise_free = start.clone(), start.clone()
    ef.ops.langevin_step_(ours, grad, noise_std=0.0, **kwargs)
    noise_free.add_(grad if form == "plain" else grad.clamp(-CLIP, CLIP), alpha=-STEP_SIZE)
    torch.testing.assert_close(ours, noise_free if form == "plain" else noise_free.clamp(*CLAMP), rtol=0, atol=1e-6)
    noisy = start.clone()
    eager(noisy, grad)
    assert abs(float((noisy - noise_free).std() / NOISE_STD) - 1.0) < (0.02 if form == "plain" else 0.2)


def jax_update(numel: int, form: str) -> Callable[[], object] | None:
    """One jitted update with its state donated, or None where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the memory too
    import jax
    import jax.numpy as jnp

    def update(x, grad, key):
        key, now = jax.random.split(key)
        if form == "clip+clamp":
            grad = jnp.clip(grad, -CLIP, CLIP)
        x = x - STEP_SIZE * grad + NOISE_STD * jax.random.normal(now, x.shape)
        return (jnp.clip(x, *CLAMP) if form == "clip+clamp" else x), key

    jitted = jax.jit(update, donate_argnums=0)
    grad = jax.random.normal(jax.random.key(1), (numel,))
    state = [jnp.zeros(numel), jax.random.key(0)]

    def call() -> None:
        state[:] = jitted(state[0], grad, state[1])
        jax.block_until_ready(state[0])

    return call


def without_host(calls: dict[str, Callable[[], object]], moved: float, copied: float, result: harness.Result,
                 seconds: float) -> dict[str, Any]:  # fmt: skip
    """Seconds a call from replayed graphs, what share of a copy's bandwidth that is, and whether a call by itself waits for the
    host. In a graph a copy of much memory is slower than by itself, so the faster of the two is what counts."""
    names = ("ebm_fast", "eager", "copy")
    graphs = {name: harness.graphed(calls[name], LAUNCHES) for name in names}
    alone = harness.race(graphs, seconds=seconds, device="cuda")
    took = {name: alone.median(name) / LAUNCHES for name in names}
    return {
        "graph_seconds": took,
        "graph_ratios": {"eager": alone.ratio("eager", "ebm_fast")},
        "graph_fraction_of_copy": moved / took["ebm_fast"] / (copied / min(took["copy"], result.median("copy"))),
        "host_bound": result.median("ebm_fast") > 1.5 * took["ebm_fast"],
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("numel", [10**6, 10**7, 10**8], ids=["1e6", "1e7", "1e8"])
def test_update(numel, form, device, seconds, record):
    if numel > 10**7 and device == "cpu":
        pytest.skip("10^8 elements are for GPUs")
    check(form, device)
    eager, options = FORMS[form]
    compiled = torch.compile(eager, dynamic=False)
    states = [torch.rand(numel, device=device) for _ in range(3)]
    x, grad = states[0].view(-1, 1000), torch.randn(numel, device=device).view(-1, 1000)
    step = iter(range(2**40))
    copy, copy_bytes = harness.copy_of(numel, device)
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.ops.langevin_step_(
            x, grad, step_size=STEP_SIZE, noise_std=NOISE_STD, seed=1, step=next(step), **options
        ),
        "eager": lambda: eager(states[1], grad.view(-1)),
        "compiled": lambda: compiled(states[2], grad.view(-1)),
        "copy": copy,
    }
    if (jax := jax_update(numel, form)) is not None:  # which waits for its device at each call
        calls["jax"] = jax
    result = harness.race(calls, seconds=seconds, device=device)
    graphs = without_host(calls, BYTES * numel, copy_bytes, result, seconds / 2) if device == "cuda" else {}
    record(
        "langevin", f"P1 update {form} {numel:.0e}", result, calls, bytes_moved=BYTES * numel, copy_bytes=copy_bytes,
        ns_per_element={name: result.median(name) / numel * 1e9 for name in calls}, targets=TARGETS[device],
        **graphs,
    )  # fmt: skip
