"""Far from the bulk: infinite energies where the density is 0, finite gradients, no NaN."""

from __future__ import annotations

import math

import pytest
import torch

from ebm_fast import energies as en


def test_gamma_outside_its_support():
    energy = en.Gamma(torch.tensor([0.5, 1.0, 3.0]), 2.0)
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, -math.inf], [1.0, 1.0, math.nan]])
    e, g = energy.energy_and_grad(x)
    assert e.isfinite().tolist() == [True, False, False, False, False]
    assert (e[1:4] == math.inf).all() and e[4].isnan()
    assert (energy(x)[1:4] == math.inf).all()
    assert g[:4].isfinite().all()
    torch.testing.assert_close(g[1], torch.tensor([0.0, 2.0, 0.0]))
    leaf = x[:4].clone().requires_grad_()
    energy(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, g[:4])
    torch.testing.assert_close(energy.grad(x[:4]), g[:4])


def test_mixture_far_from_every_component():
    energy = en.GaussianMixture(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.01)
    x = torch.tensor([[1e4, 0.0], [1e15, 0.0], [1e25, 0.0]])
    e, g = energy.energy_and_grad(x)
    torch.testing.assert_close(g[:2, 0], x[:2, 0] * 1e4, rtol=2e-4, atol=0)
    assert e[:2].isfinite().all() and e[2] == math.inf
    assert energy(x)[2] == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_funnel_without_overflow_surprises(dtype):
    energy = en.Funnel(3, dtype=dtype)
    deep = -0.5 * math.log(torch.finfo(dtype).max) * 5.0
    x = torch.tensor([[deep, 0.0, 0.0], [deep, 1e-3, 0.0], [deep / 3, 1.0, 0.0], [-deep, 1.0, 2.0]], dtype=dtype)
    e, g = energy.energy_and_grad(x)
    assert not e.isnan().any() and not g.isnan().any()
    assert e[0].item() == pytest.approx(deep**2 / 18 + deep, rel=1e-5) and g[0].tolist() == pytest.approx([deep / 9 + 1, 0, 0])
    assert e[1] == math.inf
    assert e[3].isfinite() and g[3].isfinite().all()
    torch.testing.assert_close(energy(x), e)


def test_ring_at_and_near_the_origin():
    energy = en.Ring(2, 2.0, 0.1)
    x = torch.tensor([[0.0, 0.0], [1e-25, 0.0], [1e-15, 0.0], [0.0, 3.0]])
    e, g = energy.energy_and_grad(x)
    torch.testing.assert_close(e, torch.tensor([200.0, 200.0, 200.0, 50.0]), rtol=1e-5, atol=0)
    assert g[0].tolist() == [0.0, 0.0] and g[1].abs().max() <= 201.0
    torch.testing.assert_close(g[2:], torch.tensor([[-200.0, 0.0], [0.0, 100.0]]), rtol=1e-5, atol=0)
    leaf = x[[0, 2, 3]].clone().requires_grad_()
    energy(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, g[[0, 2, 3]])


def test_logistic_regression_with_margins_of_ten_thousand():
    energy = en.LogisticRegression(torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, 0.0]), 1e-8)
    x = torch.tensor([[1e4], [-1e4], [30.0]])
    e, g = energy.energy_and_grad(x)
    torch.testing.assert_close(e, torch.tensor([1e4 + 0.5, 1e4 + 0.5, 30.0]))
    torch.testing.assert_close(g[:, 0], torch.tensor([1.0, -1.0, 1.0]), rtol=2e-4, atol=0)
    wide = en.LogisticRegression(torch.tensor([[1.0]]).double(), torch.tensor([1.0]).double(), 1e-30)
    for margin in (-45.0, -39.0, -25.0, 25.0, 45.0):  # torch's own threshold of 20 is off by 1e-11 at -25
        value = wide(torch.tensor([[margin]]).double()).item()
        assert value == pytest.approx(math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0), rel=1e-15)


def test_eight_schools_with_extreme_scales():
    energy = en.EightSchools()
    x = torch.zeros(4, 10)
    x[:, 1] = torch.tensor([-200.0, 80.0, 200.0, 200.0])
    x[3, 2:] = 1.0
    e, g = energy.energy_and_grad(x)
    assert not e.isnan().any() and not g.isnan().any()
    assert e[:3].isfinite().all() and e[3] == math.inf
    assert g[0].isfinite().all()
    torch.testing.assert_close(g[1, 1].item(), 1.0)
    torch.testing.assert_close(energy(x)[:3], e[:3])


def test_small_differences_of_large_numbers():
    """Modes at 1000 with width 1 in float32: a precision times a mean, taken apart, would lose three digits."""
    offset = torch.randn(50, 20)
    for energy in (
        en.Gaussian(torch.full((20,), 1000.0), torch.eye(20) + 0.1),
        en.Gaussian(torch.full((20,), 1000.0)),
        en.GaussianMixture(torch.full((2, 20), 1000.0), 1.0),
    ):
        x = 1000.0 + offset
        e, g = energy.energy_and_grad(x)
        exact = energy.energy_and_grad(x.double())
        torch.testing.assert_close(e.double(), exact[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(g.double(), exact[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("design", ["collinear", "polynomial"])
def test_regression_on_nearly_collinear_columns(design, device):
    """The least-squares solution is of size 1e3 to 1e6 there, of which float32 would leave nothing of the energy."""
    generator = torch.Generator(device).manual_seed(0)
    if design == "collinear":
        features = torch.randn(5, 5, generator=generator, dtype=torch.float64)
        features[:, 4] = features[:, :4].sum(1) * 0.3 + 1e-3 * torch.randn(5, generator=generator, dtype=torch.float64)
        y = features.sum(1) + torch.randn(5, generator=generator, dtype=torch.float64)
    else:
        t = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)
        features = t[:, None] ** torch.arange(8)
        y = torch.sin(6.0 * t) + 0.1 * torch.randn(50, generator=generator, dtype=torch.float64)
    s = 0.1 if design == "polynomial" else 1.0
    energy = en.LinearRegression(features.float(), y.float(), s).to(device)
    b = energy.sample(100, seed=0).to(device)
    x, wanted, wide = features.float().double().to(device), y.float().double().to(device), b.double()
    exact = 0.5 * ((wanted - wide @ x.T) / s).square().sum(1) + 0.5 * wide.square().sum(1)
    found = {"forward": energy(b), "both": energy.energy_and_grad(b)[0], "float": energy.float()(b)}
    for e in found.values():
        torch.testing.assert_close(e.double(), exact, rtol=1e-4, atol=2e-2)  # b itself is rounded: P b is up to 1e5
    slope = (wide @ x.T - wanted) @ x / s**2 + wide
    torch.testing.assert_close(energy.grad(b).double(), slope, rtol=1e-4, atol=1e-4 * float(slope.abs().max() + 100))
    precision = x.T @ x / s**2 + torch.eye(len(x.T), device=device)
    least = 0.5 * (wanted @ wanted / s**2 - (wanted @ x) @ torch.linalg.solve(precision, x.T @ wanted) / s**4)
    log_z = 0.5 * len(x.T) * math.log(2 * math.pi) - 0.5 * torch.logdet(precision) - least
    assert float(energy.log_z - log_z) == pytest.approx(0.0, abs=1e-5)
