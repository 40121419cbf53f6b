"""Score networks that know the noise level: their common form, an MLP, and energies made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_fast.ops import checks


class LevelEmbedding(nn.Module):
    """e(sigma) = (cos, sin)(2 pi f_j ln sigma), f_j geometric from 1/32 to 1: `width` numbers (even) that tell levels apart."""

    frequencies: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        if type(width) is not int or width < 2 or width % 2:
            raise ValueError(f"width: expected an even int of at least 2, got {width!r}")
        self.register_buffer("frequencies", torch.logspace(-5, 0, width // 2, base=2.0))

    def forward(self, sigma: Tensor) -> Tensor:  # (n,) -> (n, width)
        angles = 2.0 * math.pi * sigma.log().unsqueeze(1) * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1)


class NoiseConditional(nn.Module):
    """s(x, sigma) = -c^2 x + (tau c / sigma) F(c x, sigma), c = 1 / sqrt(sigma^2 + tau^2).

    The first term is the score of N(0, (tau^2 + sigma^2) I), so that the network F has inputs, and in denoising score matching
    with lambda = sigma^2 targets, of size 1 at every level. Without levels, s(x) = F(x / tau) / tau.

    A subclass defines `network(u, sigma, y)` # (n, *event), (n,) or None, (n,) or None -> (n, *event).
    `data_std`: tau, the standard deviation of the data (about 0). `conditional`: whether there are levels.
    Source: Karras et al. 2022, eqs. (7), (8), as a score.
    """

    def __init__(self, event_shape: Sequence[int], data_std: float, conditional: bool) -> None:
        super().__init__()
        if not (tau := checks.number(data_std, "data_std", low=0.0)) > 0.0:
            raise ValueError(f"data_std must be above 0, got {tau}")
        self.event_shape, self.data_std, self.conditional = tuple(event_shape), tau, conditional

    def network(self, u: Tensor, sigma: Tensor | None, y: Tensor | None = None) -> Tensor:
        """F(u, sigma)."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,  # (n, *event)
        sigma: Tensor | None = None,  # (n,)
        y: Tensor | None = None,  # (n,) int64, of a network with classes
    ) -> Tensor:  # (n, *event)
        """s(x, sigma), or s(x) of a network without levels."""
        self.check(x, sigma)
        if sigma is None:
            return self.network(x / self.data_std, None, y) / self.data_std
        s, c = self.coefficients(x, sigma)
        return (self.data_std / s * c) * self.network(c * x, sigma, y) - c.square() * x

    def check(self, x: Tensor, sigma: Tensor | None) -> None:
        """Shapes, and sigma where it belongs."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x: expected (n, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}")
        if (sigma is not None) != self.conditional:
            wanted = "needs sigma=" if self.conditional else "has no levels (conditional=False): no sigma="
            raise ValueError(f"sigma: this network {wanted}, got {'None' if sigma is None else 'a tensor'}")
        if sigma is not None and sigma.shape != x.shape[:1]:
            raise ValueError(f"sigma: expected one level a state, ({len(x)},), got {tuple(sigma.shape)}")

    def coefficients(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma and c, # (n, 1, ..., 1)."""
        s = sigma.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return s, (s.square() + self.data_std**2).rsqrt()


class ScoreMLP(NoiseConditional):
    """s(x, sigma) of the form of `NoiseConditional`, F a multilayer perceptron that adds an embedding of sigma in each layer.

    Args:
        dim: numbers in an event # (dim,).
        widths: of the hidden layers.
        conditional: False makes s(x), for the objectives without levels.
        data_std: tau, the standard deviation of the data (about 0).
        embedding: numbers that sigma is turned into.

    Activations are SiLU: smooth, as traces of Jacobians and energies made of scores need.
    Raises TypeError or ValueError naming the argument.
    """

    def __init__(
        self, dim: int, widths: Sequence[int] = (128, 128, 128), *, conditional: bool = True, data_std: float = 1.0,
        embedding: int = 16,
    ) -> None:  # fmt: skip
        super().__init__((dim,), data_std, conditional)
        sizes = (dim, *widths)
        if not widths or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"dim, widths: expected ints of at least 1 and a hidden layer, got {dim}, {tuple(widths)}")
        self.hidden = nn.ModuleList(nn.Linear(into, out) for into, out in itertools.pairwise(sizes))
        self.last = nn.Linear(sizes[-1], dim)
        if conditional:
            self.embedding = LevelEmbedding(embedding)
            self.levels = nn.ModuleList(nn.Linear(embedding, out, bias=False) for out in widths)

    def network(self, u: Tensor, sigma: Tensor | None, y: Tensor | None = None) -> Tensor:
        """F(u, sigma)."""
        if y is not None:
            raise ValueError("y: this network has no classes, got labels")
        level = None if sigma is None else self.embedding(sigma.to(u.dtype))
        for i, layer in enumerate(self.hidden):
            u = layer(u)
            u = functional.silu(u if level is None else u + self.levels[i](level))
        return self.last(u)


class NoiseConditionalEnergy(nn.Module):
    """E(x, sigma) = 1/2 |u|^2 - (tau / sigma) <u, F(u, sigma)>, u = c x, c = 1 / sqrt(sigma^2 + tau^2), F of a score network.

    An energy of the same size, cost and scaling as the score network it is made of; its score -grad E = -c^2 x +
    (tau c / sigma) (F + J'u) is a gradient, which the network's own output need not be.
    `network`: a conditional `ScoreMLP`, `NCSN` or other `NoiseConditional`. Source: Salimans and Ho 2021 (inner product).
    """

    def __init__(self, network: NoiseConditional) -> None:
        super().__init__()
        if not isinstance(network, NoiseConditional) or not network.conditional:
            raise TypeError(
                f"network: expected a NoiseConditional network with conditional=True, got {type(network).__name__}"
            )
        self.network = network

    def forward(
        self,
        x: Tensor,  # (n, *event)
        sigma: Tensor,  # (n,)
        y: Tensor | None = None,  # (n,) int64, of a network with classes
    ) -> Tensor:  # (n,)
        """E(x, sigma)."""
        net = self.network
        net.check(x, sigma)
        s, c = net.coefficients(x, sigma)
        u = c * x
        product = (u * net.network(u, sigma, y)).flatten(1).sum(1)
        return 0.5 * u.flatten(1).square().sum(1) - net.data_std / s.flatten() * product
