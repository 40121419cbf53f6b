"""`langevin_` in place of the inner loops of three public EBM trainers, written out here after their conventions.

With noise 0 the states agree to rounding; with noise the distribution does (two-sample tests with stated power); and
the trainer around it trains on unchanged.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import ebm_fast as ef


class Critic(nn.Module):
    """A small network f with E = -f, as trainers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(128, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).squeeze(-1)


def igebm_loop(f, x, steps, noise=0.005):
    """IGEBM: noise first, gradient at the noised point, clip 0.01, step 10, clamp to [0, 1] after the step."""
    z = torch.randn_like(x)
    x = x.clone().requires_grad_(True)
    for _ in range(steps):
        x.data.add_(z.normal_(0, 1), alpha=noise)
        (-f(x)).sum().backward()
        x.grad.data.clamp_(-0.01, 0.01)
        x.data.add_(x.grad.data, alpha=-10.0)
        x.grad.zero_()
        x.data.clamp_(0, 1)
    return x.detach()


def uva_loop(f, x, steps, noise=0.005):
    """The UvA tutorial: noise first, clamp, clip 0.03, step 10, clamp to [-1, 1]."""
    x = x.clone().requires_grad_(True)
    z = torch.randn_like(x)
    for _ in range(steps):
        z.normal_(0, 1)
        x.data.add_(z.data, alpha=noise)
        x.data.clamp_(-1.0, 1.0)
        (-f(x)).sum().backward()
        x.grad.data.clamp_(-0.03, 0.03)
        x.data.add_(-10.0 * x.grad.data)
        x.grad.zero_()
        x.data.clamp_(-1.0, 1.0)
    return x.detach()


def jem_loop(f, x, steps, noise=0.01):
    """JEM: gradient first, step 1 up the gradient of f, noise 0.01, no clip, no clamp."""
    x = x.clone().requires_grad_(True)
    for _ in range(steps):
        (grad,) = torch.autograd.grad(f(x).sum(), [x], retain_graph=True)
        x.data += 1.0 * grad + noise * torch.randn_like(x)
    return x.detach()


IGEBM = {"step_size": 10.0, "order": "noise", "grad_clip": 0.01, "clamp": (0, 1)}
UVA = {"step_size": 10.0, "order": "noise", "grad_clip": 0.03, "clamp": (-1, 1), "clamp_after": "both"}
JEM = {"step_size": 1.0}
TRAINERS = {
    "igebm": (igebm_loop, IGEBM, 0.005, (0, 1)),
    "uva": (uva_loop, UVA, 0.005, (-1, 1)),
    "jem": (jem_loop, JEM, 0.01, (-1, 1)),
}


@pytest.fixture
def critic() -> Critic:
    torch.manual_seed(0)
    return Critic()


def start(n: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8) * (high - low) + low


@pytest.mark.parametrize("name", TRAINERS)
def test_without_noise_the_states_agree(name, critic):
    loop, options, _, interval = TRAINERS[name]
    x = start(16, *interval)
    theirs = loop(critic, x, 20, noise=0.0)
    critic.zero_grad()
    ours = ef.langevin_(x.clone(), lambda x: -critic(x), num_steps=20, noise_std=0.0, **options)
    assert (ours - x).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    assert all(p.grad is None for p in critic.parameters())  # theirs leaves gradients behind in the parameters; ours does not


@pytest.mark.parametrize("name", TRAINERS)
def test_with_noise_the_distribution_agrees(name, critic):
    """Two-sample z-tests of the mean and mean square of each of 64 pixels over 2000 chains, at 1e-6 over all of them."""
    loop, options, noise, interval = TRAINERS[name]
    n = 2000
    big = 20.0 * noise  # so that the noise, and not the start, makes the spread
    x = torch.full((n, 1, 8, 8), sum(interval) / 2 + 0.1)
    torch.manual_seed(1)
    theirs = loop(critic, x, 8, noise=big)
    ours = ef.langevin_(x.clone(), lambda x: -critic(x), num_steps=8, noise_std=big, seed=2, **options)
    wrong = ef.langevin_(x.clone(), lambda x: -critic(x), num_steps=8, noise_std=1.15 * big, seed=3, **options)

    def worst(a: torch.Tensor, b: torch.Tensor) -> float:
        score = 0.0
        centre = a.mean(0)
        for f in (lambda t: t, lambda t: (t - centre) ** 2):
            p, q = f(a).double().flatten(1), f(b).double().flatten(1)
            score = max(score, ((p.mean(0) - q.mean(0)).abs() / ((p.var(0) + q.var(0)) / n).sqrt()).max().item())
        return score

    assert worst(theirs, ours) < 5.7
    assert worst(theirs, wrong) > 5.7  # the same test sees a noise that is 15 % too large


def train(critic: nn.Module, sample, data: torch.Tensor, steps: int = 8) -> list[float]:
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    gaps = []
    for k in range(steps):
        torch.manual_seed(k)
        fake = sample(critic, start(16, 0, 1))
        loss = critic(fake).mean() - critic(data).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(loss.item())
    return gaps


def test_a_trainer_trains_on_unchanged(critic):
    """A trainer after IGEBM's pattern: the same losses to rounding with noise 0, and it learns with noise."""
    data = (torch.rand(16, 1, 8, 8) > 0.7).float()

    def theirs(f, x):
        return igebm_loop(f, x, 10, noise=0.0)

    def ours(f, x):
        return ef.langevin_(x, lambda x: -f(x), num_steps=10, noise_std=0.0, **IGEBM)

    twin, learner = copy.deepcopy(critic), copy.deepcopy(critic)
    torch.testing.assert_close(
        torch.tensor(train(critic, theirs, data)), torch.tensor(train(twin, ours, data)), atol=1e-4, rtol=1e-4
    )
    gaps = train(learner, lambda f, x: ef.langevin_(x, lambda x: -f(x), num_steps=10, noise_std=0.005, **IGEBM), data, 25)
    assert all(math.isfinite(g) for g in gaps)
    assert gaps[-1] < gaps[0] - 0.05
