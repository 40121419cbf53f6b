"""The script behind the picture of the docs runs and fills every panel."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "energies.py"


def test_the_picture_is_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(SCRIPT))
    with torch.device("cpu"):
        figure = script["picture"](100)
    panels = figure.axes
    assert len(panels) == 12
    assert all(panel.get_title() for panel in panels)
    assert all(panel.images or panel.patches or panel.collections for panel in panels)
    figure.savefig(tmp_path / "energies.png")
    assert (tmp_path / "energies.png").stat().st_size > 10_000
