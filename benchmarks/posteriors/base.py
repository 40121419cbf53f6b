"""What the posteriors have in common."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import biject_to, constraints

POSITIVE = biject_to(constraints.positive)


class Posterior(nn.Module):
    """E(u) = -log p(theta(u) | data) - log |d theta / d u| + constant, on u without constraints.

    Buffers are worked out in float64, so that `.double()` is exact and `.float()` rounds once.
    """

    dim: int

    def forward(self, u: Tensor) -> Tensor:  # (n, dim) -> (n,)
        raise NotImplementedError

    def constrain(self, u: Tensor) -> dict[str, Tensor]:  # (..., dim) -> name: (...)
        """The parameters under the names of the reference draws."""
        raise NotImplementedError

    def unconstrain(self, parameters: dict[str, Tensor]) -> Tensor:  # name: (...) -> (..., dim)
        """The inverse of `constrain`."""
        raise NotImplementedError
