"""Pictures of chains of numbers, and densities drawn into axes that are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ebm_fast.plotting import density_1d, density_2d, ranks, traces


def bars(axes) -> np.ndarray:
    """Heights of the bars, one row per chain, in units of an equal share."""
    unit = axes.lines[0].get_ydata()[0] - (len(axes.containers) - 1)  # of the dotted line above the first chain's row
    return np.array([[bar.get_height() / unit for bar in row] for row in axes.containers])


def test_traces_shows_every_chain_at_its_steps():
    values = torch.randn(50, 3)
    (axes,) = traces(values, thin=10, label="energy", title="three").axes
    assert [line.get_xdata()[[0, -1]].tolist() for line in axes.lines] == [[10, 500]] * 3
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], values.T)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "energy", "three")
    assert len({line.get_color() for line in axes.lines}) == 3


def test_traces_and_ranks_stop_at_eight_chains():
    values = torch.randn(30, 20)
    assert len(traces(values).axes[0].lines) == 8
    shown = bars(ranks(values, bins=10).axes[0])
    assert shown.shape == (8, 10)
    order = values.flatten().argsort().argsort().reshape(30, 20).numpy()  # among all 20 chains, not the 8 that are seen
    expected = [np.histogram(order[:, chain], 10, (-0.5, 599.5))[0] / 3.0 for chain in range(8)]
    np.testing.assert_allclose(shown, expected)


def test_ranks_of_chains_that_agree_are_flat_and_of_one_apart_are_not():
    z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    flat = bars(ranks(z).axes[0])
    assert np.abs(flat - 1).max() < 6 / np.sqrt(200)  # 200 draws a bin; 80 bins beyond 6 sd: 1.6e-7
    z[:, 2] += 0.5
    apart = bars(ranks(z).axes[0])
    assert apart[2, 0] < 0.6 < 1.4 < apart[2, -1]


def test_ranks_of_ties_are_their_mean():
    """Three of the four numbers are equal, of the ranks 1, 2, 3: all in the bin of rank 2."""
    shown = bars(ranks(torch.tensor([[1.0, 1.0], [1.0, 5.0]]), bins=4).axes[0])
    np.testing.assert_allclose(shown * 2 / 4, [[0, 2, 0, 0], [0, 1, 0, 1]])


def test_density_1d_curve_and_histogram_have_area_one():
    samples = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 0.5 + 1.0
    (axes,) = density_1d(lambda x: 2.0 * (x[:, 0] - 1.0).square(), samples, (-2.0, 4.0), bins=60).axes
    x, curve = axes.lines[0].get_data()
    assert curve.sum() * (x[1] - x[0]) == pytest.approx(1.0)
    assert curve.max() == pytest.approx(2.0 / np.sqrt(2.0 * np.pi), rel=1e-3)
    heights = np.array([bar.get_height() for bar in axes.patches])
    assert heights.sum() * 0.1 == pytest.approx(1.0)
    centres = -1.95 + 0.1 * np.arange(60)
    expected = np.interp(centres, x, curve)
    error = np.sqrt(expected / (20_000 * 0.1)) + 0.01
    assert (np.abs(heights - expected) < 6 * error).all()
    hot = density_1d(lambda x: 2.0 * (x[:, 0] - 1.0).square(), limits=(-2.0, 4.0), temperature=4.0).axes[0].lines[0]
    assert hot.get_ydata().max() < 0.6 * curve.max()


def test_pictures_are_drawn_into_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert density_1d(lambda x: x[:, 0].square(), axes=left) is figure
    paths = torch.arange(12.0).reshape(3, 2, 2) / 10
    assert density_2d(lambda x: x.square().sum(1), paths=paths, axes=right) is figure
    assert figure.axes == [left, right]  # no axes of a colour scale
    for chain in range(2):
        np.testing.assert_allclose(np.stack(right.lines[2 * chain].get_data(), 1), paths[:, chain])
        np.testing.assert_allclose(np.concatenate(right.lines[2 * chain + 1].get_data()), paths[0, chain])


def test_densities_take_what_a_run_recorded():
    def dots(samples: torch.Tensor) -> np.ndarray:
        return density_2d(lambda x: x.square().sum(1), samples).axes[0].collections[0].get_offsets().data

    samples = torch.randn(5, 7, 2)
    np.testing.assert_allclose(dots(samples), samples.reshape(-1, 2))

    def heights(samples: torch.Tensor) -> list[float]:
        return [bar.get_height() for bar in density_1d(lambda x: x[:, 0].square(), samples).axes[0].patches]

    assert heights(samples[..., :1]) == heights(samples[..., 0].flatten())


def zero(x: torch.Tensor) -> torch.Tensor:
    return x.sum(1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: traces(np.zeros((2, 2))), TypeError, "values.*tensor.*ndarray"),
        (lambda: traces(torch.zeros(2, 2, 2)), ValueError, r"values.*\(2, 2, 2\).*samples\[..., 0\]"),
        (lambda: traces(torch.zeros(0, 2)), ValueError, r"values.*\(0, 2\)"),
        (lambda: traces(torch.full((2, 2), torch.nan)), ValueError, "values.*finite"),
        (lambda: traces(torch.zeros(2, 2), thin=0), ValueError, "thin.*0"),
        (lambda: ranks(torch.zeros(5, 1)), ValueError, r"two chains.*\(5, 1\)"),
        (lambda: ranks(torch.zeros(2, 2), bins=5), ValueError, "bins.*4 draws.*5"),
        (lambda: density_1d(zero, torch.zeros(2, 2)), ValueError, r"samples.*\(2, 2\)"),
        (lambda: density_1d(zero, [1.0]), TypeError, "samples.*list"),
        (lambda: density_1d(zero, limits=(1.0, 1.0)), ValueError, "limits"),
        (lambda: density_1d(zero, resolution=1), ValueError, "resolution.*1"),
        (lambda: density_1d(zero, bins=0), ValueError, "bins.*0"),
        (lambda: density_1d(torch.sum), ValueError, r"energy.*\(1000,\).*\(\)"),
        (lambda: density_2d(zero, paths=torch.zeros(2, 2)), ValueError, r"paths.*\(T, m, 2\).*\(2, 2\)"),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
