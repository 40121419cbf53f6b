"""Grids of images and of chains over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 6.0  # inches across one grid
_BACKGROUND = 1.0


def sample_grid(
    images: torch.Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """One picture that holds every image, row by row.

    Args:
        images: (n, 1, H, W) grey or (n, 3, H, W) colour, in ``value_range``; values outside it are clipped.
        columns: images in a row; by default as many as make the grid square.
        value_range: the values shown as black and as white.
        title: printed above the grid.

    Raises:
        TypeError, ValueError: ``images``, ``columns`` or ``value_range`` is not as described.
    """
    grid = _mosaic(images, "images", columns, value_range)
    figure = _figure(_WIDTH, _height(grid) + (0.3 if title else 0.0))
    _show(figure.add_subplot(), grid, title)
    return figure


def grids_side_by_side(
    samples: torch.Tensor,
    real: torch.Tensor,
    titles: tuple[str, str] = ("samples", "real data"),
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Figure:
    """A grid of samples on the left and one of real images, with the same layout, on the right.

    Args:
        samples: (n, 1, H, W) or (n, 3, H, W).
        real: (m, C, H, W); at most n of them are shown, so that the eye compares like with like.
        titles: what stands above each grid.
        columns, value_range: as in `sample_grid`.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    if len(titles) != 2:
        raise ValueError(f"titles: expected two strings, got {len(titles)}")
    left = _mosaic(samples, "samples", columns, value_range)
    columns = columns or math.ceil(math.sqrt(len(samples)))
    right = _mosaic(real[: len(samples)], "real", columns, value_range)
    figure = _figure(2 * _WIDTH, max(_height(left), _height(right)) + 0.3)
    for axes, grid, title in zip(figure.subplots(1, 2), (left, right), titles, strict=True):
        _show(axes, grid, title)
    return figure


def chains_over_time(
    frames: torch.Tensor,
    steps: Sequence[int],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """One row per chain and one column per recorded step, the initial state on the left.

    Args:
        frames: (T, n, 1, H, W) or (T, n, 3, H, W), the state of n chains at T moments.
        steps: T step numbers, printed below the columns.
        value_range: the values shown as black and as white.
        title: printed above the grid.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    if not isinstance(frames, torch.Tensor):
        raise TypeError(f"frames: expected a tensor, got {type(frames).__name__}")
    if frames.ndim != 5:
        raise ValueError(f"frames: expected shape (T, n, 1 or 3, H, W), got {tuple(frames.shape)}")
    if len(steps) != len(frames):
        raise ValueError(f"steps: expected {len(frames)} step numbers, one per frame, got {len(steps)}")
    num_frames, num_chains, _, height, width = frames.shape
    by_chain = frames.transpose(0, 1).flatten(0, 1)
    grid = _mosaic(by_chain, "frames", num_frames, value_range)
    gap = _gap(height)
    figure = _figure(1.5 * _WIDTH, 1.45 * _height(grid) + (0.75 if title else 0.5))
    axes = figure.add_subplot()
    _show(axes, grid, title)
    axes.set_xticks(gap + (width + gap) * np.arange(num_frames) + (width - 1) / 2, [f"{s:,}" for s in steps])
    axes.set_yticks(
        gap + (height + gap) * np.arange(num_chains) + (height - 1) / 2,
        [str(i + 1) for i in range(num_chains)],
    )
    axes.tick_params(length=0)
    axes.set_xlabel("sampling step")
    axes.set_ylabel("chain")
    return figure


def _mosaic(images: Any, name: str, columns: int | None, value_range: tuple[float, float]) -> np.ndarray:
    """(n, C, H, W) in ``value_range`` to one (rows, columns) or (rows, columns, 3) array in [0, 1]."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(f"{name}: expected shape (n, 1 or 3, H, W) with n >= 1, got {tuple(images.shape)}")
    if columns is not None and columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range: expected (low, high) with low < high, got {value_range}")
    n, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    values = ((images.detach().double().cpu() - low) / (high - low)).clamp(0, 1).movedim(1, -1).numpy()
    gap = _gap(height)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), _BACKGROUND)
    for i, image in enumerate(values):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        grid[top : top + height, left : left + width] = image
    return grid[..., 0] if channels == 1 else grid


def _gap(height: int) -> int:
    """Pixels of background between two images."""
    return max(1, height // 12)


def _height(grid: np.ndarray) -> float:
    return _WIDTH * grid.shape[0] / grid.shape[1]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _show(axes: Any, grid: np.ndarray, title: str | None) -> None:
    axes.imshow(grid, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
