"""Long fused chains against exact densities: 10^9 chain-steps of a random walk, and HMC on a network against quadrature."""

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


@pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
def test_hmc_on_a_network_has_the_density_that_quadrature_gives():
    """A network of two hidden layers in one dimension whose density has two humps. Chi-square with 40 cells on 10^5 states of
    independent chains after 25 trajectories: the 1 - 1e-6 quantile of chi-square(39) is 92; the same states fail against the
    density at temperature 1.07."""
    torch.manual_seed(3)
    energy = ef.energies.MLPEnergy(1, (16, 16), "softplus").requires_grad_(False)
    with torch.no_grad():  # outer slopes that hold the chain, an inner hump
        first, second, last = energy.layers
        first.weight.copy_(torch.linspace(-3.0, 3.0, 16)[:, None])
        first.bias.copy_(torch.linspace(-2.0, 2.0, 16))
        second.weight.copy_(0.15 * torch.randn(16, 16) + 0.1)
        last.weight.copy_(torch.cat((torch.full((12,), 0.35), torch.full((4,), -0.3)))[None])
    n = 100_000
    run = ef.sample(energy, ef.HMC(0.4, 6, step_jitter=0.3), torch.randn(n, 1, generator=torch.Generator().manual_seed(0)),
                    num_steps=25, record=False, seed=2)  # fmt: skip
    assert run.strategy == "fused"
    grid = torch.linspace(-20.0, 20.0, 40_001, dtype=torch.float64)
    values = energy.double()(grid[:, None])

    def statistic(temperature: float) -> float:
        density = torch.exp((values.min() - values) / temperature)
        below = torch.cat((torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, grid)))
        assert density[0] < 1e-9 and density[-1] < 1e-9
        below /= below[-1].clone()
        cut = torch.searchsorted(below, torch.arange(1, 40, dtype=torch.float64) / 40)
        counts = torch.bincount(torch.bucketize(run.final[:, 0].double(), grid[cut]), minlength=40).double()
        expected = torch.cat((torch.zeros(1), below[cut], torch.ones(1))).double().diff() * n
        return float(((counts - expected).square() / expected).sum())

    assert statistic(1.0) < 92.0
    assert statistic(1.07) > 92.0
