"""Latent-variable models: tilted priors, generators with a likelihood, their joint energy, implicit encoders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_fast.ops import checks

LOG_2PI = math.log(2.0 * math.pi)


class LatentPrior(nn.Module):
    """E(z) = V(z) - log N(z; 0, s^2 I): the prior p(z) ~ e^{U(z)} N(z; 0, s^2 I) of a latent energy-based model, U = -V.

    Args:
        event_shape: of a latent, an int for vectors.
        tilt: V, an energy (n, *latent) -> (n,), such as `energies.MLPEnergy`; None leaves the Gaussian, whose E is then -log p.
        std: s.

    Raises TypeError or ValueError naming the argument. Source: Pang, Han, Nijkamp, Zhu, Wu 2020; lecture notes on
    latent-variable models (StatML 2024), (16).
    """

    def __init__(
        self, event_shape: int | Sequence[int], tilt: Callable[..., Tensor] | None = None, *, std: float = 1.0
    ) -> None:
        super().__init__()
        sizes = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"event_shape: expected ints of at least 1, got {event_shape!r}")
        if tilt is not None and (not callable(tilt) or isinstance(tilt, type)):
            raise TypeError(f"tilt: expected an energy (n, *latent) -> (n,) or None, got {tilt!r}")
        self.event_shape, self.tilt, self.std = sizes, tilt, _positive(std, "std")
        self._constant = math.prod(sizes) * (math.log(self.std) + 0.5 * LOG_2PI)

    def forward(self, z: Tensor) -> Tensor:  # (n, *latent) -> (n,)
        """E(z)."""
        if tuple(z.shape[1:]) != self.event_shape:
            raise ValueError(f"z: expected (n, {', '.join(map(str, self.event_shape))}), got {tuple(z.shape)}")
        base = (0.5 / self.std**2) * z.flatten(1).square().sum(1) + self._constant
        return base if self.tilt is None else self.tilt(z) + base

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, std={self.std}"


class GaussianGenerator(nn.Module):
    """p(x | z) = N(x; g(z), s^2 I): log p(x | z) = -|x - g(z)|^2 / (2 s^2) - d log s - d/2 log 2 pi.

    `network`: g, (n, *latent) -> (n, *event). `std`: s; with `trainable_std` log s is a parameter.
    `generator(z)` is the mean g(z). Raises TypeError or ValueError naming the argument.
    """

    def __init__(self, network: nn.Module, std: float = 1.0, *, trainable_std: bool = False) -> None:
        super().__init__()
        self.network = _module(network)
        like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
        dtype = torch.promote_types(like.dtype, torch.float32)
        log_std = torch.tensor(math.log(_positive(std, "std")), dtype=dtype, device=like.device)
        if trainable_std:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, z: Tensor) -> Tensor:  # (n, *latent) -> (n, *event)
        """g(z)."""
        return self.network(z)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:  # (n, *event), (n, *latent) -> (n,)
        """log p(x | z)."""
        residual = (x - _checked(self.network(z), x)).flatten(1)
        square = residual.square().sum(1)
        return -0.5 * (-2.0 * self.log_std).exp() * square - residual.shape[1] * (self.log_std + 0.5 * LOG_2PI)


class BernoulliGenerator(nn.Module):
    """p(x | z) = prod_j m_j^x_j (1 - m_j)^(1 - x_j), m = sigmoid(g(z)), for x in [0, 1].

    `network`: g, the logits, (n, *latent) -> (n, *event). `generator(z)` is the mean m. Raises TypeError naming the argument.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = _module(network)

    def forward(self, z: Tensor) -> Tensor:  # (n, *latent) -> (n, *event)
        """sigmoid(g(z))."""
        return self.network(z).sigmoid()

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:  # (n, *event), (n, *latent) -> (n,)
        """log p(x | z)."""
        logits = _checked(self.network(z), x)
        return (x * logits - functional.softplus(logits)).flatten(1).sum(1)


class DeconvNet(nn.Module):
    """g(z): a linear layer, transposed convolutions (4, 2, 1) that double the side, leaky ReLU of slope 0.2 between, [tanh].

    A generator's network for images: means in (-1, 1) with `tanh`, logits or unbounded means without.
    `channels`: before each doubling, so that the first map has image_size / 2^len(channels) pixels a side.
    `generator = GaussianGenerator(DeconvNet(32, 3, 32, (256, 128, 64)), std=0.3)`, for example.
    Raises ValueError naming the argument. Source: Pang, Han, Nijkamp, Zhu, Wu 2020, whose generators are of this form.
    """

    def __init__(
        self, latent_dim: int, out_channels: int = 1, image_size: int = 8, channels: Sequence[int] = (64, 32), *,
        tanh: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = (latent_dim, out_channels, image_size, *channels)
        if not channels or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"latent_dim, out_channels, image_size, channels: expected ints of at least 1, got {sizes}")
        side, left = divmod(image_size, 2 ** len(channels))
        if left or not side:
            raise ValueError(
                f"image_size: expected a multiple of {2 ** len(channels)} for {len(channels)} doublings, got {image_size}"
            )
        layers: list[nn.Module] = [nn.Linear(latent_dim, channels[0] * side * side), nn.Unflatten(1, (channels[0], side, side))]
        for into, out in itertools.pairwise((*channels, out_channels)):
            layers += [nn.LeakyReLU(0.2), nn.ConvTranspose2d(into, out, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, *([nn.Tanh()] if tanh else []))

    def forward(self, z: Tensor) -> Tensor:  # (n, latent_dim) -> (n, out_channels, image_size, image_size)
        """g(z)."""
        return self.layers(z)


class JointEnergy(nn.Module):
    """E(z, x) = E_prior(z) - log p(x | z), called as energy(z, x=x): as a function of z, the energy of the posterior p(z | x).

    `prior`: an energy (n, *latent) -> (n,); `generator`: an object with `log_prob(x, z)`, such as `GaussianGenerator`. With a
    prior that is normalised (`LatentPrior` without tilt) it is -log p(x, z). Raises TypeError naming the argument.
    """

    prior: Any
    generator: Any

    def __init__(self, prior: Callable[..., Tensor], generator: Any) -> None:
        super().__init__()
        if not callable(prior) or isinstance(prior, type):
            raise TypeError(f"prior: expected an energy (n, *latent) -> (n,), got {prior!r}")
        if not callable(getattr(generator, "log_prob", None)) or isinstance(generator, type):
            raise TypeError(f"generator: expected an object with log_prob(x, z) -> (n,), got {generator!r}")
        self.prior, self.generator = prior, generator

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # (n, *latent), (n, *event) -> (n,)
        """E(z, x)."""
        prior, likelihood = self.prior(z), self.generator.log_prob(x, z)
        for name, values in (("prior", prior), ("generator", likelihood)):
            if tuple(values.shape) != (len(z),):
                raise ValueError(f"{name}: expected one number a latent, ({len(z)},), got {tuple(values.shape)}")
        return prior - likelihood


class ImplicitEncoder(nn.Module):
    """z = F([x, eps]), F a multilayer perceptron: samples of q(z | x), for eps ~ N(0, I), whose density is not known.

    `features`: numbers in an event; `noise_dim`, `latent_dim`: numbers in eps and z # (n, noise_dim), (n, latent_dim).
    Raises ValueError naming the argument.
    """

    def __init__(self, features: int, noise_dim: int, latent_dim: int, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.layers = _perceptron((features + noise_dim, *widths, latent_dim), (features, noise_dim, latent_dim, *widths))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:  # (n, *event), (n, noise_dim) -> (n, latent_dim)
        """z."""
        return self.layers(torch.cat([x.flatten(1), noise], 1))


class ConditionalScore(nn.Module):
    """s(z, x) = F([z, x]), F a multilayer perceptron: a score network of q(z | x), called as score(z, x=x).

    `latent_dim`, `features`: numbers in z # (n, latent_dim) and in an event. Raises ValueError naming the argument.
    """

    def __init__(self, latent_dim: int, features: int, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.layers = _perceptron((latent_dim + features, *widths, latent_dim), (latent_dim, features, *widths))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # (n, latent_dim), (n, *event) -> (n, latent_dim)
        """s(z, x)."""
        return self.layers(torch.cat([z, x.flatten(1)], 1))


def _perceptron(sizes: Sequence[int], checked: Sequence[int]) -> nn.Sequential:
    """Linear layers with SiLU, which is smooth, between."""
    if any(type(size) is not int or size < 1 for size in checked):
        raise ValueError(f"features, dimensions and widths: expected ints of at least 1, got {tuple(checked)}")
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(sizes):
        layers += [nn.Linear(into, out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _positive(value: float, name: str) -> float:
    if not (value := checks.number(value, name, low=0.0)) > 0.0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return value


def _module(network: nn.Module) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a torch module (n, *latent) -> (n, *event), got {network!r}")
    return network


def _checked(out: Tensor, x: Tensor) -> Tensor:
    if out.shape != x.shape:
        raise ValueError(f"network: expected its output to have the shape {tuple(x.shape)} of x, got {tuple(out.shape)}")
    return out
