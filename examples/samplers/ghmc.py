"""GHMC at three frictions: one chain in phase space, and the autocorrelation of position and energy.

    python examples/samplers/ghmc.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast import diagnostics


def picture() -> Figure:
    energy = ef.energies.Gaussian(torch.zeros(1))
    figure = Figure(figsize=(11.0, 7.4), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.2, 1))
    paths = [figure.add_subplot(grid[0, 2 * place : 2 * place + 2]) for place in range(3)]
    decay, spread = figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:])
    for place, (axes, friction) in enumerate(zip(paths, (0.02, 0.5, 8.0))):
        sampler = ef.GHMC(step_size=0.5, friction=friction)
        state, path = sampler.init(energy, torch.tensor([[1.5]]), seed=5), []
        for _ in range(60):
            state, _ = sampler.step(energy, state)
            path.append((state.x.item(), state.extra["momentum"].item()))
        axes.plot(*torch.tensor(path).T, "-o", markersize=2.5, linewidth=0.8, color=f"C{place}")
        axes.set(xlabel="x", title=f"friction={friction:g}", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal")

        run = ef.sample(energy, sampler, energy.sample(500, seed=1), num_steps=400, warmup=20, seed=0)
        for panel, values in ((decay, run.samples[..., 0]), (spread, run.samples[..., 0].square())):
            rho = diagnostics.autocorrelation(values, max_lag=40).mean(1)
            panel.plot(rho, color=f"C{place}", label=f"friction={friction:g}, acceptance {run.stats.acceptance.mean():.2f}")
    paths[0].set_ylabel("momentum")
    decay.set(xlabel="lag (steps)", ylabel="autocorrelation", title="autocorrelation of x", ylim=(-1, 1))
    spread.set(xlabel="lag (steps)", title="autocorrelation of x², the energy", ylim=(-1, 1))
    spread.legend(frameon=False, loc="lower right")
    for axes in (decay, spread):
        axes.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "ghmc.png")
