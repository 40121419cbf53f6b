"""Conditional noise-contrastive estimation: its formula, exact expectations by quadrature, the limit of score matching."""

from __future__ import annotations

import math

import pytest
import torch
from quadrature import Quadratic, expectation, gradient, grid, log_normal, newton
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebm_fast.objectives import ConditionalNCE, conditional_nce_loss

F64 = torch.float64
DM, DS, STD = 0.7, 0.8, 0.9


def gaussian_data(n: int) -> Tensor:
    return DM + DS * torch.randn(n, 1, dtype=F64)


class Quartic(nn.Module):
    """E(x) = a x^4 / 4 + b x^2 / 2 - h x, no Gaussian."""

    def __init__(self, a: float, b: float, h: float) -> None:
        super().__init__()
        self.a, self.b, self.h = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in (a, b, h))

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        return self.a * x**4 / 4 + self.b * x.square() / 2 - self.h * x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2)).to(F64)
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls.append((x.detach().clone(), y))
        out = self.net(x)
        return out[:, 0] if y is None else out.gather(1, y.unsqueeze(1)).squeeze(1)


def terms(energy: nn.Module, log_data: Tensor, x: Tensor, std: float, z: Tensor) -> tuple[Tensor, Tensor]:
    """E(y) - E(x) on the product grid of data and standard normals, and the weights of the points. # (x, z)"""
    y = (x + std * z.T).flatten().unsqueeze(1)
    gap = energy(y).view(len(x), len(z)) - energy(x).unsqueeze(1)
    weights = [p.exp() * (g[1, 0] - g[0, 0]) for p, g in ((log_data, x), (log_normal(z, 0.0, 1.0), z))]
    return gap, weights[0].unsqueeze(1) * weights[1].unsqueeze(0)


def exact_loss(energy: nn.Module, std: float, log_data: Tensor | None = None) -> Tensor:
    x, z = grid(DM, 9.0, 1201), grid(0.0, 9.0, 241)
    log_data = log_normal(x, DM, DS) if log_data is None else log_data
    gap, weights = terms(energy, log_data, x, std, z)
    return (weights * softplus(-gap, threshold=40)).sum()


def test_loss_is_its_formula_and_log_z_cancels():
    """The cross-entropy (2.12) of the posterior (3.2) with v = 1, for any kernel."""
    e_data, e_noise, kernel = torch.randn(6, dtype=F64), torch.randn(6, 3, dtype=F64), torch.randn(6, 3, dtype=F64)
    ratio = (-e_noise).exp() / (-e_data).exp().unsqueeze(1)
    torch.testing.assert_close(
        conditional_nce_loss(e_data, e_noise), -(1 / (1 + ratio)).log().mean(), rtol=1e-13, atol=0
    )
    # p_n(x|y) / p_n(y|x) = exp(-kernel)
    wanted = -(1 / (1 + ratio * (-kernel).exp())).log().mean()
    torch.testing.assert_close(conditional_nce_loss(e_data, e_noise, kernel), wanted, rtol=1e-13, atol=0)
    energy, data, found = Quadratic(0.3, 1.2, c=0.0), gaussian_data(40), []
    for c in (0.0, 5.0):
        with torch.no_grad():
            energy.c.fill_(c)
        objective = ConditionalNCE(energy, STD, num_noise=3, seed=1)
        loss, _ = objective(data)
        found.append(torch.cat([loss.detach().view(1), gradient(loss, objective.parameters())]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    assert found[0][3].abs() < 1e-14, "no gradient in the constant"
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = conditional_nce_loss(far, torch.zeros(2, 1))
    loss.backward()
    assert loss.item() == 5e3 and far.grad.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("std", [0.2, 2.0])
def test_exact_gradient_vanishes_at_the_truth_alone(std):
    x = grid(DM, 9.0, 1201)
    truth = Quartic(0.5, -0.6, 0.3)
    log_data = -truth(x).detach()
    log_data = log_data - expectation(torch.ones(len(x), dtype=F64), log_data, x).log()
    assert gradient(exact_loss(truth, std, log_data), truth.parameters()).abs().max() < 1e-12
    energy = Quartic(0.4, -0.3, 0.1)
    hessian = newton(lambda: exact_loss(energy, std, log_data), list(energy.parameters()))
    assert torch.linalg.eigvalsh(hessian).min() > 0
    assert [p.item() for p in energy.parameters()] == pytest.approx([0.5, -0.6, 0.3], abs=1e-9)


def test_small_perturbations_are_score_matching():
    """(L - log 2) 4 / std^2 -> E[E'^2 / 2 - E''], with an error that falls fourfold as std halves."""
    energy = Quartic(0.5, -0.6, 0.3)
    x = grid(DM, 9.0, 1201)
    v = x.squeeze(1)
    slope, curvature = 0.5 * v**3 - 0.6 * v - 0.3, 1.5 * v.square() - 0.6
    matching = expectation(0.5 * slope.square() - curvature, log_normal(x, DM, DS), x)
    errors = [
        ((exact_loss(energy, std) - math.log(2)) * 4 / std**2 - matching).item() for std in (0.01, 0.005, 0.0025)
    ]
    assert abs(errors[2]) < 0.02 * abs(matching.item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02) and errors[1] / errors[2] == pytest.approx(4, rel=0.02)


def test_gradient_of_a_batch_has_the_exact_mean_and_the_parameters_are_recovered():
    """Within 5.5 standard errors (false alarm 1e-7), which are less than 5 % of the gradient."""
    n, energy = 200_000, Quadratic(0.1, 3.0)
    x, z = grid(DM, 9.0, 801), grid(0.0, 9.0, 241)
    gap, weights = terms(energy, log_normal(x, DM, DS), x, STD, z)
    m, p = energy.m.item(), energy.p.item()
    y = x + STD * z.T
    slopes = torch.stack([-p * (y - x), 0.5 * ((y - m).square() - (x - m).square())], 2)
    each = -torch.sigmoid(-gap).detach().unsqueeze(2) * slopes
    mean = (weights.unsqueeze(2) * each).sum((0, 1)).detach()
    variance = (weights.unsqueeze(2) * (each - mean).square()).sum((0, 1)).detach()
    torch.testing.assert_close(mean, gradient(exact_loss(energy, STD), energy.parameters()), rtol=1e-9, atol=0)
    data = gaussian_data(n)
    loss, metrics = ConditionalNCE(energy, STD, seed=3)(data)
    error = 5.5 * (variance / n).sqrt()
    assert bool(((gradient(loss, energy.parameters()) - mean).abs() < error).all())
    assert bool((error < 0.05 * mean.abs()).all())
    assert 0.5 < metrics["accuracy"].item() < 1.0
    assert metrics["energy_data"].item() < metrics["energy_noise"].item()

    objective = ConditionalNCE(energy, STD, num_noise=4, seed=3)

    def fixed() -> Tensor:
        objective.iteration = 0
        return objective(data[:50_000])[0]

    newton(fixed, list(energy.parameters()), steps=15)
    # The standard errors at this std are less than three times those of maximum likelihood.
    assert energy.m.item() == pytest.approx(DM, abs=5.5 * 3 * DS / math.sqrt(50_000))
    assert energy.p.item() == pytest.approx(1 / DS**2, abs=5.5 * 3 * math.sqrt(2 / 50_000) / DS**2)


def test_an_asymmetric_kernel_enters_the_ratio():
    """y ~ N(x/2, 1): with the kernel's ratio the truth has gradient 0, without it not."""
    x = grid(DM, 9.0, 801)
    y, energy = grid(0.0, 9.0, 801), Quadratic(DM, 1 / DS**2)
    forth, back = log_normal((y.T - x / 2).view(-1, 1), 0, 1), log_normal((x - y.T / 2).view(-1, 1), 0, 1)
    shape = (len(x), len(y))
    weights = (log_normal(x, DM, DS).unsqueeze(1) + forth.view(shape)).exp()
    gap = energy(y).unsqueeze(0) - energy(x).unsqueeze(1)
    h = (x[1, 0] - x[0, 0]) * (y[1, 0] - y[0, 0])

    def found(ratio: Tensor) -> Tensor:
        loss = (weights * softplus(-gap - ratio, threshold=40)).sum() * h
        return gradient(loss, energy.parameters()).abs().max()

    assert found((forth - back).view(shape)) < 1e-12
    assert found(torch.zeros(shape, dtype=F64)) > 0.01


@pytest.mark.parametrize("std", [0.5, torch.tensor([0.1, 0.5, 2.0], dtype=F64)])
def test_noise_is_around_its_datum(std):
    """With its standard deviation in each feature, to 5.5 standard errors, from one evaluation of the energy."""
    net, data = Net(), 10 * torch.randn(4000, 3, dtype=F64)
    objective = ConditionalNCE(net, std, num_noise=3, seed=6)
    for step in range(2):
        objective(data)
        states, _ = net.calls[step]
        assert len(net.calls) == step + 1 and torch.equal(states[:4000], data)
        z = (states[4000:].view(4000, 3, 3) - data.unsqueeze(1)) / torch.as_tensor(std).to(data)
        bound = 5.5 / math.sqrt(2 * 12_000)
        assert bool(((z.square().mean((0, 1)) - 1).abs() < 2 * bound).all()) and 2 * bound < 0.08
        assert bool((z.mean((0, 1)).abs() < 2 * bound).all())
        assert (z[:, 0] * z[:, 1]).mean().abs() < 2 * bound
    first, second = (states[4000:] for states, _ in net.calls)
    assert not bool((first == second).any())


def test_labels_resume_and_split():
    net, data, y = Net(), torch.randn(8, 3, dtype=F64), torch.randint(2, (8,))
    objective = ConditionalNCE(net, STD, num_noise=2, seed=1)
    whole = [objective((data, y))[0] for _ in range(3)]
    assert torch.equal(net.calls[0][1], torch.cat([y, y.repeat_interleave(2)]))
    again = ConditionalNCE(net, STD, num_noise=2)
    again.load_state_dict(again.state_dict() | {"seed": 1, "iteration": 2})
    assert torch.equal(again((data, y))[0], whole[2])
    assert again.state_dict() == objective.state_dict()
    assert {name: again.state_dict()[name] for name in ("seed", "iteration")} == {"seed": 1, "iteration": 3}
    parts = [ConditionalNCE(net, STD, num_noise=2, seed=1, chain_offset=o)((data[o : o + 4], y[o : o + 4]))[0] for o in (0, 4)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole[0], rtol=1e-13, atol=0)


def test_errors():
    net = Net()
    for bad in (0.0, -1.0, math.nan, torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="std"):
            ConditionalNCE(net, bad)
    with pytest.raises(ValueError, match=r"std: expected one number or the events' shape \(3,\), got \(2,\)"):
        ConditionalNCE(net, torch.ones(2))(torch.ones(4, 3, dtype=F64))
    with pytest.raises(ValueError, match="num_noise"):
        ConditionalNCE(net, 1.0, num_noise=0)
    with pytest.raises(FloatingPointError, match="not finite: batch, energy_data, energy_noise"):
        ConditionalNCE(net, 1.0)(torch.full((2, 3), math.inf, dtype=F64))
    for e_data, e_noise in ((torch.ones(3), torch.ones(3)), (torch.ones(3), torch.ones(2, 1)), (torch.ones(0), torch.ones(0, 1))):
        with pytest.raises(ValueError, match="e_data, e_noise"):
            conditional_nce_loss(e_data, e_noise)
    with pytest.raises(ValueError, match="log_kernel_ratio"):
        conditional_nce_loss(torch.ones(3), torch.ones(3, 2), torch.ones(3))
