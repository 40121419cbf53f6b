"""One- and two-dimensional densities with samples on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .canvas import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RED = "#d1495b"


def density_2d(
    energy: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor | None = None,
    limits: tuple[tuple[float, float], tuple[float, float]] = ((-4.0, 4.0), (-4.0, 4.0)),
    *,
    temperature: float = 1.0,
    resolution: int = 200,
    title: str | None = None,
    paths: torch.Tensor | None = None,
    axes: Axes | None = None,
) -> Figure:
    """p(x) = exp(−E(x)/T) / Z as an image, Z summed over the cells of the window, with the samples as dots.

    Args:
        energy: (n, 2) -> (n,); evaluated without gradients on ``resolution``² points in the dtype and on the
            device of ``samples`` or ``paths`` (float32 on the CPU without either).
        samples: (..., 2) or None, such as ``run.samples`` or ``run.final``; those outside the window are not shown.
        limits: ((x low, x high), (y low, y high)).
        temperature: T, above 0.
        resolution: cells along each side.
        paths: (T, m, 2) or None; m chains as lines through their T states, the first state as a ring.
        axes: where to draw, without a scale of colours; a new figure by default.

    Raises:
        TypeError, ValueError: an argument, or what ``energy`` returns, is not as described.
    """
    samples = _rows(samples, "samples", 2, "(n, 2) or (..., 2)")
    if paths is not None and _rows(paths, "paths", 2, "(T, m, 2)") is not None and paths.ndim != 3:
        raise ValueError(f"paths: expected shape (T, m, 2), got {tuple(paths.shape)}")
    if len(limits) != 2 or any(len(side) != 2 or not side[0] < side[1] for side in limits):
        raise ValueError(f"limits: expected ((low, high), (low, high)) with low < high, got {limits}")
    if resolution < 2:
        raise ValueError(f"resolution: expected at least 2, got {resolution}")

    (x_low, x_high), (y_low, y_high) = limits
    xs, ys = _cells(x_low, x_high, resolution), _cells(y_low, y_high, resolution)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2)
    like = samples if samples is not None else paths
    cell_area = (x_high - x_low) * (y_high - y_low) / resolution**2
    probability = _probability(energy, points, like, temperature).reshape(resolution, resolution)

    alone = axes is None
    figure, axes = place(axes, 6.4, 5.6)
    image = axes.imshow(
        (probability / cell_area).numpy(),
        origin="lower",
        extent=(x_low, x_high, y_low, y_high),
        cmap="Blues",
        aspect="auto",
    )
    if alone:
        figure.colorbar(image, ax=axes, label="density within the window")
    if samples is not None:
        dots = samples.detach().double().cpu().numpy()
        size = min(12.0, max(2.0, 4000.0 / max(len(dots), 1)))
        label = f"{len(dots):,} samples"
        axes.scatter(dots[:, 0], dots[:, 1], s=size, color=_RED, alpha=0.6, linewidths=0, label=label)
        axes.legend(frameon=True, loc="upper right", markerscale=2.0)
    if paths is not None:
        lines = paths.detach().double().cpu().numpy()
        for chain in range(lines.shape[1]):
            colour = f"C{1 + chain % 9}"
            axes.plot(*lines[:, chain].T, "-o", color=colour, linewidth=1.0, markersize=2.2, alpha=0.85)
            axes.plot(*lines[:1, chain].T, "o", color=colour, markersize=8.0, markerfacecolor="none")
    axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high), xlabel="$x_1$", ylabel="$x_2$")
    if title:
        axes.set_title(title)
    return figure


def density_1d(
    energy: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor | None = None,
    limits: tuple[float, float] = (-4.0, 4.0),
    *,
    temperature: float = 1.0,
    resolution: int = 1000,
    bins: int = 80,
    title: str | None = None,
    axes: Axes | None = None,
) -> Figure:
    """p(x) = exp(−E(x)/T) / Z as a curve, Z summed over the cells of the window, with a histogram of the samples.

    Args:
        energy: (n, 1) -> (n,); evaluated without gradients on ``resolution`` points in the dtype and on the device of
            ``samples`` (float32 on the CPU without samples).
        samples: (n,), (..., 1) or None, such as ``run.samples``; the histogram is of those inside the window.
        limits: (low, high).
        temperature: T, above 0.
        resolution: cells of the curve.
        bins: bins of the histogram.
        axes: where to draw; a new figure by default.

    Raises:
        TypeError, ValueError: an argument, or what ``energy`` returns, is not as described.
    """
    if isinstance(samples, torch.Tensor) and samples.ndim == 1:
        samples = samples.unsqueeze(1)
    samples = _rows(samples, "samples", 1, "(n,) or (..., 1)")
    if len(limits) != 2 or not limits[0] < limits[1]:
        raise ValueError(f"limits: expected (low, high) with low < high, got {limits}")
    for value, name, least in ((resolution, "resolution", 2), (bins, "bins", 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    xs = _cells(*limits, resolution)
    density = _probability(energy, xs.unsqueeze(1), samples, temperature) * (resolution / (limits[1] - limits[0]))

    figure, axes = place(axes, 6.4, 4.0)
    if samples is not None:
        inside = samples.detach().double().cpu().flatten()
        inside = inside[(inside >= limits[0]) & (inside <= limits[1])]
        label = f"{samples.numel():,} samples"
        axes.hist(inside.numpy(), bins=bins, range=limits, density=len(inside) > 0, color=_RED, alpha=0.45, label=label)
    axes.plot(xs.numpy(), density.numpy(), color="#1f4e79", linewidth=1.6, label="exact density")
    axes.set(xlim=limits, ylim=(0.0, None), xlabel="x", ylabel="density")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title)
    return figure


def _rows(samples: Any, name: str, size: int, wanted: str) -> torch.Tensor | None:
    """(..., size) as (n, size)."""
    if samples is None:
        return None
    if not isinstance(samples, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor or None, got {type(samples).__name__}")
    if samples.ndim < 2 or samples.shape[-1] != size:
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(samples.shape)}")
    return samples.reshape(-1, size)


def _cells(low: float, high: float, count: int) -> torch.Tensor:
    """Centres of equal cells."""
    return low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def _probability(energy: Any, points: torch.Tensor, like: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """Share of each cell, float64 on the host. points # (m, d) -> (m,)"""
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    with torch.no_grad():
        values = energy(points.to(torch.empty(0) if like is None else like))
    if values.shape != (len(points),):
        raise ValueError(f"energy: expected values of shape ({len(points)},), got {tuple(values.shape)}")
    return torch.softmax(-values.double().cpu() / temperature, 0)
