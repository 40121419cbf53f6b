"""What a bad and a good run look like: traces, rank histograms and R-hat of the same target.

    python examples/samplers/signs.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import ranks, traces


def picture() -> Figure:
    energy = ef.energies.GaussianMixture(means=[[-2.0], [2.0]], stds=1.0)
    x0 = torch.tensor([[-2.0], [2.0]]).repeat(3, 1)
    figure = Figure(figsize=(11.0, 6.6), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2, width_ratios=(1.6, 1))
    samplers = ef.Langevin(step_size=0.02), ef.HMC(step_size=0.9, num_leapfrog=6, leapfrog_jitter=True)
    for (left, right), sampler in zip(panels, samplers):
        run = ef.sample(energy, sampler, x0, num_steps=1000, warmup=100, thin=2, seed=0)
        table = run.summary()
        said = f"R-hat {table['r_hat'].item():.2f}, bulk ESS {table['ess_bulk'].item():.0f} of 3000 draws"
        traces(run.samples[..., 0], thin=2, title=f"{type(sampler).__name__}: {said}", axes=left)
        ranks(run.samples[..., 0], title="ranks", axes=right)
    panels[0, 0].set_xlabel("")
    panels[0, 1].set_xlabel("")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "signs.png")
