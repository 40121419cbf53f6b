"""A two-dimensional density with samples on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def density_2d(
    energy: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor | None = None,
    limits: tuple[tuple[float, float], tuple[float, float]] = ((-4.0, 4.0), (-4.0, 4.0)),
    *,
    temperature: float = 1.0,
    resolution: int = 200,
    title: str | None = None,
) -> Figure:
    """p(x) = exp(−E(x)/T) / Z as an image, Z summed over the cells of the window, with the samples as dots.

    Args:
        energy: (n, 2) -> (n,); evaluated without gradients on ``resolution``² points in the dtype and on the
            device of ``samples`` (float32 on the CPU without samples).
        samples: (n, 2) or None; those outside the window are not shown.
        limits: ((x low, x high), (y low, y high)).
        temperature: T, above 0.
        resolution: cells along each side.

    Raises:
        TypeError, ValueError: an argument, or what ``energy`` returns, is not as described.
    """
    from matplotlib.figure import Figure

    if samples is not None and not isinstance(samples, torch.Tensor):
        raise TypeError(f"samples: expected a tensor or None, got {type(samples).__name__}")
    if samples is not None and (samples.ndim != 2 or samples.shape[1] != 2):
        raise ValueError(f"samples: expected shape (n, 2), got {tuple(samples.shape)}")
    if len(limits) != 2 or any(len(side) != 2 or not side[0] < side[1] for side in limits):
        raise ValueError(f"limits: expected ((low, high), (low, high)) with low < high, got {limits}")
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if resolution < 2:
        raise ValueError(f"resolution: expected at least 2, got {resolution}")

    like = torch.empty(0) if samples is None else samples
    (x_low, x_high), (y_low, y_high) = limits
    cells = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    xs, ys = x_low + (x_high - x_low) * cells, y_low + (y_high - y_low) * cells
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2).to(like)
    with torch.no_grad():
        values = energy(points)
    if values.shape != (len(points),):
        raise ValueError(f"energy: expected values of shape ({len(points)},), got {tuple(values.shape)}")
    cell_area = (x_high - x_low) * (y_high - y_low) / resolution**2
    probability = torch.softmax(-values.double().cpu() / temperature, 0).reshape(resolution, resolution)

    figure = Figure(figsize=(6.4, 5.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        (probability / cell_area).numpy(),
        origin="lower",
        extent=(x_low, x_high, y_low, y_high),
        cmap="Blues",
        aspect="auto",
    )
    figure.colorbar(image, ax=axes, label="density within the window")
    if samples is not None:
        dots = samples.detach().double().cpu().numpy()
        size = min(12.0, max(2.0, 4000.0 / max(len(dots), 1)))
        label = f"{len(dots):,} samples"
        axes.scatter(dots[:, 0], dots[:, 1], s=size, color="#d1495b", alpha=0.6, linewidths=0, label=label)
        axes.legend(frameon=True, loc="upper right", markerscale=2.0)
    axes.set(xlim=(x_low, x_high), ylim=(y_low, y_high), xlabel="$x_1$", ylabel="$x_2$")
    if title:
        axes.set_title(title)
    return figure
