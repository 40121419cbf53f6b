"""Warm-up on a Gaussian with spreads from 0.03 to 1: step size, trajectory length, and what they are worth afterwards.

    python examples/samplers/adaptation.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast import diagnostics

WARMUP = 300


class Counted:
    """An energy that counts its gradients."""

    def __init__(self, energy):
        self.energy, self.gradients = energy, 0

    def __call__(self, x):
        return self.energy(x)

    def energy_and_grad(self, x):
        self.gradients += len(x)
        return self.energy.energy_and_grad(x)

    def grad(self, x):
        self.gradients += len(x)
        return self.energy.grad(x)


def warm_up(energy, sampler, x0):
    """Step size, mean acceptance and trajectory length of every step of a warm-up, in a loop of our own."""
    state, rows = sampler.init(energy, x0, seed=0, warmup=WARMUP), []
    for _ in range(WARMUP):
        state, info = sampler.step(energy, state)
        length = state.extra.get("trajectory_length", torch.tensor(torch.nan))
        rows.append(torch.stack([state.extra["step_size"].double(), info.acceptance.mean(), length.double()]))
    return torch.stack(rows)


def picture() -> Figure:
    energy = Counted(ef.energies.Gaussian(torch.zeros(20), variance=torch.logspace(-3, 0, 20)))
    x0 = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(11.0, 7.0), dpi=100, layout="constrained")
    (steps, accepted), (lengths, worth) = figure.subplots(2, 2)
    samplers = {
        "Adaptation()": ef.HMC(0.1, 20, leapfrog_jitter=True, adapt=ef.Adaptation()),
        'Adaptation(mass="diagonal")': ef.HMC(0.1, 20, leapfrog_jitter=True, adapt=ef.Adaptation(mass="diagonal")),
        'ChEES(mass="diagonal")': ef.HMC(0.1, 20, adapt=ef.ChEES(mass="diagonal")),
    }
    for place, (name, sampler) in enumerate(samplers.items()):
        rows = warm_up(energy, sampler, x0)
        steps.plot(rows[:, 0], color=f"C{place}", label=name)
        accepted.plot(rows[:, 1].unfold(0, 10, 10).mean(1).repeat_interleave(10), color=f"C{place}", label=name)
        warm = ef.sample(energy, sampler, x0, num_steps=0, warmup=WARMUP, seed=0)
        energy.gradients = 0
        run = ef.sample(energy, sampler, resume=warm.state, num_steps=200)
        ess = 1000 * diagnostics.ess(run.samples).min().item() / energy.gradients
        worth.barh(2 - place, ess, color=f"C{place}", height=0.6)
        worth.annotate(f" {ess:.1f}", (ess, 2 - place), va="center")
    for place, num_leapfrog in enumerate((1, 100)):
        for mass, style in ((None, "-"), ("diagonal", "--")):
            rows = warm_up(energy, ef.HMC(0.05, num_leapfrog, adapt=ef.ChEES(mass=mass)), x0)
            lengths.plot(rows[:, 2], style, color=f"C{3 + place}", label=f"from {0.05 * num_leapfrog:g}, mass={mass!r}")
    steps.set(yscale="log", ylabel="step size", xlabel="step of the warm-up", title="step size")
    accepted.legend(frameon=False, loc="lower right")
    accepted.set(ylabel="mean over 10 steps, 64 chains", xlabel="step of the warm-up", title="acceptance", ylim=(0, 1))
    lengths.set(ylabel="trajectory length", xlabel="step of the warm-up", title="trajectory length of ChEES from two starts")
    lengths.legend(frameon=False, loc="center right")
    worth.set(yticks=[2, 1, 0], yticklabels=list(samplers), xlabel="smallest ESS per 1000 gradients", title="after the warm-up")
    worth.set_xlim(right=1.15 * worth.get_xlim()[1])
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "adaptation.png")
