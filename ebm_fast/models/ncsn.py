"""A noise-conditional score network for images: a small U-Net."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_fast.models.score_mlp import LevelEmbedding, NoiseConditional


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


class _Block(nn.Module):
    """x + conv(silu(scale(e) norm(conv(silu(norm(x)))) + shift(e))), with a 1 x 1 convolution of x where channels change."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(out)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.level = nn.Linear(embedding, 2 * out) if embedding else None
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.level is not None:
            scale, shift = self.level(e)[:, :, None, None].chunk(2, 1)
            h = h * (1.0 + scale) + shift
        return self.skip(x) + self.conv2(functional.silu(h))


class NCSN(NoiseConditional):
    """s(x, sigma) of the form of `NoiseConditional`, F a U-Net: residual blocks at each resolution, skip connections.

    Args:
        in_channels, image_size: of the images; image_size is the side, or (height, width), of any size.
        channels: at each resolution, from the full one down; each next is half as large.
        conditional: False makes s(x), without levels.
        data_std: tau, the standard deviation of the data (about 0); 0.5 suits images in (-1, 1).
        embedding: numbers that sigma is turned into.
        num_classes: with classes the network takes y # (n,) int64.

    Group normalisation over 8 groups (or what divides the channels), no statistics over the batch; SiLU throughout.
    Raises TypeError or ValueError naming the argument.
    Source: Song and Ermon 2019 (noise-conditional score networks), whose RefineNet this replaces by the U-Net of
    Ho, Jain, Abbeel 2020 without attention.
    """

    def __init__(
        self, in_channels: int = 1, image_size: int | tuple[int, int] = 28, channels: Sequence[int] = (32, 64, 64), *,
        conditional: bool = True, data_std: float = 0.5, embedding: int = 64, num_classes: int | None = None,
    ) -> None:  # fmt: skip
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        super().__init__((in_channels, *sides), data_std, conditional)
        if not channels or any(type(c) is not int or c < 1 for c in (in_channels, *channels)):
            raise ValueError(f"in_channels, channels: expected ints of at least 1, got {in_channels}, {tuple(channels)}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes: expected None or >= 1, got {num_classes}")
        self.num_classes = num_classes
        width = embedding if conditional or num_classes is not None else 0
        if conditional:
            self.embedding = nn.Sequential(LevelEmbedding(embedding), nn.Linear(embedding, embedding), nn.SiLU())
        if num_classes is not None:
            self.classes = nn.Embedding(num_classes, embedding)
        self.first = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(c, c, width) for c in channels)
        self.shrink = nn.ModuleList(nn.Conv2d(c, d, 3, 2, 1) for c, d in itertools.pairwise(channels))
        self.middle = _Block(channels[-1], channels[-1], width)
        self.grow = nn.ModuleList(nn.Conv2d(d, c, 3, padding=1) for c, d in itertools.pairwise(channels))
        self.up = nn.ModuleList(_Block(2 * c, c, width) for c in channels)
        self.last = nn.Sequential(_norm(channels[0]), nn.SiLU(), nn.Conv2d(channels[0], in_channels, 3, padding=1))

    def network(
        self,
        u: Tensor,  # (n, channels, height, width)
        sigma: Tensor | None,  # (n,)
        y: Tensor | None = None,  # (n,) int64
    ) -> Tensor:  # (n, channels, height, width)
        """F(u, sigma)."""
        if (y is not None) != (self.num_classes is not None):
            raise ValueError(f"y: this network has num_classes={self.num_classes}, got {'no' if y is None else ''} labels")
        e = None if sigma is None else self.embedding(sigma.to(u.dtype))
        if y is not None:
            e = self.classes(y) if e is None else e + self.classes(y)
        h, skips = self.first(u), []
        for i, block in enumerate(self.down):
            h = block(h, e)
            skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        h = self.middle(h, e)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = self.grow[i](functional.interpolate(h, size=skips[i].shape[2:], mode="nearest"))
            h = self.up[i](torch.cat([h, skips[i]], 1), e)
        return self.last(h)
