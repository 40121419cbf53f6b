"""Annealed Langevin dynamics recovers the weights 1 : 4 of two far modes; plain Langevin from the same start does not.

    python examples/samplers/annealed_langevin.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_2d

MEANS, WEIGHTS = torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), torch.tensor([0.2, 0.8])


def blurred(x, sigma):
    """The mixture 1/5 N(-5, I) + 4/5 N(5, I) after noise of standard deviation sigma (n,)."""
    variance = 1.0 + sigma[:, None] ** 2
    distance = (x[:, None] - MEANS).square().sum(2)
    return -torch.logsumexp(WEIGHTS.log() - 0.5 * distance / variance - variance.log(), 1)


def picture() -> Figure:
    sigmas = torch.logspace(1.3, -0.5, 10).tolist()  # 20 ... 0.32
    sampler = ef.AnnealedLangevin(sigmas, step_size=0.2 * sigmas[-1] ** 2, steps_per_level=50)
    x0 = 16.0 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) - 8.0
    annealed = ef.sample(blurred, sampler, x0, num_steps=sampler.num_steps, thin=50, seed=0)
    target = ef.energies.GaussianMixture(MEANS, 1.0, WEIGHTS)
    plain = ef.sample(target, ef.Langevin(step_size=0.05), x0, num_steps=sampler.num_steps, seed=0, record=False)

    figure = Figure(figsize=(14.0, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, level in zip(panels, (3, 6, 9)):
        sigma = sigmas[level]
        density_2d(lambda x, s=sigma: blurred(x, x.new_full(x.shape[:1], s)), annealed.samples[level], ((-12, 12), (-12, 12)),
                   axes=axes, title=f"annealed, end of level {level + 1}: σ = {sigma:.2g}")  # fmt: skip
    density_2d(target, plain.final, ((-12, 12), (-12, 12)), axes=panels[3], title="plain Langevin, as many steps")
    for axes, x in ((panels[2], annealed.final), (panels[3], plain.final)):
        low = (x.sum(1) < 0).float().mean().item()
        axes.text(-11.0, 8.5, f"share of the lower mode\n{low:.2f} (exact 0.20)", va="top")
    for axes in panels[1:]:
        axes.set_ylabel("")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "annealed_langevin.png")
