"""Convolutional energies, among them networks A, B, C of the thesis on self-adapting NCE (Table 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "silu": lambda slope: nn.SiLU(),
    "leaky_relu": lambda slope: nn.LeakyReLU(slope),
    "elu": lambda slope: nn.ELU(),
    "gelu": lambda slope: nn.GELU(),
    "softplus": lambda slope: nn.Softplus(),
    "relu": lambda slope: nn.ReLU(),
}


class ConvNetEnergy(nn.Module):
    """E(x) = linear(act(... conv(x))): convolutions, flatten, fully connected layers, activation between all layers.

    With `num_classes` the last layer has one output a class, E(x, y), and the energy of x alone is the marginal
    E(x) = -log sum_y exp(-E(x, y)), so that p(x) = sum_y p(x, y) holds exactly.

    `image_size`: side, or (height, width). `channels`: per convolution its output channels, or in full (kernel,
    stride, padding, output channels) as in the thesis's table; a bare number means (3, 1, 1) for the first layer,
    which keeps the size, and (4, 2, 1) for the others, which halve it. `channels=()` leaves an MLP. `hidden`: widths
    of the fully connected layers before the last. `negative_slope` is leaky_relu's.
    Raises ValueError for an unknown activation and for layers that leave no pixel.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 8,
        channels: Sequence[int | tuple[int, int, int, int]] = (32, 64, 128),
        hidden: Sequence[int] = (128,),
        *,
        activation: str = "silu",
        negative_slope: float = 0.2,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation: expected one of {sorted(_ACTIVATIONS)}, got {activation!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes: expected None or >= 1, got {num_classes}")
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        for name, value in (("in_channels", in_channels), *(("image_size", side) for side in sides)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: expected an int of at least 1, got {value!r}")
        self.in_shape = (in_channels, *sides)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        width = in_channels
        for i, entry in enumerate(channels):
            default = (3, 1, 1) if i == 0 else (4, 2, 1)
            kernel, stride, padding, out = (*default, entry) if isinstance(entry, int) else entry
            sides = tuple((side + 2 * padding - kernel) // stride + 1 for side in sides)
            if min(sides) < 1:
                raise ValueError(
                    f"channels: convolution {i} of {tuple(channels)} leaves no pixel of {self.in_shape}"
                )
            layers += [
                nn.Conv2d(width, out, kernel, stride, padding),
                _ACTIVATIONS[activation](negative_slope),
            ]
            width = out
        layers.append(nn.Flatten())
        width *= sides[0] * sides[1]
        for out in hidden:
            layers += [nn.Linear(width, out), _ACTIVATIONS[activation](negative_slope)]
            width = out
        layers.append(nn.Linear(width, num_classes or 1))
        self.layers = nn.Sequential(*layers)

    def forward(
        self,
        x: Tensor,  # (n, channels, height, width)
        y: Tensor | None = None,  # (n,) int64
    ) -> Tensor:  # (n,)
        """E(x), or E(x, y) where labels are given."""
        if tuple(x.shape[1:]) != self.in_shape:
            raise ValueError(f"x: expected (n, {', '.join(map(str, self.in_shape))}), got {tuple(x.shape)}")
        energies = self.layers(x)
        if self.num_classes is None:
            if y is not None:
                raise ValueError("y: this energy has no classes (num_classes=None), got labels")
            return energies.squeeze(1)
        if y is None:
            return -torch.logsumexp(-energies, 1)
        return energies.gather(1, y.unsqueeze(1)).squeeze(1)


def thesis_convnet(name: str, **options: Any) -> ConvNetEnergy:
    """Network "A" (1, 28, 28), "B" or "C" (3, 32, 32) of Table 5.1; `options` go to `ConvNetEnergy`.

    A: (3,1,1)x64, (4,2,1)x128, (4,2,1)x256, (3,2,1)x256, (4,1,0)x1024, FC-512, FC-1.
    B: the same with (4,2,1)x256 in the fourth place. C: with (4,2,1)x512 there and FC-512, FC-256, FC-1.
    Leaky ReLU throughout; the thesis leaves its slope open, here 0.2. Spectral normalisation is not applied here.
    Source: "Self-Adapting Noise-Contrastive Estimation for Energy-Based Models" (2022), Table 5.1, whose cells
    over several columns are read as shared by those networks: the one reading that ends in 1 x 1 pixels for all three.
    """
    tables: dict[str, tuple[int, int, tuple[int, int, int, int], tuple[int, ...]]] = {
        "A": (1, 28, (3, 2, 1, 256), (512,)),
        "B": (3, 32, (4, 2, 1, 256), (512,)),
        "C": (3, 32, (4, 2, 1, 512), (512, 256)),
    }
    if name not in tables:
        raise ValueError(f"name: expected one of {list(tables)}, got {name!r}")
    in_channels, side, fourth, hidden = tables[name]
    channels = ((3, 1, 1, 64), (4, 2, 1, 128), (4, 2, 1, 256), fourth, (4, 1, 0, 1024))
    return ConvNetEnergy(in_channels, side, channels, hidden, **{"activation": "leaky_relu", **options})
