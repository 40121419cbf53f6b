"""Hamiltonian Monte Carlo: trajectories on a banana and their energy errors; random walk and HMC in 50 dimensions.

    python examples/samplers/hmc.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast import diagnostics
from ebm_fast.plotting import density_2d, traces


def trajectories(energy, x, p, step_size, num_leapfrog):
    """Positions (L + 1, n, 2) and errors of the Hamiltonian (L + 1, n) along leapfrog trajectories."""
    places, totals = [x], [energy(x) + 0.5 * p.square().sum(1)]
    for _ in range(num_leapfrog):
        p = p - 0.5 * step_size * energy.grad(x)
        x = x + step_size * p
        p = p - 0.5 * step_size * energy.grad(x)
        places.append(x)
        totals.append(energy(x) + 0.5 * p.square().sum(1))
    return torch.stack(places), torch.stack(totals) - totals[0]


def picture() -> Figure:
    energy = ef.energies.Rosenbrock(dim=2, a=0.0, b=3.0)
    figure = Figure(figsize=(11.0, 7.6), dpi=100, layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2, height_ratios=(1.3, 1))

    start = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.6]])
    push = torch.tensor([[1.5, 0.3], [-1.2, 0.9], [0.3, -0.7]])
    paths, errors = trajectories(energy, start, push, 0.12, 25)
    density_2d(energy, None, ((-2.5, 2.5), (-1.2, 4.0)), paths=paths, axes=first,
               title="three trajectories of 25 leapfrog steps, step_size=0.12")  # fmt: skip
    for chain in range(3):
        second.plot(errors[:, chain], "-o", color=f"C{1 + chain}", markersize=3, label="$H_l - H_0$" if not chain else None)
    second.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    second.set(xlabel="leapfrog step l", ylabel="$H_l - H_0$", title="their energy errors decide the acceptance")
    second.spines[["top", "right"]].set_visible(False)

    wide = ef.energies.Gaussian(torch.zeros(50), variance=torch.logspace(-2, 0, 50))
    for axes, sampler, thin, label in (
        (third, ef.RandomWalkMetropolis(0.08), 10, "random walk, every 10th step"),
        (fourth, ef.HMC(0.12, 25, leapfrog_jitter=True), 1, "HMC, at most 25 gradients a draw"),
    ):
        run = ef.sample(wide, sampler, wide.sample(4, seed=1), num_steps=300 * thin, thin=thin, seed=0)
        ess = diagnostics.ess(run.samples)[-1].item()
        words = f"acceptance {run.stats.acceptance.mean():.2f}, ESS {ess:.0f} of 1200 draws"
        traces(run.samples[..., -1], label="$x_{50}$", title=f"50-d Gaussian, {label}:\n{words}", axes=axes)
        axes.set_xlabel("draw")
        axes.set_ylim(-3.5, 3.5)
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "hmc.png")
