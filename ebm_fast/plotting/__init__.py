"""Pictures of samples, chains, densities and training curves, as matplotlib Figures without pyplot state."""

from __future__ import annotations

from .chains import ranks, traces
from .curves import metric_curves, training_curves
from .density import density_1d, density_2d
from .images import chains_over_time, grids_side_by_side, sample_grid

__all__ = [
    "chains_over_time",
    "density_1d",
    "density_2d",
    "grids_side_by_side",
    "metric_curves",
    "ranks",
    "sample_grid",
    "traces",
    "training_curves",
]
