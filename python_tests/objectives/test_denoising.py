"""Denoising score matching against explicit score matching on the blurred density; noise-conditional training and sampling."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import NoiseConditionalEnergy, ScoreMLP
from ebm_fast.objectives import (
    DenoisingScoreMatching,
    NoiseConditionalScoreMatching,
    denoising_score_matching_loss,
    explicit_score_matching_loss,
    geometric_sigmas,
)
from ebm_fast.objectives.scores import ScoreFunction

F64 = torch.float64


def flat_gradient(loss: Tensor, module: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_equals_explicit_score_matching_on_the_parzen_density(kind):
    """Expectation over z by a tensor grid of 61 x 61 nodes of the trapezoidal rule, data of 5 points in two dimensions: the
    gradients agree to 1e-10 of their size, the values differ by a constant. At a width 1 % off they differ by 1e-4."""
    sigma = 0.7
    data = 0.8 * torch.randn(5, 2, dtype=F64)
    line = torch.linspace(-7.5, 7.5, 61, dtype=F64)
    z = torch.cartesian_prod(line, line)
    weights = torch.exp(-0.5 * z.square().sum(1))
    weights /= weights.sum()
    x, z, weights = data.repeat_interleave(len(z), 0), z.repeat(5, 1), weights.repeat(5) / 5
    kept = weights > 1e-18
    x, z, weights = x[kept], z[kept], weights[kept]
    net = ef.energies.MLPEnergy(2, (8,), "softplus") if kind == "energy" else ScoreMLP(2, (8,), conditional=False)
    net = net.double()

    def explicit(width: float) -> Tensor:
        parzen = ef.energies.GaussianMixture(data, width)
        # A weight w on |a - b|^2 is a factor sqrt(w) on a and b; n takes the mean back to a sum.
        factor = (weights * len(weights)).sqrt()[:, None]
        at = x + sigma * z
        return explicit_score_matching_loss(factor * ScoreFunction(net)(at), -factor * parzen.grad(at))

    def denoising() -> Tensor:
        return denoising_score_matching_loss(net, x, z, sigma, weight=weights * len(weights))

    gaps = []
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in net.parameters():
                p.normal_(0, 0.5)
        dsm, esm = denoising(), explicit(sigma)
        a, b, c = (flat_gradient(loss, net) for loss in (dsm, esm, explicit(1.01 * sigma)))
        assert (a - b).abs().max() < 1e-10 * b.abs().max()
        assert (a - c).abs().max() > 1e-4 * b.abs().max(), "power"
        gaps.append((dsm - esm).item())
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-10) and gaps[0] > 0.1


class LinearScore(nn.Module):
    """s = b - P x, or with sigma b and P of each of three levels."""

    def __init__(self, levels: int = 1) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(levels, 6, dtype=F64))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        level = torch.zeros(len(x), dtype=torch.long) if sigma is None else (-sigma.log2()).round().long()
        row = self.theta[level]
        return row[:, :2] - (row[:, 2:].view(-1, 2, 2) @ x[:, :, None]).squeeze(2)


def sigma_points(x: Tensor) -> tuple[Tensor, Tensor]:
    """x and z = +-sqrt(2) e_k of all four signs and axes: exact for expectations of polynomials of degree 2 in z."""
    z = math.sqrt(2) * torch.cat([torch.eye(2, dtype=F64), -torch.eye(2, dtype=F64)])
    return x.repeat_interleave(4, 0), z.repeat(len(x), 1)


def newton(theta: Tensor, loss: Tensor) -> None:
    """One step to the minimum of a loss that is quadratic in theta."""
    gradient = torch.autograd.grad(loss, theta, create_graph=True)[0].flatten()
    hessian = torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0].flatten() for g in gradient])
    with torch.no_grad():
        theta -= torch.linalg.solve(hessian, gradient).view_as(theta)


def test_gaussian_minimiser_in_closed_form():
    """The score of N(m, C + sigma^2 I) for mean and covariance of the sample, to 1e-10, with one sigma and with a weight;
    three levels at once, each with its own."""
    x = torch.randn(20, 2, dtype=F64) @ torch.tensor([[1.0, 0.7], [0.0, 0.5]], dtype=F64) + 3.0
    covariance, eye = x.T.cov(correction=0), torch.eye(2, dtype=F64)

    def check(theta: Tensor, sigma: float) -> None:
        P = torch.linalg.inv(covariance + sigma**2 * eye)
        torch.testing.assert_close(theta[2:].view(2, 2), P, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(theta[:2], P @ x.mean(0), rtol=1e-10, atol=1e-10)

    states, z = sigma_points(x)
    for weight in (None, 0.25):
        net = LinearScore()
        newton(net.theta, denoising_score_matching_loss(net, states, z, 0.5, weight=weight))
        check(net.theta.detach()[0], 0.5)
    net = LinearScore(3)
    states, z, sigma = states.repeat(3, 1), z.repeat(3, 1), torch.tensor([1.0, 0.5, 0.25], dtype=F64).repeat_interleave(80)
    newton(net.theta, denoising_score_matching_loss(net, states, z, sigma, {"sigma": sigma}, weight=sigma**2))
    for theta, level in zip(net.theta.detach(), (1.0, 0.5, 0.25), strict=True):
        check(theta, level)


def test_mean_and_variance_are_recovered_from_drawn_noise():
    """1-D N(1.5, 0.6^2), sigma 0.5, 20,000 data, noise of 10 batches: mean and variance within 0.03, five to six standard
    errors (0.0055 and 0.005 or so)."""
    x = 1.5 + 0.6 * torch.randn(20_000, 1, dtype=F64)
    net = nn.Linear(1, 1, dtype=F64)
    objective = DenoisingScoreMatching(net, 0.5, seed=3)
    total = sum(objective(x)[0] for _ in range(10)) / 10
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()), create_graph=True)])
    hessian = torch.stack([
        torch.cat([h.flatten() for h in torch.autograd.grad(g, list(net.parameters()), retain_graph=True)]) for g in gradient
    ])
    step = torch.linalg.solve(hessian, gradient.detach())
    slope, shift = net.weight.item() - step[0].item(), net.bias.item() - step[1].item()
    precision, mean = -slope, -shift / slope
    assert mean == pytest.approx(1.5, abs=0.03)
    assert 1 / precision - 0.25 == pytest.approx(0.36, abs=0.03)


def test_noise_scale_and_metrics():
    x = torch.zeros(20_000, 2)
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.zeros_like(x)

    objective = DenoisingScoreMatching(model, 0.3, seed=4)
    loss, metrics = objective(x)
    z = ef.ops.normal_(torch.empty_like(x), seed=4, purpose="data_noise")
    torch.testing.assert_close(seen[0], 0.3 * z)
    torch.testing.assert_close(loss, 0.5 * z.square().sum(1).mean() / 0.09)
    torch.testing.assert_close(metrics["residual"], z.square().mean())
    scaled, _ = DenoisingScoreMatching(model, 0.3, scaled=True, seed=4)(x)
    torch.testing.assert_close(scaled, 0.09 * loss)
    assert objective._buffer.data_ptr() == (objective(x), objective._buffer.data_ptr())[1], "one buffer for all batches"
    objective(x[:7])
    assert objective._buffer.shape == (7, 2)


@pytest.mark.parametrize("kind", ["energy", "score"])
def test_the_buffer_of_noise_does_not_disturb_a_loss_that_waits(kind):
    """Two losses, then both gradients: as each by itself."""
    torch.manual_seed(0)
    net = ef.energies.MLPEnergy(2, (8,)) if kind == "energy" else ScoreMLP(2, (8,), conditional=False)
    x = torch.randn(5, 2)
    objective = DenoisingScoreMatching(net, 0.5, seed=1)
    losses = [objective(x)[0], objective(x)[0]]
    together = [flat_gradient(loss, net) for loss in losses]
    objective.load_state_dict(objective.state_dict() | {"seed": 1, "iteration": 0})
    for found in together:
        assert torch.equal(found, flat_gradient(objective(x)[0], net))


def test_levels_are_uniform_and_weighted():
    """Each of 5 levels 12,000 times within 5.5 standard errors (2 % off would be seen); the loss is its formula."""
    n, sigmas = 60_000, geometric_sigmas(8.0, 0.5, 5)
    x = torch.full((n, 1), 2.0, dtype=F64)
    seen: dict[str, Tensor] = {}

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        seen.update(x=x, sigma=sigma)
        return -0.1 * x

    for weight in (None, lambda s: s, lambda s: s**2):
        loss, metrics = NoiseConditionalScoreMatching(model, torch.tensor(sigmas), weight=weight, seed=2)(x)
        sigma = seen["sigma"]
        assert sigma.shape == (n,) and sigma.dtype == F64
        z = (seen["x"] - x) / sigma[:, None]
        scale = sigma**2 if weight is None else weight(sigma)
        terms = 0.5 * scale * (-0.1 * seen["x"] + z / sigma[:, None]).squeeze(1) ** 2
        torch.testing.assert_close(loss, terms.mean(), rtol=1e-6, atol=0)
        residual = (sigma[:, None] * -0.1 * seen["x"] + z).square().mean()
        torch.testing.assert_close(metrics["residual"], residual, rtol=1e-6, atol=0)
    levels = torch.tensor(sigmas, dtype=torch.float32).double()
    counts = (sigma[:, None] == levels.to(sigma.device)).sum(0)
    assert counts.sum() == n
    bound = 5.5 * math.sqrt(n * 0.2 * 0.8)
    assert ((counts - n / 5).abs() < bound).all() and bound < 0.05 * n / 5
    for i in range(5):
        part = z[sigma == levels[i]]
        assert abs(part.mean()) < 5.5 / math.sqrt(len(part)) and abs(part.var() - 1) < 5.5 * math.sqrt(2 / len(part))


def test_geometric_sigmas():
    sigmas = geometric_sigmas(10, 0.01, 13)
    assert len(sigmas) == 13 and sigmas[0] == 10 and sigmas[-1] == 0.01
    ratios = [a / b for a, b in itertools.pairwise(sigmas)]
    assert ratios == pytest.approx([1000 ** (1 / 12)] * 12, rel=1e-12)
    for bad in ((1.0, 1.0, 3), (1.0, 2.0, 3), (1.0, 0.0, 3), (1.0, 0.1, 1), (math.nan, 0.1, 3), (1.0, 0.1, 2.5)):
        with pytest.raises((TypeError, ValueError), match=r"largest|num_levels"):
            geometric_sigmas(*bad)


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_a_mixture_is_learned_at_every_level_and_sampled_from(kind):
    """1/5 N(-5, I) + 4/5 N(5, I) in the plane, 10 levels. After training, E |s - s_true|^2 is at most 4 % of E |s_true|^2 at each
    level (a score of 0 has 100 %, the best Gaussian at the smallest 90 %). Annealed Langevin then puts a share of 0.2 on the
    minor mode within 5.5 standard errors of 1000 samples and 0.03 for the network's error; plain Langevin from the same
    uniform start gives one half."""
    torch.manual_seed(0)
    means, weights = torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), torch.tensor([0.2, 0.8])
    data = ef.energies.GaussianMixture(means, 1.0, weights)
    sigmas = geometric_sigmas(10.0, 0.3, 10)
    net: nn.Module = ScoreMLP(2, (64, 64), data_std=5.0)
    if kind == "energy":
        net = NoiseConditionalEnergy(net)
    objective = NoiseConditionalScoreMatching(net, sigmas, seed=0)
    steps = 500
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x = data.sample(steps * 256, seed=1).view(steps, 256, 2)
    for batch in x:
        optimizer.zero_grad()
        objective(batch)[0].backward()
        optimizer.step()
        schedule.step()
    errors = []
    with torch.no_grad():
        for i, sigma in enumerate(sigmas):
            blurred = ef.energies.GaussianMixture(means, math.sqrt(1 + sigma**2), weights)
            at = blurred.sample(4000, seed=100 + i)
            truth = -blurred.grad(at)
            found = ScoreFunction(net)(at, {"sigma": torch.full((4000,), sigma)})
            errors.append(((found - truth).square().sum() / truth.square().sum()).item())
    assert max(errors) < 0.04, errors

    sampler = ef.AnnealedLangevin(sigmas, step_size=0.2 * sigmas[-1] ** 2, steps_per_level=20)
    start = ef.ops.uniform_(torch.empty(1000, 2), seed=7).mul_(16).sub_(8)
    model = net if kind == "energy" else ef.energies.from_score(net)
    run = ef.sample(model, sampler, start, num_steps=sampler.num_steps, seed=0, record=False)
    minor = run.final.sum(1) < 0
    bound = 5.5 * math.sqrt(0.2 * 0.8 / 1000) + 0.03
    assert abs(minor.float().mean().item() - 0.2) < bound < 0.3
    assert (run.final[minor].mean(0) + 5).abs().max() < 0.6 and (run.final[~minor].mean(0) - 5).abs().max() < 0.3
    spread = run.final[~minor].std(0)
    assert spread.min() > 0.8 and spread.max() < 1.3


def test_errors():
    net, x = nn.Identity(), torch.randn(4, 2)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma"):
            DenoisingScoreMatching(net, bad)
    for sigmas in ((), (1.0, 0.0), (1.0, 2.0), (1.0, math.nan), torch.tensor([0.5, 1.0])):
        with pytest.raises(ValueError, match="sigmas"):
            NoiseConditionalScoreMatching(net, sigmas)
    for weight in (lambda s: -1.0, lambda s: math.inf, 0.5):
        with pytest.raises((TypeError, ValueError), match="weight: expected"):
            NoiseConditionalScoreMatching(net, (1.0, 0.5), weight=weight)
    with pytest.raises(ValueError, match="noise"):
        denoising_score_matching_loss(net, x, x[:3], 0.5)
    with pytest.raises(ValueError, match=r"sigma: expected a number or \(4,\), got \(4, 1\)"):
        denoising_score_matching_loss(net, x, x, torch.ones(4, 1))
    with pytest.raises(ValueError, match="weight"):
        denoising_score_matching_loss(net, x, x, 0.5, weight=torch.ones(3))
