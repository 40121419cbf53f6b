"""Densities on the plane to try a model on: draws by counter, log densities exact to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_fast.energies.base import LOG_2PI
from ebm_fast.noise import NoiseModel
from ebm_fast.ops.noise import normal_, uniform_

PAIRS = 2**20  # distances to the nodes of curves held at a time


class Toy(NoiseModel):
    """p(x) = 1/K sum_k p_k(x) on the plane, every component blurred by a Gaussian or smooth by itself.

    A noise model like those of `ebm_fast.noise`: `log_prob(x)`, `sample(n, seed=)`, row i a function of (seed, step, i) alone.
    A subclass defines `_log_components` and `_draw`.
    """

    event_shape = (2,)
    num_components: int
    std: Tensor

    def __init__(self, std: float) -> None:
        super().__init__()
        self.register_buffer("std", torch.tensor(float(std), dtype=torch.float64).to(torch.get_default_dtype()))

    @property
    def width(self) -> float:
        """Standard deviation of a component across its thinnest direction, of which the steps of a chain must fall short."""
        return self.std.item()

    def component_log_prob(self, x: Tensor) -> Tensor:  # (n, 2) -> (n, K)
        """log p_k(x) / K of every component k; their logsumexp is `log_prob`."""
        dtype = self._check(x, "x")
        return self._log_components(x.to(dtype)) - math.log(self.num_components)

    def log_prob(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
        return self.component_log_prob(x).logsumexp(1)

    def component(self, x: Tensor) -> Tensor:  # (n, 2) -> (n,) int64
        """The component that x most likely comes from."""
        return self.component_log_prob(x).argmax(1)

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, 2)
        self._check(out, "out")
        counter: dict[str, Any] = {"seed": seed, "step": step, "chain_offset": chain_offset}
        u = uniform_(torch.empty(len(out), 3, device=out.device), purpose="toy_position", **counter).double()
        z = normal_(torch.empty(len(out), 2, device=out.device), purpose="toy_noise", **counter).double()
        # u is in (0, 1], so that the ceiling is in 1 ... K.
        chosen = (u[:, 0] * self.num_components).ceil().long() - 1
        return out.copy_(self._draw(chosen, u[:, 1:], z))

    def _log_components(self, x: Tensor) -> Tensor:  # (n, 2) -> (n, K)
        raise NotImplementedError

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:  # (n,), (n, 2), (n, 2) -> (n, 2)
        """States of the chosen components from uniforms in (0, 1] and normals, all float64."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"std={self.std.item():g}"


class EightGaussians(Toy):
    """p_k = N(c_k, std^2 I), the centres c_k evenly on a circle."""

    num_components = 8
    centres: Tensor

    def __init__(self, radius: float = 2.0 * math.sqrt(2.0), std: float = 0.25 * math.sqrt(2.0)) -> None:
        super().__init__(std)
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4.0)
        self.register_buffer("centres", radius * torch.stack([angle.cos(), angle.sin()], 1))

    def _log_components(self, x: Tensor) -> Tensor:
        r = x.unsqueeze(1) - self.centres.to(x.dtype)
        std = self.std.to(x.dtype)
        return -0.5 * (r / std).square().sum(2) - (2.0 * std.log() + LOG_2PI)

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return self.centres[chosen] + self.std.double() * z


class Curves(Toy):
    """p_k(x) = int w(t) N(x; c_k(t), std^2 I) dt: points along curves, blurred.

    The integral is a Gauss-Legendre sum over `num_nodes` nodes, whose error falls as exp(-2 pi^2 (std / h)^2) in their spacing
    h and is below rounding for the curves here.
    """

    nodes: Tensor  # (K, M, 2)
    log_weights: Tensor  # (M,)

    def __init__(self, std: float, num_nodes: int) -> None:
        super().__init__(std)
        points, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(num_nodes))
        u = 0.5 * (points + 1.0)
        components = torch.arange(self.num_components).unsqueeze(1)
        self.register_buffer("nodes", self._curve(components, self._parameter(u).unsqueeze(0)))
        self.register_buffer("log_weights", (0.5 * weights * self._weight(u)).log())

    def _curve(self, k: Tensor, t: Tensor) -> Tensor:  # components and parameters that broadcast -> (..., 2)
        raise NotImplementedError

    def _parameter(self, u: Tensor) -> Tensor:
        """The curve's parameter at quadrature points u in (0, 1)."""
        raise NotImplementedError

    def _weight(self, u: Tensor) -> Tensor:
        """Density of u among the draws, 1 where they are uniform in u."""
        return torch.ones_like(u)

    def _position(self, u: Tensor) -> Tensor:
        """The curve's parameter of a draw from a uniform u."""
        return self._parameter(u)

    def _log_components(self, x: Tensor) -> Tensor:
        # -|x - c|^2 / 2 s^2 by one matrix product, in float64 because the parts of the square cancel.
        k, m, _ = self.nodes.shape
        precision, nodes, rows = self.std.double() ** -2, self.nodes.double().view(-1, 2), x.double()
        bias = self.log_weights.double().repeat(k) - 0.5 * precision * nodes.square().sum(1)
        pieces = [
            torch.addmm(bias, piece, precision * nodes.T).view(-1, k, m).logsumexp(2)
            for piece in rows.split(max(1, PAIRS // (k * m)))
        ]
        squares = 0.5 * precision * rows.square().sum(1, keepdim=True)
        return (torch.cat(pieces) - squares + (precision.log() - LOG_2PI)).to(x.dtype)

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return self._curve(chosen, self._position(u[:, 0])) + self.std.double() * z


class TwoMoons(Curves):
    """Two interleaved half circles, uniform in the angle, blurred: scikit-learn's make_moons, twice as large."""

    num_components = 2

    def __init__(self, std: float = 0.2) -> None:
        super().__init__(std, 100)

    def _curve(self, k: Tensor, t: Tensor) -> Tensor:
        sign = 1.0 - 2.0 * k
        x, y = sign * t.cos() + k, sign * t.sin() + 0.5 * k
        return torch.stack([2.0 * x - 1.0, 2.0 * y - 0.5], -1)

    def _parameter(self, u: Tensor) -> Tensor:
        return math.pi * u


class TwoSpirals(Curves):
    """Two arms c(t) = +-t (-cos t, sin t) / 3, t = 3 pi sqrt(u), u uniform, blurred: denser outside, even along the arm."""

    num_components = 2

    def __init__(self, std: float = 0.12) -> None:
        super().__init__(std, 400)

    def _curve(self, k: Tensor, t: Tensor) -> Tensor:
        length = (1.0 - 2.0 * k) * t / 3.0
        return torch.stack([-length * t.cos(), length * t.sin()], -1)

    def _parameter(self, u: Tensor) -> Tensor:  # u is t / 3 pi, in which the integrand is smooth
        return 3.0 * math.pi * u

    def _weight(self, u: Tensor) -> Tensor:
        return 2.0 * u

    def _position(self, u: Tensor) -> Tensor:
        return 3.0 * math.pi * u.sqrt()


class Checkerboard(Toy):
    """The eight black squares of a 4 x 4 board of side 8, blurred by N(0, std^2 I): products of differences of normal tails."""

    num_components = 8
    centres: Tensor

    def __init__(self, std: float = 0.1) -> None:
        super().__init__(std)
        squares = [(-3.0 + 2.0 * i, -3.0 + 2.0 * j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
        self.register_buffer("centres", torch.tensor(squares, dtype=torch.float64))

    @property
    def width(self) -> float:
        return math.sqrt(1.0 / 3.0 + self.std.item() ** 2)

    def _log_components(self, x: Tensor) -> Tensor:
        # Phi(b) - Phi(a) from the tail on the side of x, where the two do not cancel.
        r = (x.unsqueeze(1) - self.centres.to(x.dtype)).abs()
        std = self.std.to(x.dtype)
        near, far = torch.special.log_ndtr((1.0 - r) / std), torch.special.log_ndtr((-1.0 - r) / std)
        return (near + torch.log1p(-(far - near).exp())).sum(2) - math.log(4.0)

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return self.centres[chosen] + (2.0 * u - 1.0) + self.std.double() * z


class Pinwheel(Toy):
    """Five Gaussian blades, each point turned by an angle that grows with its distance from the middle.

    x = 2 R(2 pi k / 5 + exp(|f|) / 4) f, f ~ N((1, 0), diag(0.3^2, std^2)). Turning by an angle that hangs on |f| alone keeps
    areas, so that p_k(x) = N(f; ...) / 4. (The usual pinwheel's angle hangs on the first coordinate of f.)
    """

    num_components = 5

    def __init__(self, std: float = 0.1) -> None:
        super().__init__(std)

    @property
    def width(self) -> float:
        """Turning shears a blade by r exp(r) / 4, and so thins it; here at one standard deviation outside of its middle."""
        return 2.0 * self.std.item() / math.hypot(1.0, 1.3 * math.exp(1.3) / 4.0)

    @staticmethod
    def _turned(f: Tensor, angle: Tensor) -> Tensor:
        c, s = angle.cos(), angle.sin()
        return torch.stack([c * f[..., 0] - s * f[..., 1], s * f[..., 0] + c * f[..., 1]], -1)

    def _log_components(self, x: Tensor) -> Tensor:
        f = x / 2.0
        # The gradient of |f| does not exist at 0, where the density is negligible and must not become NaN.
        radius = f.square().sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        blade = torch.arange(5, dtype=x.dtype, device=x.device) * (2.0 * math.pi / 5.0)
        # Beyond 5 the density is 0 in float32, and exp(|f|) must not overflow.
        f = self._turned(f.unsqueeze(1), -(blade + radius.clamp_max(5.0).exp() / 4.0))
        std = self.std.to(x.dtype)
        log_p = -0.5 * ((f[..., 0] - 1.0) / 0.3).square() - 0.5 * (f[..., 1] / std).square()
        return log_p - (math.log(0.3 * 4.0) + std.log() + LOG_2PI)

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:
        f = torch.stack([1.0 + 0.3 * z[:, 0], self.std.double() * z[:, 1]], 1)
        radius = torch.linalg.vector_norm(f, dim=1)
        return 2.0 * self._turned(f, chosen * (2.0 * math.pi / 5.0) + radius.clamp_max(5.0).exp() / 4.0)


class Rings(Toy):
    """Circles about the origin, blurred: p_k(x) = exp(-(|x|^2 + r_k^2) / 2 std^2) I_0(|x| r_k / std^2) / (2 pi std^2)."""

    radii: Tensor

    def __init__(self, radii: Sequence[float] = (1.0, 2.0, 3.0), std: float = 0.15) -> None:
        super().__init__(std)
        self.num_components = len(radii)
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64))

    def _log_components(self, x: Tensor) -> Tensor:
        std, radii = self.std.to(x.dtype), self.radii.to(x.dtype)
        distance = x.square().sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        # i0e is I_0(t) exp(-t), which completes the square.
        log_i0 = torch.special.i0e(distance * radii / std.square()).log()
        return -0.5 * ((distance - radii) / std).square() + log_i0 - (2.0 * std.log() + LOG_2PI)

    def _draw(self, chosen: Tensor, u: Tensor, z: Tensor) -> Tensor:
        angle = 2.0 * math.pi * u[:, 0]
        return self.radii[chosen, None] * torch.stack([angle.cos(), angle.sin()], 1) + self.std.double() * z


TOYS: dict[str, Callable[[], Toy]] = {
    "8gaussians": EightGaussians,
    "moons": TwoMoons,
    "spirals": TwoSpirals,
    "checkerboard": Checkerboard,
    "pinwheel": Pinwheel,
    "rings": Rings,
}
"""Name on the command line -> toy with its usual numbers."""


def make_toy(name: str) -> Toy:
    """The toy of that name; ValueError with the known names otherwise."""
    if name not in TOYS:
        raise ValueError(f"toy: expected one of {', '.join(TOYS)}, got {name!r}")
    return TOYS[name]()
