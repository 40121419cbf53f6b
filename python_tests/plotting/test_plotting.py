from __future__ import annotations

import io
import sys

import matplotlib.image
import numpy as np
import pytest
import torch

from ebm_fast.plotting import (
    chains_over_time,
    density_2d,
    grids_side_by_side,
    metric_curves,
    sample_grid,
    training_curves,
)
from ebm_fast.plotting.images import _mosaic


def pixels(figure) -> np.ndarray:
    """What a viewer of the saved PNG sees: (H, W, 4) in [0, 1]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return matplotlib.image.imread(buffer)


def ramp(n: int, channels: int = 1, size: int = 4) -> torch.Tensor:
    """Images of one value each, rising from -1 to 1."""
    return torch.linspace(-1, 1, n)[:, None, None, None].expand(n, channels, size, size).contiguous()


def log_rows(n: int) -> list[dict[str, float]]:
    return [
        {"iteration": i, "energy_data": -i, "energy_samples": i, "gap": -2.0 * i, "grad_norm": 1.0 + i}
        for i in range(n)
    ]


def test_mosaic_places_every_image_in_reading_order():
    grid = _mosaic(ramp(5), "images", 3, (-1.0, 1.0))
    assert grid.shape == (2 * 5 + 1, 3 * 5 + 1)
    for i in range(5):
        tile = grid[(i // 3) * 5 + 1 :, (i % 3) * 5 + 1 :][:4, :4]
        np.testing.assert_allclose(tile, i / 4, atol=1e-6)
    assert (grid[::5] == 1).all()
    assert (grid[:, ::5] == 1).all()
    assert (grid[6:10, 11:15] == 1).all()


def test_mosaic_scales_clips_and_keeps_colour():
    images = torch.tensor([-3.0, 0.0, 0.5, 9.0]).reshape(4, 1, 1, 1)
    grid = _mosaic(images, "images", 4, (0.0, 1.0))
    np.testing.assert_allclose(grid[1, 1::2], [0, 0, 0.5, 1])
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(_mosaic(red, "images", None, (-1.0, 1.0))[1, 1], [1, 0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_grid_shows_black_grey_and_white(channels):
    figure = sample_grid(ramp(9, channels), title="nine")
    assert len(figure.axes) == 1
    shown = pixels(figure)
    for value in (0.0, 0.5, 1.0):
        near = (np.abs(shown[..., :3] - value) < 0.02).all(axis=-1)
        assert near.mean() > 0.05, f"no area of grey {value}"


def test_grids_side_by_side_shows_two_grids_with_the_same_layout():
    figure = grids_side_by_side(ramp(9), ramp(20), ("left", "right"))
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("left", "right")
    assert left.images[0].get_array().shape == right.images[0].get_array().shape
    halves = np.array_split(pixels(figure)[..., 0], 2, axis=1)
    assert all(half.std() > 0.1 for half in halves)


def test_chains_over_time_has_rows_of_chains_and_columns_of_steps():
    frames = torch.stack([torch.full((2, 1, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
    frames[:, 1] = -1.0
    figure = chains_over_time(frames, [0, 10, 1000])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "10", "1,000"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1", "2"]
    grid = axes.images[0].get_array()
    columns, rows = (np.round(ticks).astype(int) for ticks in (axes.get_xticks(), axes.get_yticks()))
    np.testing.assert_allclose(grid[rows[0], columns], [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(grid[rows[1], columns], 0, atol=1e-6)
    assert pixels(figure)[..., 0].std() > 0.1


@pytest.mark.parametrize("n", [1, 8, 200])
def test_training_curves_draws_three_panels(n):
    figure = training_curves(log_rows(n))
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True] * 3
    assert figure.axes[-1].get_xlabel() == "training iteration"
    if n > 1:
        shown = pixels(figure)
        for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):
            near = (np.abs(shown[..., :3] - np.array(colour) / 255) < 0.02).all(axis=-1)
            assert near.sum() > 200


def test_training_curves_running_mean_keeps_a_straight_line_straight():
    figure = training_curves(log_rows(200))
    x, smooth = figure.axes[0].lines[-1].get_data()
    np.testing.assert_allclose(smooth, x)


def test_density_2d_integrates_to_one_and_peaks_where_the_energy_is_lowest():
    figure = density_2d(lambda x: 0.5 * (x - 1).square().sum(1), torch.zeros(5, 2), resolution=100)
    assert len(figure.axes) == 2
    density = figure.axes[0].images[0].get_array()
    assert density.sum() * (8 / 100) ** 2 == pytest.approx(1.0)
    assert density.max() == pytest.approx(1 / (2 * np.pi), rel=0.01)
    row, column = np.unravel_index(density.argmax(), density.shape)
    assert (row, column) == pytest.approx((62, 62), abs=1)
    shown = pixels(figure)
    assert (shown[..., 2] - shown[..., 0] > 0.3).mean() > 0.01


def test_density_2d_has_x1_across_and_follows_the_temperature():
    def wide_along_x1(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x[:, 0] / 2).square() + 0.5 * (x[:, 1] / 0.5).square()

    density = density_2d(wide_along_x1).axes[0].images[0].get_array()
    assert (density[100] > 0.01).sum() > 3 * (density[:, 100] > 0.01).sum()
    hot = density_2d(wide_along_x1, temperature=4.0).axes[0].images[0].get_array()
    assert hot.max() < 0.5 * density.max()


def test_no_pyplot_state():
    sample_grid(ramp(4))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sample_grid(np.zeros((1, 1, 2, 2))), TypeError, "images.*tensor.*ndarray"),
        (lambda: sample_grid(torch.zeros(2, 2, 4, 4)), ValueError, r"images.*\(2, 2, 4, 4\)"),
        (lambda: sample_grid(torch.zeros(0, 1, 4, 4)), ValueError, "images.*n >= 1"),
        (lambda: sample_grid(ramp(2), columns=0), ValueError, "columns.*0"),
        (lambda: sample_grid(ramp(2), value_range=(1, 1)), ValueError, "value_range"),
        (lambda: grids_side_by_side(ramp(2), torch.zeros(2)), ValueError, r"real.*\(2,\)"),
        (lambda: grids_side_by_side(ramp(2), ramp(2), ("one",)), ValueError, "titles.*two"),
        (lambda: chains_over_time([ramp(2)], [0]), TypeError, "frames.*list"),
        (lambda: chains_over_time(ramp(2), [0, 1]), ValueError, "frames.*T, n"),
        (lambda: chains_over_time(ramp(2)[None], [0, 1]), ValueError, "steps.*1.*2"),
        (lambda: training_curves([]), ValueError, "rows"),
        (lambda: training_curves([{"iteration": 0}]), ValueError, "missing.*energy_data"),
        (lambda: density_2d(torch.sum, [1, 2]), TypeError, "samples"),
        (lambda: density_2d(torch.sum, torch.zeros(2, 3)), ValueError, r"samples.*\(2, 3\)"),
        (lambda: density_2d(torch.sum, limits=((1, 0), (0, 1))), ValueError, "limits"),
        (lambda: density_2d(torch.sum, temperature=0), ValueError, "temperature"),
        (lambda: density_2d(torch.sum, resolution=1), ValueError, "resolution"),
        (lambda: density_2d(torch.sum), ValueError, r"energy.*\(40000,\).*\(\)"),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_metric_curves_draw_every_column_where_it_is_finite():
    rows = [{"iteration": i, "loss": float(i)} | ({"late": 2.0 * i} if i > 3 else {}) for i in range(9)]
    rows[5]["loss"] = float("nan")
    figure = metric_curves(rows)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "late"]
    lines = [axes.lines[-1].get_xydata() for axes in figure.axes]
    assert lines[0].tolist() == [[i, i] for i in range(9) if i != 5]
    assert lines[1].tolist() == [[i, 2 * i] for i in range(4, 9)]
    assert pixels(figure)[..., :3].std() > 0.05
    for bad in ([], [{"iteration": 1}], [{"loss": 1.0}]):
        with pytest.raises(ValueError, match="rows: expected logged iterations"):
            metric_curves(bad)
