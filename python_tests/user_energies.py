"""Analytic energies written as Triton functions, beside the descriptors that the reference runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import ebm_fast as ef

M = tl.constexpr(3)  # components of `mixture`
D = tl.constexpr(3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@ef.fused_energy(dim=2, parameters={"a": 1.0, "b": 5.0})
def banana(x, a, b):
    off = x[0] - a
    bend = x[1] - x[0] * x[0]
    return off * off + b * bend * bend, (2.0 * off - 4.0 * b * bend * x[0], 2.0 * b * bend)


def gaussian(dim: int) -> Any:
    """The precision is given first, so that the order of the function counts."""

    @ef.fused_energy(dim=dim, parameters={"precision": normal(dim, seed=1).exp(), "mean": normal(dim)})
    @triton.jit
    def gaussian(x, mean, precision):
        e = 0.0 * x[0]
        g = ()
        for i in tl.static_range(len(x)):
            off = x[i] - tl.load(mean + i)
            pull = tl.load(precision + i) * off
            e = tl.fma(0.5 * pull, off, e)
            g = g + (pull,)  # noqa: RUF005
        return e, g

    return gaussian


@triton.jit
def log_component(x, c, means, precisions, m):
    squares = 0.0 * x[0]
    for i in tl.static_range(D):
        off = x[i] - tl.load(means + m * D + i)
        squares = tl.fma(tl.load(precisions + m * D + i) * off, off, squares)
    return tl.load(c + m) - 0.5 * squares


@ef.fused_energy(dim=3, parameters={"c": normal(3), "means": 2.0 * normal(3, 3), "precisions": normal(3, 3, seed=1).exp()})
def mixture(x, c, means, precisions):
    """-log sum_m exp(c_m - 1/2 sum_i a_mi (x_i - mu_mi)^2), the largest term taken out."""
    top = log_component(x, c, means, precisions, 0)
    for m in tl.static_range(1, M):
        top = tl.maximum(top, log_component(x, c, means, precisions, m))
    total = 0.0 * x[0]
    pulls = (total, total, total)
    for m in tl.static_range(M):
        weight = tl.exp(log_component(x, c, means, precisions, m) - top)
        total += weight
        new = ()
        for i in tl.static_range(D):
            pull = tl.load(precisions + m * D + i) * (x[i] - tl.load(means + m * D + i))
            new = new + (tl.fma(weight, pull, pulls[i]),)  # noqa: RUF005
        pulls = new
    g = ()
    for i in tl.static_range(D):
        g = g + (pulls[i] / total,)  # noqa: RUF005
    return -(top + tl.log(total)), g


@ef.fused_energy(dim=1)
def exponential(x):
    """x for x > 0, else infinite: dE/dx is a plain number."""
    return tl.where(x[0] > 0.0, x[0], float("inf")), (1.0,)


@ef.fused_energy(dim=3, parameters={"h": 1.0})
def double_well(x, h):
    e = 0.0 * x[0]
    g = ()
    for i in tl.static_range(len(x)):
        w = x[i] * x[i] - 1.0
        e += h * w * w
        g = g + (4.0 * h * w * x[i],)  # noqa: RUF005
    return e, g


def descriptor(kind: str, dim: int, integers: tuple[int, ...], *parts: Any) -> SimpleNamespace:
    parameters = torch.cat([torch.as_tensor(p, dtype=torch.float32).reshape(-1) for p in parts])
    return SimpleNamespace(kind=kind, dim=dim, integers=integers, parameters=parameters)


gaussian_5 = gaussian(5)
# (the Triton function, what the reference runs, leapfrog step)
TARGETS: dict[str, tuple[Any, SimpleNamespace, float]] = {
    "banana": (banana, descriptor("rosenbrock", 2, (), 1.0, 5.0), 0.06),
    "gaussian": (gaussian_5, descriptor("gaussian_diagonal", 5, (), gaussian_5.mean, gaussian_5.precision), 0.2),
    "mixture": (mixture, descriptor("mixture", 3, (3,), mixture.c, mixture.means, mixture.precisions), 0.1),
    "double_well": (double_well, descriptor("double_well", 3, (), 1.0, 1.0), 0.1),
    "exponential": (exponential, descriptor("gamma", 1, (), 1.0, 1.0), 0.3),
}
