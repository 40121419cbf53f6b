"""Noisy copies of data and the noise itself in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define
from .noise import fresh_seed, signed64
from .purposes import purpose_tag


def _impl(out: Tensor, noise: Tensor | None, x: Tensor, scale: Tensor | None, sigma_at: Tensor | None, *args: Any) -> None:
    if out.numel():
        checks.refuse_negated(x, "x")
        checks.refuse_unsafe((("out", out), ("noise", noise)), (("x", x), ("scale", scale), ("sigma", sigma_at)))
        route("perturb_", out, args[-1])(out, noise, x, scale, sigma_at, *args[:-1])
        increment_version(out if noise is None else (out, noise))


_op = define(
    "perturb_(Tensor(a!) out, Tensor(b!)? noise, Tensor x, Tensor? scale, Tensor? sigma_at, Tensor? rng, float sigma, "
    "int purpose, SymInt seed, SymInt step, SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def perturb_(
    out: Tensor,  # (n k, *event)
    x: Tensor,  # (n, *event)
    sigma: float | Tensor,  # () or (n k,)
    *,
    noise: Tensor | None = None,  # (n k, *event)
    scale: Tensor | None = None,  # (*event)
    seed: int | None = None,
    step: int = 0,
    purpose: str = "data_noise",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """y_i = x_{i // k} + sigma_i scale z_i, z ~ N(0, I): k noisy copies of each datum side by side; fills and returns `out`.

    Args:
        out: (n k, *event), float32, float64, bfloat16 or float16, contiguous; k is len(out) / len(x).
        x: data (n, *event), like out.
        sigma: standard deviation >= 0; a tensor () or (n k,) is read on the device and its values are not checked.
        noise: (n k, *event), like out: receives z, the target of denoising.
        scale: (*event), multiplies sigma, float32 (float64 for a float64 out).
        seed, step, purpose, chain_offset, rng, generator, backend: as `normal_`; row i has the noise of chain chain_offset + i.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; nothing is then changed.

    Source: Vincent 2011 (denoising); Ceylan and Gutmann 2018 (several copies).
    """
    checks.state(out, "out")
    checks.state(x, "x")
    alike = x.shape[1:] == out.shape[1:] and x.dtype is out.dtype and x.device == out.device
    if not alike or not x.shape[0] or out.shape[0] % x.shape[0]:
        raise ValueError(
            f"x must hold a whole fraction of out's rows, like out: {out.dtype}, on {out.device}, (n, *event) for out "
            f"{tuple(out.shape)}; got {x.dtype}, on {x.device}, {tuple(x.shape)}"
        )
    s, s_at = checks.coefficient(sigma, "sigma", out)
    if noise is not None:
        checks.like(noise, "noise", out)
    if scale is not None:
        arithmetic = torch.float64 if out.dtype == torch.float64 else torch.float32
        checks.exactly(scale, "scale", tuple(out.shape[1:]), arithmetic, out.device)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, out)
    _op(out, noise, x, scale, s_at, rng, s, purpose_tag(purpose), signed64(seed), step, chain_offset, backend or "auto")
    return out
