"""Energies made of others: values, gradients with and without autograd, conditions, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast import energies as en
from ebm_fast.engine.energy import EnergyFunction

F64 = torch.float64


class Conditional(nn.Module):
    """E(x, y) = 1/2 |x - centre_y|^2, without a gradient of its own."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 2, dtype=F64))

    def forward(self, x, y=None):
        centre = self.centres.mean(0) if y is None else self.centres[y]
        return 0.5 * (x - centre).square().sum(1)


class Counted(en.Gaussian):
    """Counts calls of its own gradients."""

    calls = 0

    def energy_and_grad(self, x):
        type(self).calls += 1
        return super().energy_and_grad(x)


def parts():
    return en.Gaussian(torch.tensor([0.5, 1.0], dtype=F64), 2.0), en.Ring(2, 1.5, 0.6, dtype=F64), en.DoubleWell(dim=2, dtype=F64)


def composites():
    a, b, c = parts()
    x = torch.randn(6, 2, dtype=F64)
    beta = torch.rand(6, dtype=F64)
    logs = torch.tensor([0.2, 0.3, 0.5], dtype=F64).log()
    return x, {
        "sum": (en.sum_of(a, b, c), a(x) + b(x) + c(x)),
        "plus": (a + b + c, a(x) + b(x) + c(x)),
        "tempered": (en.tempered(a, 0.3), 0.3 * a(x)),
        "one_temperature_each": (en.tempered(b, beta), beta * b(x)),
        "mixture": (
            en.mixture_of([a, b, c], [2.0, 3.0, 5.0]),
            -torch.logsumexp(torch.stack([w - e(x) for w, e in zip(logs, (a, b, c))]), 0),
        ),
        "normalised": (
            en.mixture_of([a, b], normalised=True),
            -(0.5 * (-a(x) - a.log_z).exp() + 0.5 * (-b(x) - b.log_z).exp()).log(),
        ),
        "nested": (en.tempered(a + en.mixture_of([b, c]), 2.0), 2 * (a(x) - (0.5 * (-b(x)).exp() + 0.5 * (-c(x)).exp()).log())),
    }  # fmt: skip


NAMES = ["sum", "plus", "tempered", "one_temperature_each", "mixture", "normalised", "nested"]


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients(name):
    x, made = composites()
    energy, wanted = made[name]
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(energy(x), wanted, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    e, g = energy.energy_and_grad(leaf)
    assert not e.requires_grad and not g.requires_grad
    torch.testing.assert_close(e, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g, slope, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(energy.grad(x), slope, rtol=1e-11, atol=1e-11)
    narrow = energy.energy_and_grad(x.to(torch.bfloat16))
    assert narrow[1].dtype is torch.bfloat16
    assert energy(x[:0, :] if name != "one_temperature_each" else x).shape[0] in (0, 6)


def test_the_parts_own_gradients_are_used():
    x = torch.randn(4, 2)
    counted = Counted(torch.zeros(2))
    energy = counted + en.Ring(2)
    Counted.calls = 0
    EnergyFunction(energy).value_and_grad(x)
    assert Counted.calls == 1
    mixed = counted + (lambda x: x.sum(1))
    assert not hasattr(mixed, "energy_and_grad") and not hasattr(mixed, "grad")
    _, g = EnergyFunction(mixed).value_and_grad(x)
    assert Counted.calls == 1
    torch.testing.assert_close(g, x + 1.0)
    other_way = (lambda x: x.sum(1)) + counted
    torch.testing.assert_close(other_way(x), mixed(x))


def test_parts_are_found_by_module_machinery():
    a, b, _ = parts()
    energy = en.tempered(en.Gaussian([0.0, 0.0], trainable=True) + b + (lambda x: x.sum(1)), 0.5)
    assert len(list(energy.parameters())) == 2
    assert energy.beta.dtype is F64 and "beta" in energy.state_dict()
    x = torch.randn(3, 2, dtype=F64)
    assert energy.float()(x.float()).dtype is torch.float32
    energy.beta.fill_(0.25)
    torch.testing.assert_close(energy(x), 0.25 * energy.parts[0](x))
    assert [type(part).__name__ for part in energy.parts[0].parts] == ["Gaussian", "Ring", "function"]
    assert en.sum_of(a + b, a).parts == [a, b, a]


def test_conditions_go_where_they_are_taken():
    conditional, prior = Conditional(), en.Gaussian(torch.zeros(2, dtype=F64), 0.1)
    x, y = torch.randn(5, 2, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    energy = conditional + prior
    torch.testing.assert_close(energy(x, y=y), conditional(x, y=y) + prior(x))
    torch.testing.assert_close(energy(x), conditional(x) + prior(x))
    torch.testing.assert_close(en.tempered(conditional, 2.0)(x, y=y), 2 * conditional(x, y=y))
    mixture = en.mixture_of([conditional, prior])
    torch.testing.assert_close(mixture(x, y=y), -(0.5 * (-conditional(x, y=y)).exp() + 0.5 * (-prior(x)).exp()).log())
    anything = en.sum_of(lambda x, **given: given["scale"] * x.sum(1), prior)
    torch.testing.assert_close(anything(x, scale=2.0), 2 * x.sum(1) + prior(x))
    value, gradient = EnergyFunction(energy, {"y": y}).value_and_grad(x)
    torch.testing.assert_close(gradient, (x - conditional.centres[y] + 0.1 * x).detach())
    with pytest.raises(TypeError, match="no part of this energy takes the condition label"):
        energy(x, label=y)
    run = ef.sample(energy, ef.Langevin(step_size=0.01), x, num_steps=2, seed=0, condition={"y": y})
    assert run.final.shape == x.shape and value.shape == (5,)


def test_log_probabilities():
    x = torch.randn(5, 2)
    law = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 2.0), 1)
    for made in (en.from_log_prob(law), en.from_log_prob(law.log_prob), en.from_log_prob(lambda x: law.log_prob(x))):
        torch.testing.assert_close(made(x), -law.log_prob(x))
        torch.testing.assert_close(EnergyFunction(made).value_and_grad(x)[1], x / 4)
    net = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    assert len(list(en.from_log_prob(net).parameters())) == 2
    scaled = en.from_log_prob(lambda x, scale: -scale * x.sum(1))
    torch.testing.assert_close((scaled + en.Gaussian([0.0, 0.0]))(x, scale=3.0), 3 * x.sum(1) + x.square().sum(1) / 2)
    with pytest.raises(TypeError, match="log_prob must be callable"):
        en.from_log_prob(3)
    with pytest.raises(TypeError, match="log_prob must be callable"):
        en.from_log_prob(nn.Linear)


def test_classifiers():
    net = nn.Linear(2, 3)
    energy = en.from_classifier(net)
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(energy(x), -net(x).exp().sum(1).log())
    torch.testing.assert_close(energy(x, y=y), -net(x)[torch.arange(6), y])
    joint = torch.stack([energy(x, y=torch.full((6,), c)) for c in range(3)])
    torch.testing.assert_close((-energy(x)).exp(), (-joint).exp().sum(0))  # p(x) = sum_y p(x, y)
    assert len(list(energy.parameters())) == 2
    torch.testing.assert_close((energy + en.Gaussian([0.0, 0.0]))(x, y=y), energy(x, y=y) + x.square().sum(1) / 2)
    with pytest.raises(TypeError, match="classifier must be an energy, a callable"):
        en.from_classifier("net")
    with pytest.raises(ValueError, match=r"classifier must return logits of shape \(6, classes\), got \(6,\)"):
        en.from_classifier(lambda x: x.sum(1))(x)
    with pytest.raises(ValueError, match=r"y must be labels of shape \(6,\), torch.int64; got \(5,\)"):
        energy(x, y=y[:5])
    with pytest.raises(ValueError, match="y must be labels"):
        energy(x, y=y.float())


def test_a_component_out_of_its_support_takes_no_part():
    energy = en.mixture_of([en.Gamma([2.0]), en.Gaussian([0.0])], [1.0, 3.0])
    x = torch.tensor([[-1.0], [-3.0]])
    e, g = energy.energy_and_grad(x)
    torch.testing.assert_close(e, 0.5 * x[:, 0] ** 2 - math.log(0.75))
    torch.testing.assert_close(g, x)
    infinite = en.mixture_of([en.Funnel(2), en.Gaussian([0.0, 0.0])])
    x = torch.tensor([[-300.0, 1.0]])
    assert en.Funnel(2).grad(x).isinf().any()
    torch.testing.assert_close(infinite.energy_and_grad(x)[1], x)


def test_errors():
    a, b, _ = parts()
    with pytest.raises(ValueError, match="sum_of needs at least one energy"):
        en.sum_of()
    with pytest.raises(TypeError, match=r"energies\[1\] must be an energy, a callable .* got 3"):
        en.sum_of(a, 3)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = a + 3
    with pytest.raises(TypeError, match="energy must be an energy"):
        en.tempered(None, 1.0)
    with pytest.raises(ValueError, match="beta must be finite and at least 0, got -1"):
        en.tempered(a, -1.0)
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        en.tempered(a, torch.tensor([0.5, math.nan]))
    with pytest.raises(ValueError, match=r"beta must be a number or a floating tensor .* got \(2, 1\)"):
        en.tempered(a, torch.ones(2, 1))
    with pytest.raises(TypeError, match="beta must be a number"):
        en.tempered(a, "1")
    with pytest.raises(ValueError, match="mixture_of needs at least one energy"):
        en.mixture_of([])
    with pytest.raises(ValueError, match="weights must be 2 numbers above 0"):
        en.mixture_of([a, b], [1.0, 0.0])
    with pytest.raises(ValueError, match="weights must be 2 numbers above 0"):
        en.mixture_of([a, b], [1.0])
    with pytest.raises(ValueError, match=r"energies\[1\] has no log_z"):
        en.mixture_of([a, lambda x: x.sum(1)], normalised=True)
    with pytest.raises(NotImplementedError, match="PhiFour has no closed form of log Z"):
        en.mixture_of([a, en.PhiFour((2, 2))], normalised=True)
