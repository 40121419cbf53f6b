"""Replica exchange between two modes ten standard deviations apart, beside HMC alone.

    python examples/samplers/replica_exchange.py picture.png
"""

import sys

import torch
from matplotlib.figure import Figure

import ebm_fast as ef
from ebm_fast.plotting import density_1d, traces


def picture() -> Figure:
    energy = ef.energies.GaussianMixture(means=[[-5.0], [5.0]], stds=1.0, weights=[0.3, 0.7])
    hmc = ef.HMC(step_size=0.5, num_leapfrog=4)
    exchange = ef.ReplicaExchange(hmc, ef.ReplicaExchange.ladder(5, lowest=0.03))
    figure = Figure(figsize=(11.0, 5.6), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2, width_ratios=(2, 1))
    for (left, right), sampler, words in zip(panels, (hmc, exchange), ("HMC alone", "HMC with 5 replicas")):
        run = ef.sample(energy, sampler, torch.full((200, 1), 5.0), num_steps=400, warmup=100, seed=0)
        low = (run.samples < 0).float().mean().item()
        title = f"{words}: share of the lower mode {low:.2f} (exact 0.30)"
        if run.stats.swap_acceptance is not None:
            swaps = ", ".join(f"{s:.2f}" for s in run.stats.swap_acceptance.mean(0).tolist())
            title += f"\nswap acceptance {swaps}"
        traces(run.samples[:, :4, 0], title=title, axes=left)
        density_1d(energy, run.samples, (-9.0, 9.0), axes=right)
        left.set_ylim(-9.0, 9.0)
        right.set_ylim(0.0, 0.42)
    panels[0, 0].set_xlabel("")
    panels[0, 1].set_xlabel("")
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "replica_exchange.png")
