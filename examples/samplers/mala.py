"""Unadjusted Langevin and MALA at the same step size, on a banana.

    python examples/samplers/mala.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_2d


def picture() -> Figure:
    energy = ef.energies.Rosenbrock(dim=2, a=0.0, b=3.0)
    exact = energy.sample(100_000, seed=1).std(0)
    figure = Figure(figsize=(11.0, 4.8), dpi=100, layout="constrained")
    for axes, sampler in zip(figure.subplots(1, 2), (ef.Langevin(step_size=0.04), ef.MALA(step_size=0.04))):
        run = ef.sample(energy, sampler, torch.zeros(2000, 2), num_steps=400, thin=400, seed=0, on_divergence="freeze")
        fine = run.final[~run.stats.diverged]
        words = f"sd of $x_2$ {fine.std(0)[1]:.2f} (exact {exact[1]:.2f})"
        if run.stats.acceptance is None:
            words += f", {int(run.stats.diverged.sum())} of 2000 chains diverged"
        else:
            words += f", acceptance {run.stats.acceptance.mean():.2f}"
        density_2d(energy, fine, ((-3.0, 3.0), (-1.5, 5.0)), axes=axes, title=f"{type(sampler).__name__}: {words}")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "mala.png")
