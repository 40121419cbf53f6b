"""Curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("mean energy", {"energy_data": "data", "energy_samples": "samples"}),
    ("energy gap\n(samples − data)", {"gap": "gap"}),
    ("gradient strength\nalong the chain", {"grad_norm": "gradient"}),
)


def training_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Energies of data and samples, their gap, and the mean ‖∇ₓE‖ along the chains, over the iterations.

    Three panels over one axis. Thin lines are the logged values, thick ones their running mean over a
    twentieth of the run. The last panel is where a diverging or a dying sampler shows first (thesis, sec.
    3.2.2 and Fig. 3.2); it turns logarithmic when most of its values span more than a factor of 30.

    Args:
        rows: the log; each row holds ``iteration``, ``energy_data``, ``energy_samples``, ``gap``,
            ``grad_norm``.

    Raises:
        ValueError: there are no rows, or a row lacks one of these columns.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("rows: expected at least one logged iteration, got none")
    columns = ["iteration", *(key for _, keys in _PANELS for key in keys)]
    missing = sorted({key for row in rows for key in columns if key not in row})
    if missing:
        raise ValueError(f"rows: expected the columns {columns}, missing {missing}")
    log = {key: np.array([float(row[key]) for row in rows]) for key in columns}

    figure = Figure(figsize=(8.0, 7.0), dpi=120, layout="constrained")
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (label, keys) in zip(panels, _PANELS, strict=True):
        for colour, (key, name) in enumerate(keys.items()):
            _line(axes, log["iteration"], log[key], f"C{colour}", name)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    panels[1].axhline(0.0, color="black", linewidth=0.8)
    low, high = np.quantile(log["grad_norm"], (0.05, 0.95))
    if 0 < 30 * low < high:
        panels[2].set_yscale("log")
    else:
        panels[2].set_ylim(bottom=0.0)
    panels[-1].set_xlabel("training iteration")
    figure.align_ylabels()
    return figure


def metric_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Every column of the log over the iterations, a panel each: what an objective of any kind leaves.

    Thin lines are the logged values, thick ones their running mean over a twentieth of the run. Columns that come later begin
    later; numbers that are not finite are left out.

    Args:
        rows: the log; each row holds ``iteration`` and at least one number more.

    Raises:
        ValueError: there are no such rows.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row if name != "iteration"))
    if not names or any("iteration" not in row for row in rows):
        raise ValueError("rows: expected logged iterations with at least one number each, got none")
    figure = Figure(figsize=(8.0, 1.4 + 1.5 * len(names)), dpi=120, layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        known = np.array([(row["iteration"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]).reshape(-1, 2)
        _line(axes, known[:, 0], known[:, 1], "C0", name)
        axes.set_ylabel(name.replace("_", "\n"))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("training iteration")
    figure.align_ylabels()
    return figure


def _line(axes: Any, x: np.ndarray, y: np.ndarray, colour: str, name: str) -> None:
    window = len(y) // 20
    if window < 2:
        axes.plot(x, y, color=colour, label=name)
        return
    axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.35)
    # Towards both ends the window narrows around its point: cut off on one side it would pull the first value to later ones.
    ahead = np.arange(len(y))
    half = np.minimum(window // 2, np.minimum(ahead, ahead[::-1]))
    smooth = np.array([y[i - h : i + h + 1].mean() for i, h in zip(ahead, half, strict=True)])
    axes.plot(x, smooth, color=colour, linewidth=1.8, label=name)
