"""torchebm's contract on our engine: from equal noise its own numbers, shapes and diagnostics; and its law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.compat import torchebm as face


class Conditional(nn.Module):
    """E(x, y) = |x - centre_y|^2 / 2, written as a module of torchebm's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([[0.0, 1.0], [3.0, -2.0]]))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return 0.5 * (x - (0.0 if y is None else self.centres[y])).square().sum(1)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().flatten(1).sum(1)


class Recorded:
    """The normals that our engine draws for a seed and purpose, one step a call, for a library that asks torch for noise."""

    def __init__(self, seed: int, purpose: str) -> None:
        self.seed, self.purpose, self.step = seed, purpose, 0

    def __call__(self, like: torch.Tensor, **_: object) -> torch.Tensor:
        z = ef.ops.normal_(torch.empty_like(like), seed=self.seed, step=self.step, purpose=self.purpose)
        self.step += 1
        return z


def seed_of(generator_seed: int) -> int:
    return ef.ops.fresh_seed(torch.Generator().manual_seed(generator_seed))


def both(name: str, model: nn.Module, **settings: object) -> tuple[object, object]:
    samplers = pytest.importorskip("torchebm.samplers")
    return getattr(face, name)(model, **settings), getattr(samplers, name)(model, **settings)


@pytest.mark.parametrize("scheduled", [False, True])
def test_langevin_is_torchebm_s_from_the_same_noise(monkeypatch, scheduled):
    """Step, noise scale, clamp, trajectory and diagnostics; a noise scale or step off by 1 % would be seen in the third digit."""
    core = pytest.importorskip("torchebm.core")
    step = core.LinearScheduler(0.3, 0.05, 6) if scheduled else 0.1
    ours, theirs = both("LangevinDynamics", core.DoubleWellModel(), step_size=step, noise_scale=0.7, clamp=(-1.5, 1.5))
    x, options = torch.linspace(-1, 1, 10).view(5, 2), {"n_steps": 7, "thin": 2}
    monkeypatch.setattr(torch, "randn_like", Recorded(seed_of(3), "langevin"))
    expected = theirs.sample(x, return_trajectory=True, return_diagnostics=True, **options)
    found = ours.sample(x, return_trajectory=True, return_diagnostics=True, generator=torch.Generator().manual_seed(3), **options)
    assert found[0].shape == (5, 3, 2) and found[1].keys() == expected[1].keys()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    final = ours.sample(x, generator=torch.Generator().manual_seed(3), **options)
    assert torch.equal(ours.sample(x, generator=torch.Generator().manual_seed(3), n_steps=6), found[0][:, -1])
    assert final.shape == (5, 2) and not torch.equal(final, found[0][:, -1])  # the seventh step is taken, though not kept


def test_gradient_descent_is_torchebm_s():
    core = pytest.importorskip("torchebm.core")
    ours, theirs = both("GradientDescentSampler", core.RosenbrockModel(), step_size=1e-3)
    x, options = torch.linspace(-1, 1, 8).view(4, 2), {"n_steps": 9, "thin": 3, "return_trajectory": True}
    torch.testing.assert_close(
        ours.sample(x, return_diagnostics=True, **options), theirs.sample(x, return_diagnostics=True, **options)
    )


@pytest.mark.parametrize("mass", [None, 2.0, torch.tensor([0.5, 1.0, 4.0])])
def test_hmc_is_torchebm_s_from_the_same_momentum(monkeypatch, mass):
    """Steps so small that every proposal is accepted: what is left is momentum, mass and leapfrog."""
    core = pytest.importorskip("torchebm.core")
    ours, theirs = both("HamiltonianMonteCarlo", core.GaussianModel(torch.ones(3), torch.eye(3) + 0.5), step_size=0.02, mass=mass)
    draw, scale = Recorded(seed_of(1), "momentum"), 1.0 if mass is None else torch.as_tensor(mass).sqrt()
    monkeypatch.setattr(theirs, "_initialize_momentum", lambda shape, generator=None: draw(torch.empty(shape)) * scale)
    x, options = torch.linspace(-1, 1, 12).view(4, 3), {"n_steps": 6, "thin": 2, "return_trajectory": True}
    expected = theirs.sample(x, return_diagnostics=True, **options)
    found = ours.sample(x, return_diagnostics=True, generator=torch.Generator().manual_seed(1), **options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found[1]["acceptance_rate"] == 1).all()


def test_torchebm_s_loss_takes_our_sampler():
    losses, core = pytest.importorskip("torchebm.losses"), pytest.importorskip("torchebm.core")
    model = core.GaussianModel(torch.zeros(2), torch.eye(2))
    loss, samples = losses.ContrastiveDivergence(model, face.LangevinDynamics(model, 0.1), k_steps=3)(torch.randn(16, 2))
    assert samples.shape == (16, 2) and loss.isfinite()


def test_langevin_s_law():
    """Stationary variance n^2 / (s (2 - s)) of E = |x|^2 / 2 with n^2 = 2 s c^2: false alarm 1e-6; 3 % are seen."""
    s, c = 0.5, 1.3
    sampler = face.LangevinDynamics(quadratic, step_size=s, noise_scale=c)
    trajectory = sampler.sample(dim=(3, 2), n_samples=2000, n_steps=120, thin=10, return_trajectory=True)
    squares = trajectory[:, 2:].square().mean(1).flatten()
    expected, error = 2 * s * c * c / (s * (2 - s)), squares.std().item() / math.sqrt(len(squares))
    assert abs(squares.mean().item() - expected) < 4.9 * error < 0.03 * expected


def test_acceptance_is_the_share_of_chains_that_moved():
    sampler = face.HamiltonianMonteCarlo(quadratic, step_size=1.6, n_leapfrog_steps=3)
    options = {"n_samples": 400, "dim": 5, "n_steps": 40, "return_diagnostics": True, "return_trajectory": True}
    trajectory, told = sampler.sample(**options, thin=2, generator=torch.Generator().manual_seed(0))
    every, all_told = sampler.sample(**options, generator=torch.Generator().manual_seed(0))
    moved = (every[:, 1:] != every[:, :-1]).any(2).float().mean(0)
    assert torch.equal(all_told["acceptance_rate"][1:], moved) and 0.3 < moved.mean() < 0.7
    assert torch.equal(told["acceptance_rate"], all_told["acceptance_rate"][1::2]) and torch.equal(trajectory, every[:, 1::2])
    torch.testing.assert_close(told["energy"], 0.5 * trajectory.square().sum(2).mean(0))


def test_blocks_change_nothing(monkeypatch):
    sampler = face.HamiltonianMonteCarlo(quadratic, step_size=1.2)

    def run() -> object:
        return sampler.sample(dim=2, n_samples=6, n_steps=23, thin=3, return_diagnostics=True,
                              generator=torch.Generator().manual_seed(0))  # fmt: skip

    whole = run()
    monkeypatch.setattr(face, "_BLOCK", 72)
    torch.testing.assert_close(run(), whole, rtol=0, atol=0)


def test_conditions_own_gradients_and_native_energies():
    model, y = Conditional(), torch.tensor([0, 1] * 50)
    sampler = face.LangevinDynamics(model, 0.1, 0.01)
    found = sampler.sample(dim=2, n_samples=100, n_steps=100, y=y)
    torch.testing.assert_close(found, model.centres[y].detach(), rtol=0, atol=0.1)
    same = sampler.sample(torch.zeros(100, 2), n_steps=100, model_kwargs={"y": y}, generator=torch.Generator().manual_seed(1))
    again = sampler.sample(torch.zeros(100, 2), n_steps=100, y=y, generator=torch.Generator().manual_seed(1))
    assert torch.equal(same, again)
    with pytest.raises(ValueError, match="y was given twice"):
        sampler.sample(dim=2, y=y, model_kwargs={"y": y})

    class Own(Conditional):
        def gradient(self, x: torch.Tensor) -> torch.Tensor:
            return x - 5.0

    assert (face.LangevinDynamics(Own(), 0.5, 1e-6).sample(dim=2, n_samples=3, n_steps=60) - 5).abs().max() < 1e-3
    mixture = ef.energies.Gaussian(torch.zeros(2))
    assert face.energy_of(mixture) is mixture  # whose chains run in native code


def test_defaults_and_errors():
    gaussian = ef.energies.Gaussian(torch.zeros(3))
    assert face.HamiltonianMonteCarlo(gaussian).sample(n_steps=2, n_samples=4).shape == (4, 3)
    double = Conditional().double()
    assert face.LangevinDynamics(double).sample(dim=2, n_steps=0).dtype == torch.float64
    for wrong, message in (
        (lambda: face.LangevinDynamics(quadratic, step_size=0.0), "step_size must be positive"),
        (lambda: face.LangevinDynamics(quadratic, noise_scale=-1.0), "noise_scale must be positive"),
        (lambda: face.LangevinDynamics(quadratic, decay=0.1), "decay: expected 0.0"),
        (lambda: face.LangevinDynamics(quadratic, integrator="heun"), "integrator: expected None or 'euler_maruyama'"),
        (lambda: face.LangevinDynamics(quadratic, clamp=(1.0, 0.0)), "clamp"),
        (lambda: face.HamiltonianMonteCarlo(quadratic, mass=-1.0), "mass must be positive"),
        (lambda: face.HamiltonianMonteCarlo(gaussian, mass=torch.ones(2)).sample(torch.ones(4, 3)), r"mass .*\(3,\), got \(2,\)"),
        (lambda: face.HamiltonianMonteCarlo(gaussian).sample(torch.ones(3)), r"x must have shape \(n, \*event\), .* got \(3,\)"),
        (lambda: face.LangevinDynamics(quadratic).sample(dim="2"), "dim must be an int"),
        (lambda: face.LangevinDynamics(quadratic).sample(), "dim must be given"),
        (lambda: face.LangevinDynamics(quadratic).sample(dim=2, thin=0), "thin must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(TypeError, match="model must be callable"):
        face.LangevinDynamics(3)
