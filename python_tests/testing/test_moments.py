"""z tests of chain averages with batch means, Geweke's joint test."""

from __future__ import annotations

import math

import pytest
import torch
from testing.kernels_under_test import DIM, chain, draws, random_walk

import ebm_fast as ef
from ebm_fast.testing import geweke_test, ks_test, mcse_z_test


@pytest.mark.parametrize(("length", "chains", "phi"), [(4000, 4, 0.5), (40, 100, 0.5), (12000, 2, 0.9), (2000, 4, -0.5)])
def test_p_values_are_uniform(length, chains, phi):
    repetitions = 100 if length > 10000 else 200
    p = [mcse_z_test(chain(seed, length, chains, phi), 0.0).p_value for seed in range(repetitions)]
    ks_test(torch.tensor(p), lambda u: u.clamp(0, 1)).check()


def test_a_detectable_shift_is_found():
    """With 100 chains the error is known to 7 %; 99 of 100 are expected."""
    size = mcse_z_test(chain(0, 40, 100), 0.0).detectable
    found = sum(not mcse_z_test(chain(seed, 40, 100), size).passed for seed in range(100))
    assert found >= 94
    assert all(mcse_z_test(chain(seed, 40, 100), 0.3 * size).passed for seed in range(20))


def test_autocorrelation_is_accounted_for():
    """Taken for independent, the draws of a slow chain would fail."""
    x = chain(1, 20000, 4, 0.9)
    result = mcse_z_test(x, 0.0)
    independent = x.std().item() / math.sqrt(x.numel())
    assert result.comparisons[0].error / independent == pytest.approx(math.sqrt(1.9 / 0.1), rel=0.15)


def test_functions_and_expectations():
    x = torch.randn(200, 100, 3, generator=torch.Generator().manual_seed(5))
    assert len(mcse_z_test(x, 0.0).comparisons) == 3
    assert mcse_z_test(x, torch.zeros(3)).passed
    functions = {"square": lambda s: s.square(), "norm": lambda s: s.square().sum(1)}
    result = mcse_z_test(x, {"square": 1.0 + torch.zeros(3), "norm": 3.0}, functions)
    assert [c.name for c in result.comparisons] == ["square[0]", "square[1]", "square[2]", "norm"]
    assert result.passed
    wrong = mcse_z_test(x, {"square": torch.tensor([1.0, 1.0, 1.1]), "norm": 3.0}, functions)
    assert not wrong.passed
    assert wrong.worst()[0].name == "square[2]"
    assert mcse_z_test(x, {"square": torch.tensor([1.0, 1.0, 1.1]), "norm": 3.0}, functions,
                       expected_error={"square": torch.full((3,), 0.1), "norm": 0.0}).passed  # fmt: skip


def test_a_run_of_the_engine_and_a_start_that_was_kept():
    target = ef.energies.Gaussian(torch.zeros(2), precision=torch.ones(2))
    start, walk = torch.full((100, 2), 5.0), ef.RandomWalkMetropolis(1.0)
    mcse_z_test(ef.sample(target, walk, start, num_steps=200, warmup=100, seed=0), 0.0).check()
    assert mcse_z_test(ef.sample(target, walk, start, num_steps=200, seed=0), 0.0).p_value < 1e-9


def test_a_walk_that_does_not_reach_everything_is_caught():
    """With one block of normals for two, x_0 - x_4 never changes; a walk with all of its noise passes from the same start."""
    def run(kernel):
        x, states = torch.zeros(200, DIM), []
        for t in range(600):
            x = kernel(x)
            if t >= 200:
                states.append(x)
        return torch.stack(states)

    functions = {"(x0 - x4)^2": lambda x: (x[:, 0] - x[:, 4]).square()}
    exact = {"(x0 - x4)^2": (draws(2_000_000).double() @ torch.eye(DIM).double()[:, [0, 4]]).diff(dim=1).square().mean()}
    mcse_z_test(run(random_walk()), exact, functions).check()
    assert mcse_z_test(run(random_walk(reused=True)), exact, functions).p_value < 1e-9


def test_nan_fails():
    x = torch.randn(100, 64)
    x[3, 3] = math.nan
    assert "1 of 6400 draws give NaN" in str(mcse_z_test(x, 0.0))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((torch.randn(100, 2), 0.0), ValueError, "too few for 16 batches of 20: run longer, or 64 chains"),
        ((torch.zeros(5), 0.0), ValueError, "draws must have shape (draws, chains, *event), got (5,)"),
        ((torch.zeros(0, 5), 0.0), ValueError, "draws holds nothing"),
        ((torch.randn(9, 64, 3), torch.zeros(2)), ValueError, "expected must have shape (3,) or be a number, got (2,)"),
        ((torch.randn(9, 64, 3), {"a": 0.0}), TypeError, "expected may be a dict only together with functions"),
        ((torch.randn(9, 64), {"a": 0.0}, {"b": lambda x: x}), ValueError, "the same names; only one of them has ['a', 'b']"),
        ((torch.randn(9, 64), math.nan), ValueError, "expected must be finite"),
        ((torch.randn(9, 64), 0.0, lambda x: x.mean()), ValueError, "must return (n,) or (n, k) numbers for n = 576"),
    ],
)
def test_errors_name_the_argument(given, error, said):
    with pytest.raises(error) as caught:
        mcse_z_test(*given)
    assert said in str(caught.value)


def prior_and_data(n):
    theta = torch.randn(n, 1)
    return theta, theta + torch.randn(n, 3)


def posterior(spread=1.0, data=3):
    """theta | y ~ N(sum y / 4, 1 / 4) for three observations of unit variance; then new data."""

    def turn(theta, y):
        theta = y[:, :data].sum(1, keepdim=True) / 4 + spread * torch.randn_like(theta) / 2
        return theta, theta + torch.randn_like(y)

    return turn


def test_geweke_passes_a_correct_posterior_sampler():
    for seed in range(20):
        geweke_test(prior_and_data, posterior(), n=1500, seed=seed).check()


@pytest.mark.parametrize("fault", [{"spread": 1.1}, {"spread": 0.9}, {"data": 2}])
def test_geweke_catches_faults(fault):
    result = geweke_test(prior_and_data, posterior(**fault), n=20000)
    assert result.p_value < 1e-9, str(result)
    assert any("theta" in c.name for c in result.worst())


def test_geweke_p_values_are_uniform():
    def f(theta, y):
        return theta[:, 0] * y[:, 0]

    p = [geweke_test(prior_and_data, posterior(), f, n=400, num_steps=3, seed=s).p_value for s in range(200)]
    ks_test(torch.tensor(p), lambda u: u.clamp(0, 1)).check()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((lambda n: torch.zeros(n), posterior()), ValueError, "marginal_conditional must return (theta, y), tensors"),
        ((prior_and_data, lambda a, b: (a, b[1:])), ValueError, "successive_conditional must return (theta, y), tensors"),
        ((prior_and_data, 3), TypeError, "successive_conditional must be a function, got int"),
    ],
)  # fmt: skip
def test_geweke_errors_name_the_argument(given, error, said):
    with pytest.raises(error) as caught:
        geweke_test(*given, n=100)
    assert said in str(caught.value)


def test_geweke_fails_on_lost_chains():
    assert "come to NaN" in str(geweke_test(prior_and_data, lambda a, b: (a.log(), b), n=100))
