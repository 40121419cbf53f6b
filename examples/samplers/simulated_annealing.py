"""Simulated annealing on four wells of which one is the deepest: the chains while they cool, beside a quench.

    python examples/samplers/simulated_annealing.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_2d


def picture() -> Figure:
    wells = ef.energies.DoubleWell(height=1.0, width=1.0, dim=2)
    energy = wells + (lambda x: 0.5 * x.sum(1))  # the well at (-1, -1) is the deepest
    steps = 600
    x0 = 4.0 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) - 2.0
    walk = ef.RandomWalkMetropolis(step_size=0.4)
    cooled = ef.SimulatedAnnealing.geometric(walk, steps, beta_start=0.3, beta_end=30.0)
    quench = ef.RandomWalkMetropolis(step_size=0.4, temperature=1 / 30.0)
    runs = {name: ef.sample(energy, sampler, x0, num_steps=steps, thin=5, seed=0)
            for name, sampler in (("annealed", cooled), ("quenched", quench))}  # fmt: skip

    figure = Figure(figsize=(14.0, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, 4)
    limits = ((-2.2, 2.2), (-2.2, 2.2))
    for axes, step in zip(panels, (100, 300, 600)):
        beta = cooled.betas[step - 1]
        density_2d(energy, runs["annealed"].samples[step // 5 - 1], limits, temperature=1 / beta, axes=axes,
                   title=f"step {step}: β = {beta:.2g}")  # fmt: skip
    for name, run in runs.items():
        found = (run.final < 0).all(1).float().mean().item()
        words = f"{name}: {found:.0%} of the chains\nin the deepest well"
        panels[3].plot(range(5, steps + 1, 5), run.stats.energy.mean(1), label=words)
    low = energy(torch.cartesian_prod(*[torch.linspace(-2, 2, 401)] * 2)).min().item()
    panels[3].axhline(low, color="black", linewidth=0.8, linestyle=":", label="minimum")
    panels[3].set(xlabel="step", ylabel="mean energy", title="energy", ylim=(low - 0.3, 3.0))
    panels[3].legend(frameon=False, loc="upper right")
    panels[3].spines[["top", "right"]].set_visible(False)
    for axes in panels[1:3]:
        axes.set_ylabel("")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "simulated_annealing.png")
