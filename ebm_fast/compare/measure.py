"""How far a learned energy on the plane is from the truth: KL by quadrature, with log Z exact to the error of the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_fast.training.toys import Toy

HALF_WIDTH, CELLS = 8.0, 480
"""Of the window [-8, 8]^2 that the sums run over, and its cells along each side: a third of the thinnest blur."""
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Distance:
    """What the quadrature finds. All but the last in nats."""

    kl: float
    """KL(p || q) = sum of the two parts."""
    kl_weights: float
    """Between the shares of the toy's components: every point of the window belongs to its likeliest component; what q has
    beyond the window is a share of its own, of which p has nothing."""
    kl_shape: float
    """Between the densities within the components, by their true shares."""
    grid_error: float
    """Difference to the KL on cells three times as wide, whose error is the larger one by far."""
    outside: float
    """Mass that q has beyond the window, as a share of that within; p has none that float32 could tell."""
    log_z: float
    shares: tuple[float, ...]
    """q of each component within the window; 1 / K each is the truth."""


@dataclass(frozen=True)
class Truth:
    """A toy on the grid: log p # (m,), the component of each cell # (m,)."""

    toy: Toy
    points: Tensor  # (m, 2), float32
    log_p: Tensor
    component: Tensor
    area: float

    @classmethod
    def of(cls, toy: Toy, half_width: float = HALF_WIDTH, cells: int = CELLS) -> Truth:
        """`cells` along each side, a multiple of 3."""
        if cells % 3:
            raise ValueError(f"cells: expected a multiple of 3, got {cells}")
        side = 2.0 * half_width / cells
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * side - half_width
        points = torch.cartesian_prod(centres, centres)
        log_k = torch.cat([toy.component_log_prob(piece) for piece in points.split(_CHUNK)])
        return cls(toy, points.float(), log_k.logsumexp(1), log_k.argmax(1), side * side)

    def distance(self, energy: Callable[[Tensor], Tensor]) -> Distance:
        """Of q = exp(-E) / Z. energy: (n, 2) -> (n,), float32.

        Raises:
            FloatingPointError: an energy that is not a number.
        """
        log_f = -energies_at(energy, self.points)
        within = log_f.logsumexp(0).item() + math.log(self.area)
        outside = _outside(energy, within)
        log_z = within + math.log1p(outside)
        log_q = log_f - log_z
        k = self.toy.num_components
        p, q = (log.exp() * self.area for log in (self.log_p, log_q))
        p_k, q_k = (torch.zeros(k, dtype=torch.float64).index_add_(0, self.component, mass) for mass in (p, q))
        kl = _kl(p, self.log_p, log_q)
        weights = (p_k * (p_k.log() - q_k.log())).sum().item()
        return Distance(
            kl=kl,
            kl_weights=weights,
            kl_shape=kl - weights,
            grid_error=abs(kl - self._coarse_kl(log_f) - math.log1p(outside)),
            outside=outside,
            log_z=log_z,
            shares=tuple(q_k.tolist()),
        )

    def _coarse_kl(self, log_f: Tensor) -> float:
        """KL on the middles of blocks of 3 x 3 cells, with their own Z.

        Not of 2 x 2: where p and q are symmetric the four lattices of those are mirror images, whose sums agree, right or wrong.
        """
        cells = math.isqrt(len(log_f))
        log_p, log_f = (t.view(cells, cells)[1::3, 1::3].flatten() for t in (self.log_p, log_f))
        area = 9.0 * self.area
        return _kl(log_p.exp() * area, log_p, log_f - log_f.logsumexp(0) - math.log(area))


def energies_at(energy: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:  # (m, 2) -> (m,)
    """E in float64, in pieces, without gradients; FloatingPointError where it is not finite."""
    with torch.no_grad():
        values = torch.cat([energy(piece) for piece in points.split(_CHUNK)]).double()
    if not bool(values.isfinite().all()):
        raise FloatingPointError("the learned energy is not finite everywhere on the grid")
    return values


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> float:
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum().item()


def _outside(energy: Callable[[Tensor], Tensor], log_z: float) -> float:
    """Mass on [-24, 24]^2 without the window, on a grid of cells of 1/4: far out an energy changes slowly."""
    centres = torch.arange(-24.0, 24.0, 0.25) + 0.125
    points = torch.cartesian_prod(centres, centres)
    points = points[points.abs().amax(1) > HALF_WIDTH]
    return (-energies_at(energy, points) - log_z + math.log(0.25**2)).exp().sum().item()
