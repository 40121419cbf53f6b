"""Chains of numbers: traces over time and histograms of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .canvas import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 8  # chains shown: more colours than these cannot be told apart


def traces(
    values: torch.Tensor, *, thin: int = 1, label: str = "x", title: str | None = None, axes: Axes | None = None
) -> Figure:
    """One line per chain, over the steps; of more than 8 chains the first 8 are shown.

    A chain that mixes looks like grass. A line that stays, drifts, or keeps to a level of its own has not found the distribution.

    Args:
        values: (T, n), one number per step and chain, such as ``run.samples[..., 0]`` or ``run.stats.energy``.
        thin: steps between two rows, for the numbers along the axis.
        label: what the number is.
        axes: where to draw; a new figure by default.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    shown = _rows(values)[:, :_MOST]
    if type(thin) is not int or thin < 1:
        raise ValueError(f"thin: expected an int of at least 1, got {thin!r}")
    figure, axes = place(axes, 8.0, 3.2)
    steps = thin * np.arange(1, len(shown) + 1)
    for chain in range(shown.shape[1]):
        axes.plot(steps, shown[:, chain], color=f"C{chain}", linewidth=0.8)
    axes.set(xlabel="step", ylabel=label, xlim=(0, steps[-1]))
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title)
    return figure


def ranks(values: torch.Tensor, *, bins: int = 20, title: str | None = None, axes: Axes | None = None) -> Figure:
    """Histogram of each chain's ranks among the draws of all chains, one row per chain, around the level of equal shares.

    Chains that agree have flat rows. A slope means another location than the other chains', a bulge or a hollow another spread.
    Ties get the mean of their ranks. Of more than 8 chains the first 8 are shown, ranked among all.

    Args:
        values: (T, n), one number per step and chain, n >= 2.
        bins: bins of the ranks, at most T n.
        axes: where to draw; a new figure by default.

    Raises:
        TypeError, ValueError: an argument is not as described.

    Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, section 4.3.
    """
    numbers = _rows(values)
    draws, chains = numbers.shape
    if chains < 2:
        raise ValueError(f"values: expected two chains or more to compare, got shape {tuple(numbers.shape)}")
    if type(bins) is not int or not 1 <= bins <= numbers.size:
        raise ValueError(f"bins: expected an int between 1 and the {numbers.size} draws, got {bins!r}")
    _, row, count = np.unique(numbers, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[row].reshape(numbers.shape)  # from 1, ties at their mean
    edges = np.linspace(0.5, numbers.size + 0.5, bins + 1)
    shown = min(chains, _MOST)
    figure, axes = place(axes, 8.0, 1.2 + 0.5 * shown)
    heights = [np.histogram(rank[:, chain], edges)[0] * bins / draws for chain in range(shown)]
    unit = min(0.6, 0.95 / max(height.max() for height in heights))  # no bar reaches into the row above
    for chain, height in enumerate(heights):
        base = shown - 1 - chain
        axes.bar(edges[:-1], height * unit, np.diff(edges), base, align="edge", color=f"C{chain}", alpha=0.75)
        axes.axhline(base + unit, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks([shown - 1 - chain + 0.3 for chain in range(shown)], [str(chain + 1) for chain in range(shown)])
    axes.set(xlabel="rank among the draws of all chains", ylabel="chain", xlim=(edges[0], edges[-1]))
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title)
    return figure


def _rows(values: Any) -> np.ndarray:
    """(T, n) finite numbers on the host."""
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"values: expected a tensor, got {type(values).__name__}")
    if values.ndim != 2 or not values.numel():
        hint = "; take one number of each event, as in samples[..., 0]" if values.ndim > 2 else ""
        raise ValueError(f"values: expected shape (T, n) with at least one draw and chain, got {tuple(values.shape)}{hint}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("values: expected finite numbers, got NaN or infinity")
    return values.detach().double().cpu().numpy()
