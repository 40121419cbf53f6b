"""Unadjusted Langevin: samples of a ring, and the variance of the chain on a Gaussian against its exact bias.

    python examples/samplers/langevin.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_2d


def picture() -> Figure:
    figure = Figure(figsize=(11.0, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)

    ring = ef.energies.Ring(radius=2.0, width=0.3)
    start = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    run = ef.sample(ring, ef.Langevin(step_size=0.01), start, num_steps=500, seed=0)
    density_2d(ring, run.final, ((-3.5, 3.5), (-3.5, 3.5)), axes=left, paths=run.samples[:60, :2],
               title="1000 chains after 500 steps; the first 60 of two chains")  # fmt: skip
    left.set_aspect("equal")

    gaussian = ef.energies.Gaussian(torch.zeros(16))
    steps = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4])
    variances = []
    for s in steps.tolist():
        run = ef.sample(gaussian, ef.Langevin(s), gaussian.sample(1000, seed=1), num_steps=100, warmup=100, thin=5, seed=0)
        variances.append(run.samples.var().item())
    s = torch.linspace(0.0, 1.45, 100)
    right.plot(s, 1.0 / (1.0 - s / 2.0), color="#1f4e79", label="1 / (1 - s / 2), exact for this chain")
    right.plot(steps, variances, "o", color="#d1495b", label="variance of the chain")
    right.axhline(1.0, color="black", linewidth=0.8, linestyle=":", label="variance of the target")
    right.set(xlabel="step size s", ylabel="variance", title="bias on N(0, 1)", xlim=(0.0, 1.5), ylim=(0.8, 4.0))
    right.legend(frameon=False, loc="upper left")
    right.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "langevin.png")
