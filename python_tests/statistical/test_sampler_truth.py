"""Samplers against exact laws. Each check states its error at a false-alarm rate of about 1e-8 (5.6 sd) and what it would see."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.samplers.adaptation import Adapter

Z = 5.6


def normal(*shape: int, seed: int = 1) -> Tensor:
    return ef.ops.normal_(torch.empty(shape), seed=seed)


def assert_near(estimate: Tensor, exact: float, error: float, sees: float) -> None:
    """|mean - exact| < Z error, with Z error below the deviation that must be seen."""
    assert Z * error < sees, f"power: {Z * error:.2g} is no smaller than {sees:.2g}"
    assert abs(float(estimate) - exact) < Z * error, f"{float(estimate):.5g} beside {exact:.5g} +- {Z * error:.2g}"


def assert_mean(x: Tensor, exact: float, sees: float) -> None:
    """Mean of independent chains # (n,)."""
    x = x.double()
    assert_near(x.mean(), exact, float(x.std()) / math.sqrt(x.numel()), sees)


def two_bumps(x: Tensor) -> Tensor:
    """-log of 3 exp(-(x + 2)^2 / 2) + exp(-(x - 4)^2 / 8), the lecture's example."""
    x = x[:, 0]
    return -torch.logaddexp(math.log(3.0) - 0.5 * (x + 2.0).square(), -0.125 * (x - 4.0).square())


def test_random_walk_on_the_lectures_density():
    """A1: the weight of the left bump, 3 / (3 + 2) = 0.6 up to the tails across 0.7, from 20,000 independent chains."""
    n = 20_000
    run = ef.sample(two_bumps, ef.RandomWalkMetropolis(4.0), torch.zeros(n, 1), num_steps=300, thin=300, seed=1)
    grid = torch.linspace(-30.0, 40.0, 400_001, dtype=torch.float64)
    density = (-two_bumps(grid[:, None])).exp()
    edges = torch.tensor([-math.inf, -3.0, -2.0, -1.0, 0.0, 2.0, 4.0, 6.0, math.inf], dtype=torch.float64)
    exact = torch.stack([density[(grid >= a) & (grid < b)].sum() for a, b in itertools.pairwise(edges)]) / density.sum()
    counts = torch.histogram(run.final[:, 0].double(), edges.clamp(-1e9, 1e9)).hist
    chi2 = float(((counts - n * exact).square() / (n * exact)).sum())
    assert chi2 < 49.6  # 7 degrees of freedom, 1e-8... a bump 3 % too heavy shifts chi2 by 22 times that weight
    left = float(counts[:5].sum() / n)
    assert abs(left - float(exact[:5].sum())) < Z * math.sqrt(0.24 / n) < 0.02


@pytest.mark.parametrize("corrected", [True, False])
def test_an_asymmetric_proposal_on_a_gamma_density(corrected):
    """A2: a multiplicative random walk needs the ratio x' / x; without it the density is that of x^(k - 2), one power too low."""
    k, n = 4.0, 40_000

    def propose(x: Tensor, noise: ef.samplers.ProposalNoise) -> tuple[Tensor, Tensor]:
        y = 0.8 * noise.normal()
        return x * y.exp(), y.sum(1) if corrected else torch.zeros(x.shape[0])

    energy = ef.energies.Gamma(torch.tensor([k]), torch.tensor([1.0]))
    run = ef.sample(energy, ef.MetropolisHastings(propose), torch.full((n, 1), 3.0), num_steps=100, thin=100, seed=2)
    assert_mean(run.final[:, 0], k if corrected else k - 1.0, 0.1)
    assert_mean(run.final[:, 0].log(), float(torch.digamma(torch.tensor(k if corrected else k - 1.0))), 0.05)


def test_independence_sampler():
    """A2: Gaussian from a wider one; the second moment would show a missing ratio (1.69 instead of 1)."""
    run = ef.sample(lambda x: 0.5 * x.square().sum(1), ef.IndependenceMetropolis.gaussian(0.2, 1.3), normal(40_000, 1),
                    num_steps=40, thin=40, seed=3)  # fmt: skip
    assert_mean(run.final[:, 0].square(), 1.0, 0.05)


@pytest.mark.parametrize("sampler", [ef.MALA(0.15), ef.HMC(0.25, 6), ef.HMC(0.4, 6, leapfrog_jitter=True, step_jitter=0.5),
                                     ef.GHMC(0.25, num_leapfrog=3)], ids=["mala", "hmc", "jitter", "ghmc"])  # fmt: skip
def test_a_banana(sampler):
    """A5, A7: stays in the law of the exact sampler, from the exact sampler, in the moments that the bend couples."""
    energy = ef.energies.Rosenbrock(2, a=0.5, b=2.0)
    n = 40_000
    run = ef.sample(energy, sampler, energy.sample(n, seed=5).float(), num_steps=30, thin=30, seed=6)
    x, y = run.final.double().unbind(1)
    # x ~ N(a, 1/2), y | x ~ N(x^2, 1/(2b)): E x = 0.5, E x^2 = 0.75, E y = 0.75, E (y - x^2)^2 = 0.25
    for value, exact, sees in ((x, 0.5, 0.03), (x.square(), 0.75, 0.04), (y, 0.75, 0.05), ((y - x * x).square(), 0.25, 0.02)):
        assert_mean(value, exact, sees)
    assert 0.4 < float(run.stats.acceptance.mean()) < 0.999


def test_order_of_the_bias_of_underdamped_langevin():
    """A6: in a well of changing curvature BAOAB's bias of E x^2 falls as e^2 (the overdamped chain's as e); GHMC has none."""
    n = 200_000
    grid = torch.linspace(-20.0, 20.0, 400_001, dtype=torch.float64)
    density = (-4.0 * (1.0 + grid**2).sqrt()).exp()
    exact = float((density * grid.square()).sum() / density.sum())

    def well(x: Tensor) -> Tensor:
        return 4.0 * (1.0 + x * x).sqrt().sum(1)

    x0 = grid[torch.multinomial(density, n, replacement=True, generator=torch.Generator().manual_seed(0))].float()[:, None]

    def bias(sampler) -> tuple[float, float]:
        kept = ef.sample(well, sampler, x0, num_steps=40, warmup=10, thin=10, seed=7).samples[..., 0].double().square().mean(0)
        return float(kept.mean()) - exact, float(kept.std()) / math.sqrt(n)

    coarse, error = bias(ef.UnderdampedLangevin(0.9))
    fine, _ = bias(ef.UnderdampedLangevin(0.45))
    assert abs(coarse) > 8 * error  # the bias is seen
    assert abs(fine) < 0.4 * abs(coarse) + Z * error  # a first-order method would leave half of it
    without, error = bias(ef.GHMC(0.9))
    assert abs(without) < Z * error
    assert Z * error < 0.5 * abs(coarse)


def test_underdamped_langevin_is_exact_on_a_gaussian():
    """A6: BAOAB's positions have no bias on Gaussian targets, at any stable step size and temperature."""
    T, n = 0.7, 100_000
    run = ef.sample(lambda x: x.square().sum(1), ef.UnderdampedLangevin(0.9, friction=1.5, temperature=T),
                    math.sqrt(T / 2.0) * normal(n, 1), num_steps=30, thin=30, seed=8)  # fmt: skip
    assert_mean(run.final[:, 0].square(), T / 2.0, 0.02)
    # the velocities' variance is T (1 - a e^2 / 4) with a = 2
    assert_mean(run.state.extra["momentum"][:, 0].square(), T * (1.0 - 2.0 * 0.9**2 / 4.0), 0.02)


def trajectory(x: Tensor, p: Tensor, grad, step: float, L: int) -> tuple[Tensor, Tensor]:
    """Leapfrog by the ops themselves."""
    x, p = x.clone(), p.clone()
    for i in range(L):
        ef.ops.leapfrog_(x, p, grad(x), kick=0.5 * step, drift=step)
        ef.ops.leapfrog_(x, p, grad(x), kick=0.5 * step, drift=0.0)
        assert torch.isfinite(x).all(), i
    return x, p


def test_leapfrog_is_reversible_keeps_volume_and_has_an_error_of_second_order():
    """A7, in float64."""
    def potential(x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1) + 0.1 * x.pow(4).sum(1) + 0.4 * x[:, 0] * x[:, 1]

    def grad(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(potential(x).sum(), x)[0]

    x, p = normal(50, 2).double(), normal(50, 2, seed=2).double()
    y, q = trajectory(x, p, grad, 0.1, 20)
    back, minus_p = trajectory(y, -q, grad, 0.1, 20)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-minus_p, p, rtol=1e-9, atol=1e-9)

    def flow(z: Tensor) -> Tensor:
        return torch.cat(trajectory(z[None, :2], z[None, 2:], lambda x: x + 0.4 * x.pow(3) + 0.4 * x.flip(1), 0.2, 5), 1)[0]

    h = 1e-5
    z = torch.tensor([0.3, -0.7, 0.5, 1.1], dtype=torch.float64)
    jacobian = torch.stack([(flow(z + h * e) - flow(z - h * e)) / (2 * h) for e in torch.eye(4, dtype=torch.float64)], 1)
    assert abs(float(torch.linalg.det(jacobian)) - 1.0) < 1e-8

    def error(step: float) -> float:
        a, b = trajectory(x, p, grad, step, round(2.0 / step))
        change = potential(a) + 0.5 * b.square().sum(1) - potential(x) - 0.5 * p.square().sum(1)
        return float(change.abs().mean())

    ratio = error(0.1) / error(0.05)
    assert 3.5 < ratio < 4.5  # e^2: 4


def test_annealed_langevin_finds_the_weights_and_plain_langevin_does_not():
    """A8: 1/5 N(-5, I) + 4/5 N(5, I) in 2-D from uniform starts: within 0.02 of 0.2; plain Langevin keeps the halves."""
    n = 15_000
    centres = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])

    def energy(x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        variance = 1.0 + torch.as_tensor(sigma).reshape(-1, 1) ** 2
        log = -0.5 * (x[:, None] - centres).square().sum(2) / variance - variance.log()
        return -torch.logsumexp(log + torch.tensor([0.2, 0.8]).log(), 1)

    x0 = 16.0 * ef.ops.uniform_(torch.empty(n, 2), seed=4) - 8.0
    sigmas = [20.0 * (0.5 / 20.0) ** (i / 9) for i in range(10)]
    ladder = ef.AnnealedLangevin(sigmas, step_size=0.02, steps_per_level=100)
    run = ef.sample(energy, ladder, x0, num_steps=ladder.num_steps, thin=ladder.num_steps, seed=1)
    annealed = float((run.final.sum(1) < 0).double().mean())
    plain = ef.sample(energy, ef.Langevin(0.02), x0[:2000], num_steps=ladder.num_steps, record=False, seed=1)
    stuck = float((plain.final.sum(1) < 0).double().mean())
    assert Z * math.sqrt(0.16 / n) < 0.02
    assert abs(annealed - 0.2) < 0.02
    assert abs(stuck - 0.2) > 0.15


@pytest.mark.parametrize(
    "sampler", [ef.Langevin(0.05, clamp=(-2.5, 2.5)), ef.RandomWalkMetropolis(0.6), ef.HMC(0.06, 8)], ids=["ula", "rw", "hmc"]
)
def test_simulated_annealing_concentrates_on_the_minimum(sampler):
    """A9: a tilted double well; at beta = 60 all but a few chains are in the lower well, with the variance 1 / (beta E'')."""
    def tilted(x: Tensor) -> Tensor:
        return ((x * x - 1.0).square() + 0.3 * x).sum(1)

    n, steps, beta = 2_000, 1_000 if isinstance(sampler, ef.HMC) else 4_000, 60.0  # 8 gradients a step of HMC
    run = ef.sample(tilted, ef.SimulatedAnnealing.geometric(sampler, steps, 0.5, beta), normal(n, 1), num_steps=steps,
                    thin=steps, seed=9)  # fmt: skip
    x = run.final[:, 0].double()
    minimum = -1.0357  # of (x^2 - 1)^2 + 0.3 x
    lower = x < 0
    assert float(lower.double().mean()) > 0.85
    curvature = 12.0 * minimum**2 - 4.0
    spread = float((x[lower] - minimum).square().mean()) * beta * curvature
    assert 0.8 < spread < 1.5  # Langevin's own bias at this step is 1 / (1 - s E'' / 2) = 1.29
    start = float((normal(n, 1)[:, 0] < 0).double().mean())
    assert start < 0.55  # and it did not begin there


@pytest.mark.parametrize(
    "sampler", [ef.HMC(0.7, 3), ef.MALA(0.8), ef.RandomWalkMetropolis(1.5), ef.Langevin(0.1)], ids=["hmc", "mala", "rw", "ula"]
)
def test_replicas_recover_the_weights_of_modes_ten_deviations_apart(sampler):
    """A10: 1:3 weights, modes 10 sd apart in 2-D, every chain started in the light mode; without replicas none ever leaves."""
    n = 3_000
    energy = ef.energies.GaussianMixture(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]), torch.ones(2), torch.tensor([0.25, 0.75]))
    x0 = torch.tensor([-5.0, 0.0]) + normal(n, 2)
    betas = ef.ReplicaExchange.ladder(5, 0.03)
    steps = 600
    run = ef.sample(energy, ef.ReplicaExchange(sampler, betas), x0, num_steps=steps, thin=steps, seed=2)
    right = (run.final[:, 0] > 0).double()
    assert_mean(right, 0.75, 0.05)
    alone = ef.sample(energy, sampler, x0, num_steps=steps, thin=steps, seed=2)
    assert float((alone.final[:, 0] > 0).double().mean()) < 0.1
    assert (run.stats.swap_acceptance.mean(0) > 0.1).all()
    walkers = run.state.extra["labels"]
    assert torch.equal(walkers.sort(1).values, torch.arange(5).expand(n, 5))


@pytest.mark.parametrize(
    ("sampler", "target"),
    [
        (ef.RandomWalkMetropolis(0.01, adapt=ef.Adaptation()), 0.234), (ef.MALA(1e-3, adapt=ef.Adaptation()), 0.574),
        (ef.HMC(0.01, 5, leapfrog_jitter=True, adapt=ef.Adaptation()), 0.8), (ef.HMC(30.0, 3, adapt=ef.Adaptation(0.65)), 0.65),
        (ef.GHMC(0.01, adapt=ef.Adaptation()), 0.9),
    ],
    ids=["rw", "mala", "hmc", "hmc from above", "ghmc"],
)  # fmt: skip
def test_adaptation_reaches_the_acceptance(sampler, target):
    """A11: from steps 100 times too small or too large, within 0.04 of the target."""
    energy = ef.energies.Gaussian(torch.zeros(20), variance=torch.linspace(0.5, 2.0, 20))
    run = ef.sample(energy, sampler, energy.sample(200, seed=1).float(), num_steps=200, warmup=400, record=False, seed=3)
    assert abs(float(run.stats.acceptance.mean()) - target) < 0.04


@pytest.mark.parametrize("harmonic", [True, False], ids=["harmonic mean", "plain mean"])
def test_chains_that_start_on_steep_ground_are_not_left_behind(harmonic, monkeypatch):
    """A11: E = sum x^4; a tenth of the chains start where its curvature is 250 times larger: a plain mean loses them."""
    if not harmonic:
        monkeypatch.setattr(Adapter, "least", lambda self, settling, chains: 0.0)
    x0 = 0.5 * normal(200, 10)
    x0[:20] += 10.0
    run = ef.sample(lambda x: x.pow(4).sum(1), ef.HMC(0.1, 8, adapt=ef.Adaptation()), x0, warmup=400, num_steps=50, seed=3)
    assert (float(run.stats.acceptance.min()) > 0.5) is harmonic


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_the_mass_matrix_is_learnt(mass):
    """A11: variances over four decades, correlation 0.8 between neighbours: learnt to 5 %, and the acceptance is kept."""
    scales = torch.logspace(-2, 2, 8)
    correlation = torch.eye(8) + 0.8 * (torch.diag(torch.ones(7)[::1] * torch.tensor([1.0, 0] * 4)[:7], 1))
    correlation = torch.maximum(correlation, correlation.T)
    covariance = (scales[:, None] * correlation * scales).double()
    energy = ef.energies.Gaussian(torch.zeros(8), covariance=covariance)
    run = ef.sample(energy, ef.HMC(0.01, 8, leapfrog_jitter=True, adapt=ef.Adaptation(mass=mass)), normal(400, 8), warmup=600,
                    num_steps=100, seed=4)  # fmt: skip
    learnt = run.stats.adapted["inverse_mass"] if mass == "dense" else torch.diag(run.stats.adapted["scale"].square())
    error = (learnt.double() / (scales[:, None] * scales).double() - (correlation if mass == "dense" else torch.eye(8))).abs()
    assert float(error.max()) < 0.05
    assert abs(float(run.stats.acceptance.mean()) - 0.8) < 0.1


def test_chees_finds_long_trajectories_for_a_stretched_target():
    """A11: the longest scale of the target is 10; ChEES settles on trajectories of that order, from one step of 0.1."""
    energy = ef.energies.Gaussian(torch.zeros(10), variance=torch.logspace(0, 2, 10))
    x0 = energy.sample(128, seed=1).float()
    run = ef.sample(energy, ef.HMC(0.1, 1, adapt=ef.ChEES()), x0, warmup=800, num_steps=200, seed=5)
    assert 8.0 < float(run.stats.adapted["trajectory_length"]) < 60.0
    assert float(run.stats.acceptance.mean()) > 0.55
    assert float(ef.diagnostics.ess(run.samples, kind="bulk").min()) > 0.1 * run.samples[..., 0].numel()
