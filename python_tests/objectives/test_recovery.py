"""Diffusion recovery likelihood against Gaussian closed forms: loss, chains, the way down the ladder."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from exact_draws import ExactDraws
from torch import Tensor, nn
from torch.distributions import Normal

import ebm_fast as ef
from ebm_fast.models import LevelEnergy
from ebm_fast.objectives import DiffusionRecoveryLikelihood, RecoveryEnergy, diffusion_sigmas, recovery_loss

F64 = torch.float64
SIGMAS = (0.3, 0.5, 0.7)
MEAN, STD = 0.8, 0.6  # of Gaussian data


class Levels(nn.Module):
    """E(y, t) = p_t |y - m_t|^2 / 2."""

    def __init__(self, m: list[float], p: list[float], dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.m, self.p = nn.Parameter(torch.tensor(m, dtype=dtype)), nn.Parameter(torch.tensor(p, dtype=dtype))

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        return 0.5 * self.p[t] * (y - self.m[t][:, None]).square().sum(1)

    def recovery(self, x: Tensor, sigma: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, d) and variance (n, 1) of y given x."""
        p, m, noise = self.p[t][:, None], self.m[t][:, None], sigma[:, None] ** 2
        return (p * m + x / noise) / (p + 1 / noise), 1 / (p + 1 / noise)


def marginals() -> tuple[list[float], list[float]]:
    """Mean and precision of y_t for data N(MEAN, STD^2): the diffusion by hand, a step at a time."""
    mean, variance, means, precisions = MEAN, STD**2, [], []
    for sigma in SIGMAS:
        mean, variance = math.sqrt(1 - sigma**2) * mean, (1 - sigma**2) * variance
        means.append(mean)
        precisions.append(1 / variance)
        variance += sigma**2
    return means, precisions


class Recorder:
    """The energy's calls, and points for `ExactDraws` whose sum and sum of squares are those expected of y given x, for d = 2."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        self.states: list[Tensor] = []

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        self.states.append(y)
        return self.levels(y, t)

    def points(self, condition: dict[str, Tensor]) -> Tensor:
        self.condition = condition
        mean, variance = (v.detach() for v in self.levels.recovery(**condition))
        centre = mean.mean(1, keepdim=True)
        apart = (mean.square().mean(1, keepdim=True) + variance - centre.square()).sqrt()
        y = torch.cat([centre + apart, centre - apart], 1)
        return (y - condition["x"]) / condition["sigma"][:, None]


def exact(levels: Levels, weight: Any = None) -> tuple[Recorder, DiffusionRecoveryLikelihood]:
    recorder = Recorder(levels)
    sampler = ExactDraws(recorder.points)
    objective = DiffusionRecoveryLikelihood(recorder, SIGMAS, sampler, weight=weight, seed=1, strategy="step")
    return recorder, objective


@pytest.mark.parametrize("weight", [None, lambda t: 1.0 / SIGMAS[t]])
def test_gradient_is_that_of_the_recovery_likelihood(weight):
    """With draws of exact moments the gradient is that of -mean w log N(y_t; ...) on the very pairs (y_t, x_{t+1}), to
    rounding."""
    levels = Levels([0.3, 0.1, -0.2], [2.0, 1.0, 3.0])
    recorder, objective = exact(levels, weight)
    loss, metrics = objective(torch.randn(50, 2, dtype=F64))
    y, condition = recorder.states[-1][:50], recorder.condition
    mean, variance = levels.recovery(**condition)
    log_p = Normal(mean, variance.sqrt()).log_prob(y).sum(1)
    weights = 1.0 if weight is None else 1.0 / condition["sigma"]
    found = torch.autograd.grad(loss, list(levels.parameters()))
    for got, want in zip(found, torch.autograd.grad(-(weights * log_p).mean(), list(levels.parameters())), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    assert set(condition["t"].tolist()) == {0, 1, 2}
    assert metrics["gap"].item() == pytest.approx((metrics["energy_samples"] - metrics["energy_data"]).item())
    assert "grad_norm" not in metrics


def test_the_minimum_is_the_marginal_density_of_every_level():
    """At the exact marginals of y_t the gradient of 200 000 pairs is 0 within 5.5 standard errors (false alarm 4e-8 an entry),
    and with means 4 % of a standard deviation or precisions 10 % off it is not, at the two levels of less noise."""
    n, (means, precisions) = 200_000, marginals()
    data = MEAN + STD * torch.randn(n, 2, dtype=F64)

    def scores(levels: Levels) -> tuple[Tensor, Tensor]:
        recorder, objective = exact(levels)
        objective(data)
        y, condition = recorder.states[-1][:n], recorder.condition
        m, v = levels.recovery(**condition)
        p, t = levels.p[condition["t"]][:, None], condition["t"]
        at = levels.m[t][:, None]
        # dE/dm and dE/dp of the datum less their expectations given x, each level's rows apart.
        of_m = (p * (m - y)).sum(1)
        of_p = 0.5 * ((y - at).square() - (m - at).square() - v).sum(1)
        terms = torch.stack([of_m, of_p], 1).detach()
        rows = [terms[t == level] for level in range(3)]
        loss, _ = exact(levels)[1](data)
        gradient = torch.stack(torch.autograd.grad(loss, list(levels.parameters())), 1)
        total = torch.stack([r.sum(0) for r in rows]) / n
        torch.testing.assert_close(gradient, total, rtol=1e-8, atol=1e-12)
        return gradient, torch.stack([5.5 * (r.square().sum(0)).sqrt() / n for r in rows])

    gradient, error = scores(Levels(means, precisions))
    assert bool((gradient.abs() < error).all()), gradient / error
    gradient, error = scores(Levels([m + 0.04 / math.sqrt(p) for m, p in zip(means, precisions)], precisions))
    assert bool((gradient[:2, 0].abs() > error[:2, 0]).all())
    gradient, error = scores(Levels(means, [1.1 * p for p in precisions]))
    assert bool((gradient[:2, 1].abs() > error[:2, 1]).all())


def test_ladder_is_the_linear_gaussian_one():
    """K Langevin steps a level, whose law is Gaussian: mean and variance of every x_t within 5.5 standard errors of the
    recursion in units of y, and 2 % off where the steps were not scaled by sigma^2."""
    n, steps, s, (means, precisions) = 100_000, 6, 0.1, marginals()
    levels = Levels(means, precisions, torch.float32)
    objective = DiffusionRecoveryLikelihood(levels, SIGMAS, ef.Langevin(step_size=s), num_steps=steps)
    rungs = objective.sample(n, 2, seed=3, ladder=True)
    assert rungs.shape == (4, n, 2) and torch.equal(objective.sample(n, 2, seed=3), rungs[-1])

    def law(scaled: bool) -> list[tuple[float, float]]:
        mean, variance, laws = 0.0, 1.0, [(0.0, 1.0)]
        for sigma, m, p in reversed(list(zip(SIGMAS, means, precisions))):
            step = s * sigma**2 if scaled else s * SIGMAS[0] ** 2
            # y_k = a_k x + b_k + noise of variance c_k, from y_0 = x.
            a, b, c = 1.0, 0.0, 0.0
            for _ in range(steps):
                keep = 1.0 - step * (p + 1 / sigma**2)
                a, b, c = keep * a + step / sigma**2, keep * b + step * p * m, keep**2 * c + 2 * step
            shrink = math.sqrt(1 - sigma**2)
            mean, variance = (a * mean + b) / shrink, (a * a * variance + c) / shrink**2
            laws.append((mean, variance))
        return laws

    apart = 0.0
    for x, (mean, variance), (other, _) in zip(rungs, law(True), law(False), strict=True):
        error = 5.5 * math.sqrt(variance / (2 * n))
        assert abs(x.mean().item() - mean) < error
        assert abs(x.var().item() - variance) < 5.5 * variance * math.sqrt(2 / (2 * n))
        apart = max(apart, abs(other - mean) / error)
    assert apart > 3, "power"


def test_training_and_sampling_recover_the_data():
    """Levels learned from 50 % off, then the ladder down: mean and standard deviation of Gaussian data within 0.06."""
    torch.manual_seed(0)
    data = MEAN + STD * torch.randn(1000, 2)
    sigmas = diffusion_sigmas(6)
    levels = Levels([0.0] * 6, [1.0] * 6, torch.float32)
    objective = DiffusionRecoveryLikelihood(levels, sigmas, ef.MALA(step_size=0.3), num_steps=8, seed=0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.08)
    for i in range(120):
        loss, metrics = objective(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i == 90:
            optimizer.param_groups[0]["lr"] = 0.01
    assert metrics["moved"].item() == pytest.approx(1.0, abs=0.1)
    x = objective.sample(5000, 2, seed=1, num_steps=20)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.06) and x.std().item() == pytest.approx(STD, abs=0.06)


def test_pairs_are_those_of_the_diffusion():
    """Level t: y_t = scale x_0 + spread eps as the product of the steps says, x_{t+1} = y_t + sigma eps', eps' apart from eps."""
    n, x0 = 60_000, 2.0
    recorder, objective = exact(Levels([0.0] * 3, [1.0] * 3))
    objective(torch.full((n, 2), x0, dtype=F64))
    y, x, t = recorder.states[-1][:n], recorder.condition["x"], recorder.condition["t"]
    left = 1.0
    for level, sigma in enumerate(SIGMAS):
        rows, share = t == level, (t == level).double().mean().item()
        assert abs(share - 1 / 3) < 5.5 * math.sqrt(2 / 9 / n)
        mean, variance = math.sqrt(1 - sigma**2) * math.sqrt(left) * x0, (1 - sigma**2) * (1 - left)
        noise, error = (x - y)[rows] / sigma, 5.5 / math.sqrt(2 * n * share)
        assert (y[rows].mean() - mean).abs() < error * math.sqrt(variance) + 1e-12
        assert (y[rows].var() - variance).abs() < math.sqrt(2) * error * variance + 1e-12
        assert noise.mean().abs() < error and (noise.var() - 1).abs() < math.sqrt(2) * error
        if variance:
            assert ((y[rows] - mean) / math.sqrt(variance) * noise).mean().abs() < error
        assert torch.equal(recorder.condition["sigma"][rows].unique(), torch.tensor([sigma], dtype=F64))
        left *= 1 - sigma**2


def test_recovery_energy_and_schedule():
    levels, t = Levels([0.3, 0.1, -0.2], [2.0, 1.0, 3.0]), torch.tensor([0, 2, 1])
    u, x, sigma = torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64), torch.tensor([0.3, 0.7, 0.5], dtype=F64)
    y = x + sigma[:, None] * u
    wanted = levels(y, t) + (x - y).square().sum(1) / (2 * sigma**2)
    torch.testing.assert_close(RecoveryEnergy(levels)(u, x=x, sigma=sigma, t=t), wanted, rtol=1e-12, atol=0)
    sigmas = diffusion_sigmas(5, smallest=0.2, largest=0.9)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (0.2, 0.9, 5)
    steps = [b**2 - a**2 for a, b in itertools.pairwise(sigmas)]
    assert steps == pytest.approx([0.77 / 4] * 4)
    energy = LevelEnergy(2, 3, (8,))
    assert energy(x.float(), t).shape == (3,)
    assert not torch.equal(energy(x.float(), t), energy(x.float(), torch.zeros(3, dtype=torch.int64)))
    far = 1e4 * torch.randn(4, 2)
    assert (energy(far, torch.zeros(4, dtype=torch.int64)) > 0.4 * far.square().sum(1)).all()


LANGEVIN = ef.Langevin(step_size=0.05)


def small(**options: Any) -> DiffusionRecoveryLikelihood:
    torch.manual_seed(0)
    return DiffusionRecoveryLikelihood(LevelEnergy(2, 3, (8, 8)), SIGMAS, LANGEVIN, **{"num_steps": 4, **options})


def test_protocol_and_resume():
    data, before = torch.randn(8, 2), None
    objective = small(seed=3)

    def train(objective: DiffusionRecoveryLikelihood, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, metrics = objective(data)
            assert loss.shape == () and all(m.shape == () and not m.requires_grad and m.isfinite() for m in metrics.values())
            assert all(p.grad is None for p in objective.parameters())
            with torch.no_grad():
                for p, g in zip(objective.parameters(), torch.autograd.grad(loss, list(objective.parameters()))):
                    p -= 0.05 * g
            losses.append(loss.item())
        return losses

    before = data.clone()
    train(objective, 2)
    other = small()
    other.energy.load_state_dict(objective.energy.state_dict())
    other.load_state_dict(objective.state_dict())
    assert train(other, 2) == train(objective, 2) and torch.equal(data, before)
    assert list(objective.parameters()) == list(objective.energy.parameters())
    objective.finish_checks()


def test_split_batches_and_samples_are_the_same():
    data = torch.randn(8, 2)
    whole, *halves = (
        small(seed=2, chain_offset=o)(part)[0] for o, part in ((0, data), (0, data[:4]), (4, data[4:]))
    )  # fmt: skip
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2, rtol=1e-5, atol=1e-6)
    objective = small(seed=2)
    samples = objective.sample(6, 2, seed=9)
    torch.testing.assert_close(objective.sample(2, 2, seed=9, chain_offset=4), samples[4:], rtol=1e-5, atol=1e-6)
    assert samples.dtype == torch.float32 and not samples.requires_grad and objective.iteration == 0
    assert not torch.equal(samples, objective.sample(6, 2, seed=10))


def test_labels_reach_the_energy():
    seen: list[Tensor] = []

    def energy(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return 0.5 * x.square().sum(1) * (1 + y) + 0 * t

    labels = torch.tensor([0, 1, 2])
    # Step by step, since a captured energy is called while it is captured alone.
    objective = DiffusionRecoveryLikelihood(energy, SIGMAS, LANGEVIN, num_steps=2, strategy="step")
    objective((torch.randn(3, 2), labels))
    assert [y.tolist() for y in seen] == [[0, 1, 2]] * 2 + [[0, 1, 2] * 2]
    assert objective.sample(3, 2, y=labels).shape == (3, 2) and len(seen) == 3 + 3 * 2


def test_errors():
    energy = LevelEnergy(2, 3, (8,))
    for error, match, options in (
        (ValueError, "sigmas", {"sigmas": ()}),
        (ValueError, "sigmas", {"sigmas": (0.5, 1.0)}),
        (ValueError, "sigmas", {"sigmas": (0.0, 0.5)}),
        (TypeError, "sampler", {"sampler": 0.1}),
        (ValueError, "num_steps", {"num_steps": 0}),
        (ValueError, "weight", {"weight": lambda t: -1.0}),
        (TypeError, "weight: expected a function", {"weight": 0.5}),
        (ValueError, "strategy", {"strategy": "fast"}),
        (TypeError, "energy", {"energy": LevelEnergy}),
        (ValueError, "chain_offset", {"chain_offset": -1}),
    ):
        with pytest.raises(error, match=match):
            DiffusionRecoveryLikelihood(**{"energy": energy, "sigmas": SIGMAS, "sampler": LANGEVIN, **options})
    data = torch.randn(3, 2)
    data[0, 0] = math.nan
    objective = small(seed=0, check=True)
    with pytest.raises(FloatingPointError, match=r"not finite: batch, samples, energy_data, energy_samples$"):
        objective(data)
    assert objective.iteration == 0
    with pytest.raises(ValueError, match=r"energy: expected one energy a state, \(3,\), got \(3, 2\)"):
        DiffusionRecoveryLikelihood(lambda y, t: y, SIGMAS, LANGEVIN)(torch.randn(3, 2))
    for bad in ({"n": 0}, {"num_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            objective.sample(**{"n": 2, "event_shape": 2, **bad})
    for arguments in ({"num_levels": 1}, {"smallest": 0.9, "largest": 0.5}, {"largest": 1.0}):
        with pytest.raises(ValueError, match=r"num_levels|smallest"):
            diffusion_sigmas(**{"num_levels": 4, **arguments})
    one, two, three = torch.ones(0), torch.ones(2), torch.ones(3)
    for arguments in ((two, three), (one, one), (two, two, three)):
        with pytest.raises(ValueError, match="e_data, e_model, weight"):
            recovery_loss(*arguments)
    with pytest.raises(ValueError, match="dim, num_levels, widths"):
        LevelEnergy(2, 3, ())
    with pytest.raises(ValueError, match=r"x: expected \(n, 2\)"):
        energy(torch.randn(3, 4), torch.zeros(3, dtype=torch.int64))
