"""Where a picture is drawn: axes that are given, or those of a new figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def place(axes: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes with their figure, or new ones of this size in inches."""
    from matplotlib.figure import Figure

    if axes is not None:
        return cast("Figure", axes.get_figure()), axes
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()
