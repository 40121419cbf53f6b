"""10^9 chain-steps of a fused random walk on a density of two humps, against the exact density."""

from __future__ import annotations

import math

import pytest
import torch

import ebm_fast as ef
from ebm_fast.ops.backend import why_not

CHAINS, STEPS, APART, CELLS = 100_000, 10_000, 1000, 60


def cdf(x: torch.Tensor, weight: float) -> torch.Tensor:
    """Of weight N(-2, 1) + (1 - weight) N(4, 2^2): 3 exp(-(x + 2)^2 / 2) + exp(-(x - 4)^2 / 8) has weight 3 / 5."""
    return weight * torch.special.ndtr(x + 2) + (1 - weight) * torch.special.ndtr((x - 4) / 2)


def chi_square(counts: torch.Tensor, edges: torch.Tensor, weight: float) -> float:
    below = torch.cat((torch.zeros(1, dtype=torch.float64), cdf(edges, weight), torch.ones(1, dtype=torch.float64)))
    expected = below.diff() * counts.sum()
    assert expected.min() > 100
    return float(((counts - expected).square() / expected).sum())


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
def test_a_billion_steps_of_metropolis_have_the_density_of_the_mixture():
    """Chi-square with 60 cells on 9 10^5 states, 1000 steps apart (the walk forgets in some tens). False alarm 1e-6: a statistic
    of 59 + 4.75 sqrt(118) + 15 = 126 bounds the 1 - 1e-6 quantile of chi-square(59), 122. A weight off by 1 % of itself
    shifts the statistic by 9 10^5 sum (dp)^2 / p, about 120, and is found with probability 0.99."""
    energy = ef.energies.GaussianMixture(torch.tensor([[-2.0], [4.0]]), torch.tensor([1.0, 2.0]), torch.tensor([0.6, 0.4]))
    x0 = torch.linspace(-8.0, 12.0, CHAINS)[:, None].contiguous()
    run = ef.sample(energy, ef.RandomWalkMetropolis(5.0), x0, num_steps=STEPS, thin=APART, seed=1, record_energy=False)
    assert run.strategy == "fused"
    assert 0.3 < run.stats.acceptance.mean() < 0.6
    states = run.samples[1:].flatten().double()
    grid = torch.linspace(-12.0, 20.0, 320_001, dtype=torch.float64)
    edges = grid[torch.searchsorted(cdf(grid, 0.6), torch.arange(1, CELLS, dtype=torch.float64) / CELLS)]
    counts = torch.bincount(torch.bucketize(states, edges), minlength=CELLS).double()
    assert chi_square(counts, edges, 0.6) < 126.0
    assert chi_square(counts, edges, 0.606) > 126.0
    lag = run.samples[1:, :, 0].double()
    correlation = torch.corrcoef(torch.stack((lag[0], lag[1])))[0, 1]
    assert abs(correlation) < 5.0 / math.sqrt(CHAINS)  # the states that are counted are independent
