"""Random-walk Metropolis on two peaks of different width: a step size too small, right, too large.

    python examples/samplers/random_walk.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_1d, traces


def picture() -> Figure:
    energy = ef.energies.GaussianMixture(means=[[-2.0], [4.0]], stds=[1.0, 2.0], weights=[3.0, 2.0])
    figure = Figure(figsize=(11.0, 6.6), dpi=100, layout="constrained")
    panels = figure.subplots(3, 2, width_ratios=(2, 1), sharex="col")
    for (left, right), step_size, word in zip(panels, (0.3, 6.0, 60.0), ("too small", "right", "too large")):
        sampler = ef.RandomWalkMetropolis(step_size)
        run = ef.sample(energy, sampler, torch.zeros(500, 1), num_steps=600, seed=0)
        accepted = run.stats.acceptance.mean().item()
        said = f"step_size={step_size:g}, {word}: acceptance {accepted:.2f}"
        traces(run.samples[:, :4, 0], axes=left, title=said)
        density_1d(energy, run.samples[100::10], (-7.0, 12.0), axes=right)
        left.set_ylim(-7.0, 12.0)
    for axes in panels[:2].flat:
        axes.set_xlabel("")
    for axes in panels[1:, 1]:
        axes.get_legend().remove()
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "random_walk.png")
