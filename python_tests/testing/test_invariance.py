"""The kit on kernels of known worth: correct ones pass, faults of stated size are caught."""

from __future__ import annotations

import math

import pytest
import torch
from testing.kernels_under_test import (
    autoregressive,
    draws,
    energy,
    gamma_draws,
    gibbs,
    multiplicative,
    normal_draws,
    normal_energy,
    random_walk,
)  # fmt: skip

import ebm_fast as ef
from ebm_fast.testing import invariance_test, ks_test, reversibility_test
from ebm_fast.testing.functions import chosen_elements

SEEDS = 20
CORRECT = {
    "random walk": ((random_walk(), draws), {"energy": energy, "num_steps": 6}),
    "autoregressive": ((autoregressive(), normal_draws), {"energy": normal_energy, "num_steps": 3}),
    "gibbs": ((gibbs(), draws), {"num_steps": 1}),
    "multiplicative walk": ((multiplicative(), gamma_draws), {"num_steps": 6}),
}


@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_pass(case):
    given, how = CORRECT[case]
    for seed in range(SEEDS):
        invariance_test(*given, n=1500, reference=2, seed=seed, **how).check()


@pytest.mark.parametrize(
    ("case", "kernel", "exact", "target", "steps", "worst"),
    [
        ("accept ratio, 5 %", random_walk(ratio=0.95, target=normal_energy), normal_draws, normal_energy, 25, "energy"),
        ("accept ratio, 5 %, correlated", random_walk(ratio=1.05), draws, energy, 25, "energy"),
        ("noise scale, 5 %", autoregressive(noise=1.05), normal_draws, normal_energy, 4, "energy"),
        ("noise scale, -5 %, without the energy", autoregressive(noise=0.95), normal_draws, None, 4, "sum of squares"),
        ("noise scale of a Gibbs sweep, 5 %", gibbs(noise=1.05), draws, energy, 3, "energy"),
        ("reused block", autoregressive(reused=True), normal_draws, None, 4, "sum of products of elements 4 apart"),
        ("no Hastings correction", multiplicative(hastings=False), gamma_draws, None, 10, "x[0]"),
    ],
)  # fmt: skip
def test_planted_faults_are_caught(case, kernel, exact, target, steps, worst):
    """At a false-alarm rate of 1e-6, with far smaller p-values than that: luck of the seed plays no part."""
    result = invariance_test(kernel, exact, n=20000, num_steps=steps, energy=target)
    assert not result.passed
    assert result.p_value < 1e-9, str(result)
    assert worst in {c.name for c in result.worst(2)}  # of independent normals the energy is half the sum of squares
    with pytest.raises(AssertionError, match="invariance FAILED"):
        result.check()


def test_random_numbers_shared_by_chains_are_caught():
    """Chains in pairs with the same noise: every mean is right, only the chains are not independent."""

    def kernel(x):
        z = torch.randn(len(x) // 2, x.shape[1]).repeat_interleave(2, 0)
        return 0.6 * x + 0.8 * z

    result = invariance_test(kernel, normal_draws, n=2000, num_steps=5)
    assert result.p_value < 1e-9
    assert result.worst()[0].name == "chains c, c + 1"


def test_invariance_does_not_mean_that_a_chain_gets_anywhere():
    """A walk along diagonals only is symmetric, so it leaves the target alone: `mcse_z_test` is the tool for it."""
    invariance_test(random_walk(reused=True), draws, n=2000).check()


@pytest.mark.parametrize("case", ["random walk", "autoregressive", "gibbs"])
def test_reversible_kernels_pass(case):
    given, how = CORRECT[case]
    if case == "gibbs":
        given, how = (gibbs(random_order=True), draws), {}
    for seed in range(5):
        reversibility_test(*given, n=3000, seed=seed, **how).check()


def test_irreversible_kernels_are_caught():
    """A Gibbs sweep in a fixed order, and independent normals that turn by 0.05 a step: both leave the target invariant."""
    sweep = reversibility_test(gibbs(), draws, n=3000)
    assert sweep.p_value < 1e-9

    def turn(x, angle=0.05):
        a, b = x[:, 0], x[:, 1]
        return torch.stack([math.cos(angle) * a - math.sin(angle) * b, math.sin(angle) * a + math.cos(angle) * b], 1)

    def exact(n):
        return torch.randn(n, 2)

    invariance_test(turn, exact, n=2000).check()
    result = reversibility_test(turn, exact, n=10000)
    assert result.p_value < 1e-9
    assert result.worst()[0].name == "x[0], x[1]"


def test_missing_hastings_correction_breaks_reversibility():
    reversibility_test(multiplicative(), gamma_draws, n=10000).check()
    assert reversibility_test(multiplicative(hastings=False), gamma_draws, n=10000, num_steps=4).p_value < 1e-9


@pytest.mark.parametrize("f", [lambda x: x[:, 0], lambda x: x[:, 0].square()])
def test_p_values_are_uniform(f):
    p = [invariance_test(autoregressive(), normal_draws, num_steps=2, n=400, functions=f, seed=s).p_value for s in range(200)]
    ks_test(torch.tensor(p), lambda u: u.clamp(0, 1)).check()


def test_p_values_of_reversibility_are_uniform():
    def f(x, y):
        return x[:, 0].square() * y[:, 0]

    p = [reversibility_test(autoregressive(), normal_draws, n=400, functions=f, seed=s).p_value for s in range(200)]
    ks_test(torch.tensor(p), lambda u: u.clamp(0, 1)).check()


@pytest.mark.parametrize("persistence", [0.0, 0.9])
def test_detectable_shifts_are_found_and_half_of_them_are_not(persistence):
    """A shift of E f by `detectable` standard deviations is found in 99 of 100 cases; by half of that, in half of 1 %."""
    ar, found = autoregressive(persistence=persistence), {1.0: 0, 0.5: 0}
    size = invariance_test(ar, normal_draws, num_steps=1, n=400, functions={"x": lambda x: x[:, 0]}).detectable
    for part in found:
        for seed in range(100):
            result = invariance_test(
                lambda x, part=part: ar(x) + part * size, normal_draws, num_steps=1, n=400, functions={"x": lambda x: x[:, 0]},
                seed=seed,
            )  # fmt: skip
            found[part] += not result.passed
    assert found[1.0] >= 94  # 99 expected; 93 or fewer has probability 1e-4
    assert found[0.5] <= 20  # at half the distance z is 3.6, against a threshold of 4.9: 10 expected


def test_a_slow_kernel_is_compared_with_its_own_start():
    """What the start has by chance is no news where chains have hardly moved: the error shrinks with the distance gone."""
    slow = invariance_test(autoregressive(persistence=0.999), normal_draws, num_steps=1, n=2000)
    fast = invariance_test(autoregressive(persistence=0.0), normal_draws, num_steps=1, n=2000)
    assert slow.detectable < 0.15 * fast.detectable
    assert invariance_test(autoregressive(noise=1.3, persistence=0.999), normal_draws, num_steps=1, n=20000).passed
    many = invariance_test(autoregressive(noise=1.3, persistence=0.999), normal_draws, num_steps=60, n=2000)
    assert many.p_value < 1e-9


def test_heavy_tails_raise_no_alarm():
    """Cauchy draws have no mean, so their normal scores are compared."""
    for seed in range(SEEDS):
        invariance_test(lambda x: torch.randn_like(x) / torch.randn_like(x), lambda n: torch.randn(n, 3) / torch.randn(n, 3),
                        num_steps=1, n=1000, seed=seed).check()  # fmt: skip


def test_sampler_and_energy_of_the_package():
    """The unadjusted chain is biased, var = 1 / (1 - s / 2), and the adjusted ones are not."""
    target = ef.energies.Gaussian(torch.zeros(6), precision=torch.ones(6))
    invariance_test((ef.MALA(0.4), target), target.sample, n=4000).check()
    result = invariance_test((ef.Langevin(0.1), target), target.sample, n=10000, num_steps=40)
    assert result.p_value < 1e-9
    assert {c.name for c in result.worst(2)} == {"energy", "sum of squares"}
    again = invariance_test((ef.Langevin(0.1), target), target.sample, n=10000, num_steps=40)
    assert again == result


def test_on_the_device(device):
    def exact(n):
        return torch.randn(n, 8, device=device)

    invariance_test(autoregressive(), exact, n=1000, energy=normal_energy).check()
    reversibility_test(autoregressive(), exact, n=1000).check()
    assert invariance_test(autoregressive(noise=1.3), exact, n=5000).p_value < 1e-9


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first = invariance_test(autoregressive(), normal_draws, n=200, seed=1)
    assert torch.equal(torch.rand(2), wanted)
    assert invariance_test(autoregressive(), normal_draws, n=200, seed=1) == first
    assert invariance_test(autoregressive(), normal_draws, n=200, seed=2) != first


def test_events_of_any_shape_and_discrete_ones():
    invariance_test(lambda x: torch.randn_like(x), lambda n: torch.randn(n, 2, 20, 20), n=300, num_steps=1).check()
    invariance_test(lambda x: torch.randint_like(x, 3), lambda n: torch.randint(3, (n, 4)), n=300, num_steps=1).check()
    invariance_test(lambda x: torch.randn_like(x), lambda n: torch.randn(n), n=300, num_steps=1).check()
    spread = chosen_elements(800)
    assert len(set(spread)) == 64
    assert spread[0] == 0 and spread[-1] == 799


def test_a_chain_that_is_lost_fails_the_test():
    result = invariance_test(lambda x: x.masked_fill(x > 3, math.nan), normal_draws, n=2000, num_steps=1)
    assert not result.passed
    assert "chains end at NaN" in str(result)


def test_results_read_well():
    passed = str(invariance_test(autoregressive(), normal_draws, n=500))
    assert passed.startswith("invariance passed: p = ")
    assert "(alpha = 1e-06)" in passed
    assert "standard deviations of a test function is found with probability 0.99" in passed
    assert len(passed.splitlines()) == 3
    failed = invariance_test(autoregressive(noise=2.0), normal_draws, n=500)
    assert len(str(failed).splitlines()) == 7
    assert " against " in str(failed)
    assert failed.worst()[0].p_value <= failed.worst()[1].p_value


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"alpha": 0.0}, ValueError, "alpha must be between 0 and 1"),
        ({"n": 10}, ValueError, "n must be at least 100, got 10"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"num_steps": 1.5}, TypeError, "num_steps must be an int, got float"),
        ({"functions": {}}, ValueError, "functions is empty"),
        ({"functions": 3}, TypeError, "functions must be a function or a dict of functions, got int"),
        ({"functions": {"mean": lambda x: x.mean()}}, ValueError, "functions['mean'] must return (n,) or (n, k) numbers"),
        ({"kernel": 3}, TypeError, "kernel must be a function x -> x' or (sampler, energy), got int"),
        ({"kernel": lambda x: x[1:]}, ValueError, "kernel must return states of shape (100, 8), got (99, 8)"),
        ({"sample_exact": 3}, TypeError, "sample_exact must be a function n -> (n, *event), got int"),
        ({"sample_exact": lambda n: torch.zeros(3)}, ValueError, "must return a tensor (4596, *event), got (3,)"),
        ({"sample_exact": lambda n: torch.full((n,), math.nan)}, ValueError, "sample_exact returned NaN"),
        ({"energy": lambda x: x.sum()}, ValueError, "energy must return (4096,) numbers"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(change, error, said):
    how = {"kernel": autoregressive(), "sample_exact": normal_draws, "n": 100} | change
    with pytest.raises(error) as caught:
        invariance_test(how.pop("kernel"), how.pop("sample_exact"), **how)
    assert said in str(caught.value)
