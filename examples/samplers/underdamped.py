"""Underdamped Langevin: a path at two frictions, and the bias of BAOAB beside that of overdamped Langevin.

    python examples/samplers/underdamped.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_2d


def bias(energy, sampler, steps, truth, n=2000):
    """Error of the chain's E[x²] and its standard error, started from exact draws."""
    run = ef.sample(energy, sampler, energy.sample(n, seed=1), num_steps=steps, warmup=steps // 2, thin=4, seed=0)
    square = run.samples.square().mean((0, 2))
    return square.mean().item() - truth, square.std().item() / n**0.5


def picture() -> Figure:
    figure = Figure(figsize=(14.0, 4.6), dpi=100, layout="constrained")
    first, second, third = figure.subplots(1, 3)
    oblong = ef.energies.Gaussian(torch.zeros(2), variance=torch.tensor([4.0, 1.0]))
    start = torch.tensor([[-4.0, 0.0], [4.0, 0.0]])
    for axes, friction in ((first, 0.2), (second, 10.0)):
        sampler = ef.UnderdampedLangevin(step_size=0.25, friction=friction)
        run = ef.sample(oblong, sampler, start, num_steps=100, seed=3)
        density_2d(oblong, None, ((-8.0, 8.0), (-6.0, 6.0)), paths=torch.cat((start[None], run.samples)), axes=axes,
                   title=f"100 steps of two chains, friction={friction:g}")  # fmt: skip

    two = ef.energies.GaussianMixture(means=[[-1.5], [1.5]], stds=1.0)
    truth = 1.0 + 1.5**2
    sizes = (0.4, 0.7, 1.0, 1.2, 1.4, 1.6)
    for colour, label, make in (
        ("C0", "Langevin(e² / 2)", lambda e: ef.Langevin(step_size=e**2 / 2)),
        ("C3", "UnderdampedLangevin(e, friction=1)", lambda e: ef.UnderdampedLangevin(step_size=e, friction=1.0)),
    ):
        found = torch.tensor([bias(two, make(e), 400, truth) for e in sizes])
        third.errorbar(sizes, found[:, 0], 2 * found[:, 1], marker="o", color=colour, label=label, capsize=3)
    third.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    third.set(xlabel="e", ylabel="error of E[x²], exact 3.25", title="bias, one gradient a step each", ylim=(-0.1, 1.0))
    third.legend(frameon=False, loc="upper left")
    third.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "underdamped.png")
