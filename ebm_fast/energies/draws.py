"""Counter-based randomness of the exact samplers, and draws by inversion of a one-dimensional distribution function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.noise import bits_, normal_

CELLS = 2**14  # of the grid on which a distribution function is inverted


class Draws:
    """Arrays of noise for n draws; draw i of a seed is the same whatever n is. Each array is a step of purpose "init"."""

    def __init__(self, n: int, seed: int, chain_offset: int, device: torch.device) -> None:
        self.n, self.seed, self.chain_offset, self.device = n, seed, chain_offset, device
        self._step = 0

    def _next(self) -> dict[str, int | str]:
        self._step += 1
        return {"seed": self.seed, "step": self._step - 1, "purpose": "init", "chain_offset": self.chain_offset}

    def normal(self, k: int) -> Tensor:
        """Standard normals (the contract's float32 numbers) as float64. (n, k)"""
        out = torch.empty(self.n, k, dtype=torch.float64, device=self.device)
        return normal_(out, **self._next())  # type: ignore[arg-type]

    def uniform(self, k: int) -> Tensor:
        """Uniforms in (0, 1) of 64 bits, rounded to float64. (n, k)"""
        bits = torch.empty(self.n, 2 * k, dtype=torch.int32, device=self.device)
        words = bits_(bits, **self._next()).to(torch.float64) + 2.0**31  # type: ignore[arg-type]
        u = (words[:, 0::2] + (words[:, 1::2] + 0.5) * 2.0**-32) * 2.0**-32
        return u.clamp_max_(1.0 - 2.0**-53)


def log_integral(log_f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """log int_low^high f(x) dx by the trapezoidal rule in float64, differentiable in what log_f holds.

    Exact to rounding where f and its odd derivatives vanish at both ends or f is even about an end (Euler-Maclaurin).
    """
    low, high = low.detach().double(), high.detach().double()
    step = (high - low) / CELLS
    grid = low + step * torch.arange(CELLS + 1, dtype=torch.float64, device=low.device)
    weight = torch.ones_like(grid)
    weight[0] = weight[-1] = 0.5
    return torch.logsumexp(log_f(grid) + weight.log(), 0) + step.log()


def inverse_cdf(log_f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, u: Tensor) -> Tensor:
    """x with F(x) = u for the density f on [low, high], taken as linear between 2^14 + 1 points of a uniform grid, float64.

    The total-variation distance to f is of order (width of a cell / scale of f)^2 / 12: 1e-7 where f spans 20 scales.
    """
    grid = torch.linspace(0.0, 1.0, CELLS + 1, dtype=torch.float64, device=u.device) * (high - low) + low
    log_density = log_f(grid)
    f = (log_density - log_density.max()).exp()
    mass = (f[1:] + f[:-1]) / 2
    total = mass.cumsum(0)
    wanted = u * total[-1]
    cell = torch.searchsorted(total, wanted.contiguous()).clamp_max_(CELLS - 1)
    rest = wanted - (total[cell] - mass[cell])
    left, slope = f[cell], f[cell + 1] - f[cell]
    # The root of left t + slope t^2 / 2 = rest in [0, 1], in the form that does not cancel.
    t = 2.0 * rest / (left + (left.square() + 2.0 * slope * rest).clamp_min_(0.0).sqrt()).clamp_min_(math.ulp(0.0))
    return grid[cell] + t.clamp_(0.0, 1.0) * (grid[1] - grid[0])
