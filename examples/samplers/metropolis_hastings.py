"""Metropolis-Hastings: a multiplicative walk with and without Hastings' correction; independence proposals of three widths.

    python examples/samplers/metropolis_hastings.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_1d, traces


def stretch(x, noise):
    """x' = x e^y with y ~ N(0, 0.8^2): q(x | x') / q(x' | x) = x' / x = e^y."""
    y = 0.8 * noise.normal()
    return x * y.exp(), y.sum(1)


def picture() -> Figure:
    figure = Figure(figsize=(11.0, 6.6), dpi=100, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))

    gamma = ef.energies.Gamma(concentration=3.0, rate=2.0)
    proposals = {"with log $q(x|x') / q(x'|x)$": stretch, "without (wrong)": lambda x, noise: stretch(x, noise)[0]}
    for axes, (said, propose) in zip(top.subplots(1, 2), proposals.items()):
        run = ef.sample(gamma, ef.MetropolisHastings(propose), torch.ones(1000, 1), num_steps=200, warmup=50, thin=5, seed=0)
        density_1d(gamma, run.samples, (0.0, 6.0), title=f"$x' = x e^y$ on a Gamma density, {said}", axes=axes)
        axes.set_ylim(0.0, 0.95)
    top.axes[1].set_ylabel("")

    gaussian = ef.energies.Gaussian(torch.zeros(2))
    for axes, std in zip(bottom.subplots(1, 3, sharey=True), (0.5, 1.3, 5.0)):
        sampler = ef.IndependenceMetropolis.gaussian(0.0, std)
        run = ef.sample(gaussian, sampler, gaussian.sample(1000, seed=1), num_steps=300, seed=0)
        accepted = run.stats.acceptance.mean().item()
        traces(run.samples[:, 12:16, 0], label="$x_1$", title=f"q = N(0, {std:g}²): acceptance {accepted:.2f}", axes=axes)
        axes.set_ylim(-4.5, 4.5)
    for axes in bottom.axes[1:]:
        axes.set_ylabel("")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "metropolis_hastings.png")
