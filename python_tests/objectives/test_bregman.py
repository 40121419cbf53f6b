"""Bregman generators against their Psi, the divergence by quadrature, the likelihood; ratio matching with static noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from quadrature import Quadratic, expectation, gradient, grid, log_normal, newton
from torch import Tensor

from ebm_fast import noise
from ebm_fast.objectives import NCE, BregmanRatioMatching, bregman_loss, contrastive_divergence_loss, nce_loss
from ebm_fast.objectives.generators import (
    GENERATORS,
    Generator,
    ItakuraSaito,
    KullbackLeibler,
    Logistic,
    Power,
    Squared,
    as_generator,
)

F64 = torch.float64
DM, DS, NM, NS = 0.3, 0.8, 0.0, 1.2


def xlogy(u: Tensor) -> Tensor:
    return u * u.log()


PSI: dict[Generator, Callable[[Tensor], Tensor]] = {
    Logistic(): lambda u: xlogy(u) - xlogy(1 + u),
    Logistic(3.0): lambda u: xlogy(u) - xlogy(3 + u) + 3 * math.log(3),
    KullbackLeibler(): xlogy,
    Squared(): lambda u: u.square() / 2,
    ItakuraSaito(): lambda u: -u.log(),
    Power(0.5): lambda u: (u**1.5 - u) / 0.5,
    Power(2.0): lambda u: (u**3 - u) / 2,
}
each = pytest.mark.parametrize("generator", list(PSI), ids=repr)


@each
def test_terms_are_those_of_psi(generator):
    """S0 = -Psi + u Psi', S1 = Psi', S0'(u) = u S1'(u), S1' > 0, slope = Psi''(1) = S0'(1), by automatic differentiation."""
    r = (torch.arange(-120, 121, dtype=F64) / 20).requires_grad_()
    u = r.detach().exp().requires_grad_()
    psi = PSI[generator](u)
    (first,) = torch.autograd.grad(psi.sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    size = 1 + psi.detach().abs() + (u * first).detach().abs()
    s0, s1 = generator.s0(r), generator.s1(r)
    assert ((s0 - (u * first - psi)).abs() / size).max() < 1e-13
    assert ((s1 - first).abs() / (1 + first.abs())).max() < 1e-13
    # d/dr = u d/du
    (d0,) = torch.autograd.grad(s0.sum(), r)
    (d1,) = torch.autograd.grad(s1.sum(), r)
    torch.testing.assert_close(d0, r.exp().detach() * d1, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(d1, u.detach() * second, rtol=1e-10, atol=0)
    assert bool((d1 > 0).all())
    assert d0[120].item() == pytest.approx(generator.slope, rel=1e-13) and r[120] == 0


@each
def test_loss_is_the_divergence_but_for_a_constant(generator):
    """L(g) - L(f) = int d_Psi(f, g) p_n with d_Psi(f, g) = Psi(f) - Psi(g) - Psi'(g)(f - g), by quadrature."""
    x = grid(0.0, 9.0, 4001)
    data, rest = log_normal(x, DM, DS), log_normal(x, NM, NS)
    f, g = data - rest, log_normal(x, -0.4, 1.0) + 0.3 - rest

    def loss(r: Tensor) -> Tensor:
        return expectation(generator.s0(r), rest, x) - expectation(generator.s1(r), data, x)

    psi, u, v = PSI[generator], f.exp(), g.exp().requires_grad_()
    (slope,) = torch.autograd.grad(psi(v).sum(), v)
    divergence = expectation(psi(u) - psi(v) - slope * (u - v), rest, x)
    torch.testing.assert_close(loss(g) - loss(f), divergence.detach(), rtol=1e-9, atol=1e-11)
    assert divergence > 0.01


@each
def test_exact_gradient_vanishes_at_the_truth_alone(generator):
    """Energy and log Z together, in expectation, by quadrature."""
    x = grid(0.0, 9.0, 2001)
    data, rest = log_normal(x, DM, DS), log_normal(x, NM, NS)
    energy = Quadratic(DM, 1 / DS**2, c=0.5 * math.log(2 * math.pi * DS**2))

    def loss() -> Tensor:
        r = -energy(x) - rest
        return expectation(generator.s0(r), rest, x) - expectation(generator.s1(r), data, x)

    assert gradient(loss(), energy.parameters()).abs().max() < 1e-12
    with torch.no_grad():
        for p, shift in zip(energy.parameters(), (0.1, 0.1, -0.1), strict=True):
            p += shift
    hessian = newton(loss, list(energy.parameters()))
    assert torch.linalg.eigvalsh(hessian).min() > 0
    assert energy.m.item() == pytest.approx(DM, abs=1e-9) and energy.p.item() == pytest.approx(1 / DS**2, abs=1e-9)
    assert energy.log_z() == pytest.approx(0.0, abs=1e-9)


@each
def test_with_the_model_as_noise_the_gradient_is_the_likelihood_s(generator):
    """Times S0'(1), on any states."""
    energy, states, noised = Quadratic(0.2, 1.3, c=0.1), torch.randn(50, 1, dtype=F64), torch.randn(70, 1, dtype=F64)
    r_data, r_noise = (energy(x).detach() - energy(x) for x in (states, noised))
    likelihood = gradient(contrastive_divergence_loss(energy(states), energy(noised)), energy.parameters())
    found = gradient(bregman_loss(r_data, r_noise, generator), energy.parameters())
    torch.testing.assert_close(found, generator.slope * likelihood, rtol=1e-13, atol=1e-15)


@each
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_no_overflow(generator, dtype):
    """Loss and gradient are finite at any log ratio; the terms are exact below the bound, and convex and monotone beyond."""
    for size in (50.0, 1e3, 1e5):
        r = torch.tensor([-size, -1.0, 1.0, size], dtype=dtype, requires_grad=True)
        loss = bregman_loss(r, r, generator)
        loss.backward()
        assert bool(loss.isfinite()) and bool(r.grad.isfinite().all()), size
    r = torch.linspace(-900, 900, 3601, dtype=dtype)
    for term in (generator.s0(r), generator.s1(r)):
        assert bool((term[1:] >= term[:-1]).all())
    assert generator.s0(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_terms_are_exact_where_the_exponential_is_not_yet_cut():
    """Up to exponents of 60 in float32 and 600 in float64, and wrong beyond by design."""
    for dtype, inside in ((torch.float32, 59.0), (F64, 599.0)):
        r = torch.tensor([-inside, inside], dtype=dtype)
        for found, exponent in (
            (KullbackLeibler().s0(r), r), (Squared().s0(r / 2) * 2, r), (Squared().s1(r), r), (-ItakuraSaito().s1(r), -r),
            (Power(1.0).s0(r / 2), r), ((Power(2.0).s1(r / 2) + 0.5) / 1.5, r),
        ):  # fmt: skip
            tight = 1e-5 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(found, exponent.exp(), rtol=tight, atol=torch.finfo(dtype).eps)
    assert KullbackLeibler().s0(torch.tensor(61.0)) < math.exp(61)


def test_limits_of_the_power_divergence():
    r = torch.linspace(-4, 4, 41, dtype=F64)
    tiny, square = Power(1e-9), Power(1.0)
    torch.testing.assert_close(tiny.s0(r), KullbackLeibler().s0(r), rtol=1e-8, atol=0)
    torch.testing.assert_close(tiny.s1(r), KullbackLeibler().s1(r), rtol=0, atol=3e-8)
    torch.testing.assert_close(square.s0(r), 2 * Squared().s0(r), rtol=1e-13, atol=0)
    torch.testing.assert_close(square.s1(r), 2 * Squared().s1(r) - 1, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("nu", [1, 3])
def test_the_logistic_generator_is_nce(nu):
    r_data, r_noise = 4 * torch.randn(9, dtype=F64), 4 * torch.randn(9 * nu, dtype=F64)
    torch.testing.assert_close(
        bregman_loss(r_data, r_noise, Logistic(float(nu))), nce_loss(r_data, r_noise, num_noise=nu), rtol=1e-14, atol=0
    )
    energy, data = Quadratic(0.2, 1.1), DM + DS * torch.randn(500, 1, dtype=F64)
    options = {"num_noise": nu, "log_z": 0.4, "seed": 3}
    model = noise.Gaussian(torch.tensor([NM], dtype=F64), NS)
    one, two = NCE(energy, model, **options), BregmanRatioMatching(energy, model, generator=Logistic(float(nu)), **options)
    for _ in range(3):
        (a, _), (b, _) = one(data), two(data)
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient(a, one.parameters()), gradient(b, two.parameters()), rtol=1e-13, atol=0)


@each
def test_gradient_of_a_batch_has_the_exact_mean(generator):
    """Within 5.5 standard errors (false alarm 1e-7), which are less than 5 % of it; log Z among the parameters."""
    n, nu = 300_000, 2
    energy = Quadratic(-0.3, 1.0)
    model = noise.Gaussian(torch.tensor([NM], dtype=F64), NS)
    objective = BregmanRatioMatching(energy, model, generator=generator, num_noise=nu, log_z=0.3, seed=1)
    loss, metrics = objective(DM + DS * torch.randn(n, 1, dtype=F64))
    x = grid(0.0, 9.0, 4001)
    data, rest = log_normal(x, DM, DS), log_normal(x, NM, NS)
    r = (-energy(x) - 0.3 - rest).detach().requires_grad_()
    m, p = energy.m.item(), energy.p.item()
    slopes = torch.stack([p * (x[:, 0] - m), -0.5 * (x[:, 0] - m).square(), -torch.ones(len(x), dtype=F64)], 1)
    rows = []
    for term, law in ((-generator.s1(r), data), (generator.s0(r), rest)):
        (d,) = torch.autograd.grad(term.sum(), r)
        values = d.unsqueeze(1) * slopes
        mean = torch.stack([expectation(v, law, x) for v in values.T])
        rows.append((mean, torch.stack([expectation(v, law, x) for v in (values - mean).square().T])))
    mean = rows[0][0] + rows[1][0]
    error = 5.5 * (rows[0][1] / n + rows[1][1] / (nu * n)).sqrt()
    found = gradient(loss, objective.parameters())
    assert bool(((found - mean).abs() < error).all()), (found, mean, error)
    assert bool((error < 0.05 * mean.abs().max()).all())
    assert metrics["log_z"].item() == 0.3


def test_names_and_objects():
    assert [as_generator(name) for name in GENERATORS] == [
        Logistic(), KullbackLeibler(), Squared(), ItakuraSaito(), Power(0.5)
    ]  # fmt: skip

    class Own:
        slope = 1.0

        def s0(self, r: Tensor) -> Tensor:
            return r.exp()

        def s1(self, r: Tensor) -> Tensor:
            return r + 1.0

    r = torch.randn(5)
    torch.testing.assert_close(bregman_loss(r, r, Own()), bregman_loss(r, r, "kl"))
    with pytest.raises(ValueError, match=r"generator: expected one of logistic, kl, .*got 'nce'"):
        bregman_loss(r, r, "nce")
    for bad in (None, 1.0, Logistic):
        with pytest.raises(TypeError, match="generator"):
            BregmanRatioMatching(Quadratic(), noise.Gaussian(torch.zeros(1)), generator=bad)
    for make in (Logistic, Power):
        for value in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=r"nu|alpha"):
                make(value)
    with pytest.raises(ValueError, match="log_ratio_noise: expected at least one"):
        bregman_loss(r, r[:0])
