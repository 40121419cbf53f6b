"""Running what is tested: exact draws and kernels, from one seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_OTHER = 0x9E3779B97F4A7C15  # exact draws and sampler share no random number, though both count from step 0 of chain 0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generators start from `seed` inside and are as before afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def exact_draws(sample_exact: Any, count: int, seed: int, name: str = "sample_exact") -> Tensor:
    """`count` draws (count, *event) of a function (n) or (n, seed=)."""
    if not callable(sample_exact):
        raise TypeError(f"{name} must be a function n -> (n, *event), got {type(sample_exact).__name__}")
    try:
        takes_seed = "seed" in inspect.signature(sample_exact).parameters
    except (TypeError, ValueError):
        takes_seed = False
    with torch.no_grad():
        x = sample_exact(count, seed=seed) if takes_seed else sample_exact(count)
    if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != count:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}({count}) must return a tensor ({count}, *event), got {got}")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} returned NaN or infinite numbers")
    return x.detach()


def energy_of(kernel: Any, energy: Any) -> Any:
    """The energy to look at: the one given, or that of a (sampler, energy)."""
    if energy is not None:
        return energy
    return kernel[1] if isinstance(kernel, tuple) and len(kernel) in (2, 3) else None


def run_kernel(kernel: Any, x: Tensor, num_steps: int, seed: int) -> Tensor:
    """The state after num_steps steps from x, which stays as it is."""
    if isinstance(kernel, tuple):
        if len(kernel) not in (2, 3):
            raise TypeError(f"kernel must be a function x -> x' or (sampler, energy[, options]), got a tuple of {len(kernel)}")
        from ..engine import sample

        sampler, energy, *options = kernel
        how = {"seed": (seed ^ _OTHER) & (2**64 - 1), "record": False, "record_energy": False, "progress": False}
        return sample(energy, sampler, x, num_steps=num_steps, **{**how, **(options[0] if options else {})}).final
    if not callable(kernel):
        raise TypeError(f"kernel must be a function x -> x' or (sampler, energy), got {type(kernel).__name__}")
    y = x.clone()
    for _ in range(num_steps):
        with torch.no_grad():
            y = kernel(y)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"kernel must return states of shape {tuple(x.shape)}, got {got}")
    return y.detach()
