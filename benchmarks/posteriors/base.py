"""What the posteriors have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

POSITIVE = biject_to(constraints.positive)


def half_cauchy(scale: float) -> Callable[[Tensor], Tensor]:
    """-log p(x) of a (half-)Cauchy prior: log(1 + (x / c)^2). The distributions of torch would round x to their scale's dtype."""
    return lambda x: (x / scale).square().log1p()


def half_normal(scale: float) -> Callable[[Tensor], Tensor]:
    """-log p(x) of a (half-)normal prior: (x / c)^2 / 2."""
    return lambda x: 0.5 * (x / scale).square()


class Posterior(nn.Module):
    """E(u) = -log p(theta(u) | data) - log |d theta / d u| + constant, on u without constraints.

    Buffers are worked out in float64, so that `.double()` is exact and `.float()` rounds once.
    """

    dim: int

    def forward(self, u: Tensor) -> Tensor:  # (n, dim) -> (n,)
        raise NotImplementedError

    def start(self, num_chains: int, generator: torch.Generator | None = None) -> Tensor:  # -> (n, dim)
        """Where chains may begin."""
        return torch.randn(num_chains, self.dim, generator=generator)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:  # (..., dim) -> name: (...)
        """The parameters under the names of the reference draws."""
        raise NotImplementedError

    def unconstrain(self, parameters: dict[str, Tensor]) -> Tensor:  # name: (...) -> (..., dim)
        """The inverse of `constrain`."""
        raise NotImplementedError
