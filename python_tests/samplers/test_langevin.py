"""Langevin against exact laws: the chain on a Gaussian is Gaussian, step by step, so every constant can be checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ebm_fast as ef

Z = 5.6  # two-sided normal quantile: 2e-8 each, below 1e-6 over some tens of checks
CHAINS = 100_000


def quadratic(a: float):
    return lambda x: 0.5 * a * x.square().flatten(1).sum(1)


def assert_variance(x: torch.Tensor, wanted: float, what: str = "") -> None:
    """Sample variance of centred normals: relative sd sqrt(2/n). The bound must see a 3 % error."""
    n = x.numel()
    bound = Z * math.sqrt(2.0 / n)
    assert bound < 0.03
    assert abs(x.double().square().mean().item() / wanted - 1.0) < bound, what


def assert_mean(x: torch.Tensor, wanted: float, sd: float) -> None:
    assert abs(x.double().mean().item() - wanted) < Z * sd / math.sqrt(x.numel())


@pytest.mark.parametrize(
    ("epsilon", "temperature", "strategy"),
    [(0.1, 1.0, "step"), (0.5, 0.3, "step"), (0.02, 2.0, "step"), (0.5, 0.3, "reference")],
)
def test_stationary_variance_of_the_discretised_ou_process(epsilon, temperature, strategy, device):
    """x <- (1 - eps a) x + sqrt(2 eps T) z has variance T / (a (1 - eps a / 2)): the bias of ULA in eps, exactly."""
    a = 1.3
    exact = temperature / (a * (1.0 - epsilon * a / 2.0))
    x0 = math.sqrt(exact) * ef.ops.normal_(torch.empty(CHAINS, 1, device=device), seed=1)
    run = ef.sample(
        quadratic(a), ef.Langevin(epsilon, temperature=temperature), x0, num_steps=10, thin=10, seed=2, strategy=strategy
    )
    assert_variance(run.final, exact)
    assert_mean(run.final, 0.0, math.sqrt(exact))
    biased = abs(temperature / a / exact - 1.0)  # forgetting the bias would be seen wherever it exceeds the bound
    assert epsilon < 0.1 or biased > Z * math.sqrt(2.0 / CHAINS)


@pytest.mark.parametrize("order", ["gradient", "noise"])
def test_decoupled_chain_has_its_exact_law(order, device):
    """Precision a, scale s, noise n: after K steps from x0 the law is Gaussian; stationary variance n^2 / (s a (2 - s a)), times
    (1 - s a)^2 for noise first; autocorrelation (1 - s a)^t."""
    a, s, n = 2.0, 0.3, 0.5
    r = 1.0 - s * a
    factor = 1.0 if order == "gradient" else r * r
    stationary = factor * n * n / (s * a * (2.0 - s * a))
    sampler = ef.Langevin(s, noise_std=n, order=order)
    x0 = torch.full((CHAINS, 1), 2.0, device=device)
    run = ef.sample(quadratic(a), sampler, x0, num_steps=6, thin=1, seed=3)
    for k in range(6):
        mean = 2.0 * r ** (k + 1)
        variance = factor * n * n * (1.0 - r ** (2 * (k + 1))) / (1.0 - r * r)
        assert_mean(run.samples[k], mean, math.sqrt(variance))
        assert_variance(run.samples[k] - mean, variance, f"step {k}")
    assert variance == pytest.approx(stationary, rel=1e-3)
    x = ef.sample(quadratic(a), sampler, torch.zeros_like(x0), num_steps=43, warmup=40, seed=4).samples.double()
    for lag in (1, 2):
        correlation = (x[0] * x[lag]).mean().item() / stationary
        assert abs(correlation - r**lag) < Z * math.sqrt((1 + r ** (2 * lag)) / CHAINS)


def test_clamp_between_changes_the_law_where_it_should():
    """Order of clamp and noise: after the last move nothing lies outside; after the step only, the noise may."""
    x0 = torch.zeros(5000, 3)
    last = ef.sample(quadratic(1.0), ef.Langevin(0.1, noise_std=1.0, clamp=(-0.5, 0.5)), x0, num_steps=3, seed=0)
    step = ef.sample(
        quadratic(1.0), ef.Langevin(0.1, noise_std=1.0, clamp=(-0.5, 0.5), clamp_after="step"), x0, num_steps=3, seed=0
    )
    assert last.final.abs().max().item() == 0.5
    assert step.final.abs().max().item() > 2.0
    noise_first = ef.Langevin(0.1, noise_std=1.0, order="noise", clamp=(-0.5, 0.5))
    assert ef.sample(quadratic(1.0), noise_first, x0, num_steps=3, seed=0).final.abs().max().item() == 0.5


def test_noise_free_and_heavy_ball_are_gradient_descent():
    x0 = torch.randn(7, 4, dtype=torch.float64)
    run = ef.sample(quadratic(2.0), ef.Langevin(0.1, noise_std=0.0), x0, num_steps=5, seed=0)
    torch.testing.assert_close(run.final, x0 * 0.8**5, atol=1e-12, rtol=1e-12)
    x, v = x0.clone(), torch.zeros_like(x0)
    for _ in range(6):
        v = 0.9 * v - 0.1 * 2.0 * x
        x = x + v
    run = ef.sample(quadratic(2.0), ef.Langevin(0.1, noise_std=0.0, momentum=0.9), x0, num_steps=6, seed=0)
    torch.testing.assert_close(run.final, x, atol=1e-12, rtol=1e-12)
    half = ef.sample(quadratic(2.0), ef.Langevin(0.1, noise_std=0.0, momentum=0.9), x0, num_steps=2, seed=0)
    rest = ef.sample(quadratic(2.0), ef.Langevin(0.1, noise_std=0.0, momentum=0.9), num_steps=4, resume=half.state)
    assert torch.equal(rest.final, run.final)


def test_prior_precision_adds_a_gaussian_prior():
    x0 = torch.randn(50, 3)
    plain = ef.sample(quadratic(1.5), ef.Langevin(0.1), x0, num_steps=5, seed=1).final
    split = ef.sample(quadratic(1.0), ef.Langevin(0.1, prior_precision=0.5), x0, num_steps=5, seed=1).final
    torch.testing.assert_close(plain, split, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", ["gradient", "noise"])
def test_schedules_and_per_chain_step_sizes(order):
    x0 = torch.randn(6, 3)
    steps, noises = (0.1, 0.05, 0.2, 0.01), (0.3, 0.2, 0.1, 0.0)
    listed = ef.langevin_(x0.clone(), quadratic(1.0), num_steps=4, step_size=steps, noise_std=noises, order=order, seed=5)
    called = ef.langevin_(
        x0.clone(), quadratic(1.0), num_steps=4, step_size=lambda k: steps[k], noise_std=lambda k: noises[k], order=order, seed=5
    )
    by_hand = x0.clone()
    for k in range(4):
        ef.langevin_(by_hand, quadratic(1.0), num_steps=1, step_size=steps[k], noise_std=noises[k], order=order, seed=5, step=k)
    assert torch.equal(listed, called)
    torch.testing.assert_close(listed, by_hand, atol=1e-6, rtol=1e-6)
    per_chain = torch.linspace(0.01, 0.3, 6)
    together = ef.langevin_(x0.clone(), quadratic(1.0), num_steps=4, step_size=per_chain, order=order, seed=5)
    for i in range(6):
        alone = ef.langevin_(
            x0[i : i + 1].clone(), quadratic(1.0), num_steps=4, step_size=per_chain[i].item(), order=order, seed=5, chain_offset=i
        )
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"schedule of 4 steps, .* from step 0 to step 5"):
        ef.langevin_(x0.clone(), quadratic(1.0), num_steps=5, step_size=steps, seed=0)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"step_size": float("nan")}, ValueError, "step_size"),
        ({"step_size": -1}, ValueError, "step_size"),
        ({"step_size": ()}, ValueError, "empty schedule"),
        ({"step_size": (0.1, -0.1)}, ValueError, "step_size"),
        ({"step_size": 0.1, "order": "both"}, ValueError, "order must be 'gradient' or 'noise'"),
        ({"step_size": 0.1, "clamp": (1, 1)}, ValueError, "low < high"),
        ({"step_size": 0.1, "clamp_after": "x"}, ValueError, "clamp_after"),
        ({"step_size": 0.1, "grad_clip": 1, "grad_clip_norm": 1}, ValueError, "not both"),
        ({"step_size": 0.1, "temperature": -1}, ValueError, "temperature"),
        ({"step_size": 0.1, "momentum": float("inf")}, ValueError, "momentum"),
        ({"step_size": np.array([0.1, 0.2])}, TypeError, "step_size must be a number or a tensor, got an array"),
        ({"step_size": 0.1, "clamp": 3}, TypeError, "clamp must be a pair"),
    ],
)
def test_bad_hyper_parameters_are_refused_at_once(kwargs, error, match):
    with pytest.raises(error, match=match):
        ef.Langevin(**kwargs)


def test_own_loop_with_init_and_step_equals_sample():
    sampler, energy, x0 = ef.Langevin(0.1), quadratic(1.0), torch.randn(5, 2)
    state = sampler.init(energy, x0, seed=6)
    for _ in range(4):
        before = state.x.clone()
        following, info = sampler.step(energy, state)
        assert torch.equal(state.x, before)  # a pure function
        torch.testing.assert_close(info.energy, energy(before))
        torch.testing.assert_close(info.grad_norm, before.norm(dim=1))
        assert not info.diverged.any()
        state = following
    assert torch.equal(state.x, ef.sample(energy, sampler, x0, num_steps=4, seed=6).final)


def test_a_second_run_takes_one_gradient_a_step():
    calls = []

    def energy(x):
        calls.append(1)
        return 0.5 * x.square().sum(1)

    ef.langevin_(torch.zeros(3, 2), energy, num_steps=10, step_size=0.1, seed=0)
    assert len(calls) == 10
    calls.clear()
    ef.sample(energy, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=10, seed=0)
    assert len(calls) == 11  # the last kept sample's energy


def test_a_schedule_that_ends_too_soon_moves_nothing():
    x = torch.ones(4, 2)
    for arguments in ({"num_steps": 3, "step_size": 0.1, "clamp": 3}, {"num_steps": 3, "step_size": (0.1, 0.2)}):
        with pytest.raises((TypeError, ValueError), match=r"clamp must be a pair|schedule of 2 steps"):
            ef.langevin_(x, lambda x: x.square().sum(1), **arguments)
    assert torch.equal(x, torch.ones(4, 2))
