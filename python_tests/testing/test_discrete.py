"""Enumeration, chi-square and Kolmogorov-Smirnov tests."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ebm_fast.testing import chi_square_test, enumerate_states, ks_test, state_index


def ising(x):
    """Ring of spins in a field."""
    return -0.5 * (x * x.roll(1, 1)).sum(1) - 0.1 * x.sum(1)


def test_enumeration_against_a_plain_loop():
    found = enumerate_states(ising, 4, (-1.0, 1.0), temperature=0.7)
    weights = {}
    for spins in itertools.product((-1.0, 1.0), repeat=4):
        bonds = sum(spins[k] * spins[k - 1] for k in range(4))
        weights[spins] = math.exp((0.5 * bonds + 0.1 * sum(spins)) / 0.7)
    z = sum(weights.values())
    assert found.log_z == pytest.approx(math.log(z))
    for state, p in zip(found.states.tolist(), found.probabilities.tolist()):
        assert p == pytest.approx(weights[tuple(state)] / z)
    assert found.probabilities.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(state_index(found.states, (-1.0, 1.0)), torch.arange(16))


def test_enumeration_of_shapes_and_of_several_values():
    found = enumerate_states(lambda x: x.sum((1, 2)), (2, 3), (0.0, 1.0, 2.0))
    assert found.states.shape == (3**6, 2, 3)
    assert found.log_z == pytest.approx(6 * math.log(1 + math.exp(-1) + math.exp(-2)))
    assert torch.equal(state_index(found.states, (0.0, 1.0, 2.0)), torch.arange(3**6))
    assert enumerate_states(lambda x: 0 * x[:, 0], 16).probabilities.numel() == 65536
    hard = enumerate_states(lambda x: torch.where(x[:, 0] == x[:, 1], math.inf, 0.0), 2)
    assert hard.probabilities.tolist() == [0.0, 0.5, 0.5, 0.0]


def gibbs_run(field_error=0.0, chains=4000, sweeps=12):
    x = torch.where(torch.rand(chains, 6) < 0.5, -1.0, 1.0)
    for _ in range(sweeps):
        for k in range(6):
            drive = 0.5 * (x[:, k - 1] + x[:, (k + 1) % 6]) + 0.1 + field_error
            x[:, k] = torch.where(torch.rand(chains) < torch.sigmoid(2 * drive), 1.0, -1.0)
    return state_index(x, (-1.0, 1.0))


def test_gibbs_of_a_ring_of_spins():
    exact = enumerate_states(ising, 6, (-1.0, 1.0)).probabilities
    for seed in range(10):
        torch.manual_seed(seed)
        chi_square_test(gibbs_run(), exact).check()
    wrong = enumerate_states(lambda x: ising(x) - 0.05 * x.sum(1), 6, (-1.0, 1.0)).probabilities
    result = chi_square_test(gibbs_run(0.05, chains=40000), exact)
    assert result.p_value < 1e-9
    w = ((wrong - exact).square() / exact).sum().sqrt().item()
    assert result.detectable < w  # so it had to be found


def test_detectable_errors_are_found():
    p = torch.full((32,), 1 / 32, dtype=torch.float64)
    size = chi_square_test(torch.full((32,), 100), p, counts=True).detectable
    q = p * (1 + size * torch.tensor([-1.0, 1.0]).repeat(16))
    torch.manual_seed(0)
    assert sum(not chi_square_test(torch.multinomial(q, 3200, True), p).passed for _ in range(100)) >= 94
    assert sum(not chi_square_test(torch.multinomial((p + q) / 2, 3200, True), p).passed for _ in range(100)) <= 20


def test_chi_square_p_values_are_uniform():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(30, generator=generator) + 0.2
    p /= p.sum()
    seen = [chi_square_test(torch.multinomial(p, 3000, True, generator=generator), p).p_value for _ in range(200)]
    ks_test(torch.tensor(seen), lambda u: u.clamp(0, 1)).check()


def test_small_cells_are_merged_and_impossible_ones_forbidden():
    p = torch.tensor([0.5, 0.499, 0.0005, 0.0005, 0.0])
    torch.manual_seed(0)
    states = torch.multinomial(p, 10000, True)
    assert chi_square_test(states, p).comparisons[0].name == "3 cells"
    assert chi_square_test(torch.bincount(states, minlength=5), p, counts=True) == chi_square_test(states, p)
    assert "2 of 10002 draws have probability 0" in str(chi_square_test(torch.cat([states, torch.tensor([4, 4])]), p))


def test_effective_draws():
    """Every draw three times: Pearson's statistic is three times as large, unless they are taken for a third as many."""
    p = torch.full((64,), 1 / 64)
    torch.manual_seed(0)
    thrice = torch.multinomial(p, 4000, True).repeat(3)
    assert chi_square_test(thrice, p, effective=4000).p_value > 1e-3
    assert chi_square_test(thrice, p).p_value < 1e-6


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: enumerate_states(ising, 17), ValueError, "131072 states, between 2 and 65536 can be enumerated"),
        (lambda: enumerate_states(ising, 0), ValueError, "num_units must be a number of units or a shape of such, got 0"),
        (lambda: enumerate_states(lambda x: x, 2), ValueError, "energy must return (4,) numbers, got (4, 2)"),
        (lambda: enumerate_states(lambda x: x[:, 0] * math.nan, 2), ValueError, "energy must be a number or infinity"),
        (lambda: enumerate_states(ising, 2, temperature=0.0), ValueError, "temperature must be positive"),
        (lambda: state_index(torch.full((3, 2), 0.5)), ValueError, "x must hold the values (0.0, 1.0) only"),
        (lambda: state_index(torch.zeros(3)), ValueError, "x must be a tensor of shape (n, *event), got (3,)"),
        (lambda: chi_square_test(torch.zeros(3), torch.ones(1)), TypeError, "states must be a tensor of integers, got"),
        (lambda: chi_square_test(torch.tensor([5]), torch.ones(2) / 2), ValueError, "states must be in 0 ... 1, got 5 to 5"),
        (lambda: chi_square_test(torch.tensor([0]), torch.ones(2)), ValueError, "sum to 1, got a sum of 2"),
        (lambda: chi_square_test(torch.tensor([0, 1]), torch.ones(2) / 2), ValueError, "fewer than two cells"),
        (lambda: chi_square_test(torch.tensor([0, 1]), torch.ones(2) / 2, effective=3), ValueError, "effective must be at most"),
        (lambda: chi_square_test(torch.tensor([0]), torch.ones(2) / 2, counts=True), ValueError, "states must hold 2 counts"),
        (lambda: ks_test(torch.zeros(3, 3), torch.sigmoid), ValueError, "draws must be a tensor of shape (n,), got (3, 3)"),
        (lambda: ks_test(torch.zeros(3), 3), TypeError, "law must be a distribution function or a tensor of draws, got int"),
        (lambda: ks_test(torch.zeros(3), lambda x: x - 1), ValueError, "law must return numbers in [0, 1]"),
        (lambda: ks_test(torch.zeros(3), torch.sigmoid, effective=4), ValueError, "effective must be between 0 and the number"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, said):
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)


def test_ks_against_a_law_and_against_draws():
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    x, y = torch.randn(500), torch.randn(800)
    against = stats.kstest(x.numpy(), "norm", mode="asymp")
    result = ks_test(x, torch.special.ndtr)
    assert result.statistic == pytest.approx(against.statistic, rel=1e-5)
    assert result.p_value == pytest.approx(against.pvalue, rel=1e-4)
    two = ks_test(x, y)
    assert two.statistic == pytest.approx(stats.ks_2samp(x.numpy(), y.numpy()).statistic, rel=1e-9)
    assert not ks_test(1.5 * torch.randn(5000), torch.special.ndtr).passed
    assert not ks_test(torch.randn(5000) + 0.2, torch.randn(5000)).passed
    assert "1 of 501 draws are NaN" in str(ks_test(torch.cat([x, torch.tensor([math.nan])]), torch.special.ndtr))


def test_ks_of_a_discrete_law():
    """Jumps of the law are no distance."""
    torch.manual_seed(0)
    coins = (torch.rand(5000) < 0.3).float()
    law = lambda x: torch.where(x < 0, 0.0, torch.where(x < 1, 0.7, 1.0))  # noqa: E731
    assert ks_test(coins, law).statistic == pytest.approx(abs(coins.mean().item() - 0.3), abs=1e-6)


def test_ks_p_values_are_uniform_and_detectable_distances_found():
    generator = torch.Generator().manual_seed(0)
    one = [ks_test(torch.rand(1000, generator=generator), lambda u: u.clamp(0, 1)).p_value for _ in range(200)]
    two = [ks_test(torch.rand(900, generator=generator), torch.rand(1500, generator=generator)).p_value for _ in range(200)]
    for p in (one, two):
        ks_test(torch.tensor(p), lambda u: u.clamp(0, 1)).check()
    size = ks_test(torch.rand(1000), lambda u: u.clamp(0, 1)).detectable
    found = sum(
        not ks_test(torch.rand(1000, generator=generator).clamp(min=size), lambda u: u.clamp(0, 1)).passed for _ in range(100)
    )
    assert found >= 94


def test_ks_with_effective_draws():
    torch.manual_seed(1)
    x = torch.rand(1000).repeat(9)
    assert ks_test(x, lambda u: u.clamp(0, 1), effective=1000).passed
    assert ks_test(x, lambda u: u.clamp(0, 1), effective=1000).p_value > 100 * ks_test(x, lambda u: u.clamp(0, 1)).p_value
