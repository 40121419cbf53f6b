"""Draws of the toys follow their log densities, which integrate to one; a width off by a few percent is caught."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from ebm_fast.energies import from_log_prob
from ebm_fast.objectives import ExplicitScoreMatching
from ebm_fast.testing import chi_square_test
from ebm_fast.training import TOYS, make_toy
from ebm_fast.training.toys import Toy

HALF, CELLS, INNER = 5.0, 40, 5
DRAWS = 60_000
FAULT = {"checkerboard": 1.2}
"""How much wider a blur is to be noticed: 6 %, or 20 % where it matters at the edges of the squares alone."""


class Exact(NamedTuple):
    name: str
    toy: Toy
    cells: torch.Tensor  # (CELLS^2 + 1,), the probability of each cell, the last one all that lies outside
    regions: torch.Tensor  # (K,), of the points that belong to each component
    shares: torch.Tensor  # (K,), mass of each component


@pytest.fixture(scope="module", params=list(TOYS))
def exact(request) -> Exact:
    toy, fine = make_toy(request.param), CELLS * INNER
    side = 2.0 * HALF / fine
    centres = (torch.arange(fine, dtype=torch.float64) + 0.5) * side - HALF
    grid = torch.cartesian_prod(centres, centres)
    log_k = toy.component_log_prob(grid)
    p = log_k.logsumexp(1).exp() * side**2
    inside = p.view(CELLS, INNER, CELLS, INNER).sum((1, 3)).flatten()
    outside = (1.0 - p.sum()).clamp_min(0.0).view(1)
    regions = torch.zeros(toy.num_components, dtype=torch.float64).index_add_(0, log_k.argmax(1), p)
    return Exact(request.param, toy, torch.cat([inside, outside]), regions, log_k.exp().sum(0) * side**2)


def cells(x: torch.Tensor) -> torch.Tensor:
    index = ((x.double() + HALF) * (CELLS / (2.0 * HALF))).floor().long()
    inside = ((index >= 0) & (index < CELLS)).all(1)
    return torch.where(inside, index[:, 0] * CELLS + index[:, 1], CELLS**2)


def test_density_integrates_to_one(exact):
    """The sum over a grid of an analytic density that vanishes at its edge is exact to rounding."""
    assert exact.cells[:-1].sum().item() == pytest.approx(1.0, abs=1e-5)
    equal = torch.full_like(exact.shares, 1.0 / exact.toy.num_components)
    torch.testing.assert_close(exact.shares, equal, atol=1e-5, rtol=0)


def test_draws_follow_the_density(exact):
    """False-alarm rate 1e-6; a blur that is a little too wide is caught."""
    assert chi_square_test(cells(exact.toy.sample(DRAWS, seed=1)), exact.cells).passed
    wide = make_toy(exact.name)
    wide.std.mul_(FAULT.get(exact.name, 1.06))
    assert not chi_square_test(cells(wide.sample(DRAWS, seed=1)), exact.cells).passed


def test_draws_are_of_every_component(exact):
    """False-alarm rate 1e-6; a component that lacks a tenth of its draws is caught."""
    x = exact.toy.sample(DRAWS, seed=2)
    component = exact.toy.component(x)
    assert chi_square_test(component, exact.regions / exact.regions.sum()).passed
    fewer = component[(component > 0) | (torch.arange(len(x)) % 10 > 0)]
    assert not chi_square_test(fewer, exact.regions / exact.regions.sum()).passed


def test_rows_are_functions_of_seed_and_index(exact):
    toy = exact.toy
    whole = toy.sample(50, seed=7)
    assert whole.dtype == torch.float32 and whole.shape == (50, 2)
    assert torch.equal(whole[:20], toy.sample(20, seed=7))
    assert torch.equal(whole[20:], toy.sample(30, seed=7, chain_offset=20))
    for other in (toy.sample(50, seed=8), toy.sample(50, seed=7, step=1)):
        assert not (whole == other).any()


def test_scores_are_finite_and_right(exact):
    """Against central differences in float64, in the middle, on the data and far out."""
    toy = exact.toy
    x = torch.cat([toy.sample(20, seed=3).double(), torch.tensor([[0.0, 0.0], [7.0, -7.5], [0.3, -0.2]])])
    x.requires_grad_()
    (score,) = torch.autograd.grad(toy.log_prob(x).sum(), x)
    assert bool(score.isfinite().all())
    h, x = 1e-6, x.detach()
    for d in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[d] = h
        difference = (toy.log_prob(x + step) - toy.log_prob(x - step)) / (2.0 * h)
        torch.testing.assert_close(score[:, d], difference, rtol=1e-4, atol=1e-4)


def test_a_toy_is_a_noise_model_and_a_known_score():
    toy = make_toy("rings")
    x = toy.sample(64, seed=0)
    loss, _ = ExplicitScoreMatching(from_log_prob(toy), from_log_prob(toy))(x)
    assert loss.item() == 0.0
    assert math.isfinite(make_toy("pinwheel").log_prob(torch.full((1, 2), 100.0)).item())


def test_errors():
    with pytest.raises(ValueError, match="toy: expected one of 8gaussians, moons"):
        make_toy("swissroll")
    with pytest.raises(ValueError, match="x: expected floating-point states"):
        make_toy("moons").log_prob(torch.zeros(3, 3))
