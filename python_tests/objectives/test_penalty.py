"""The gradient penalty: a closed form, independent derivatives in float64, every objective that takes it, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from every_objective import EVERY, make
from quadrature import Quadratic
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.objectives import players, squared_gradient_norm

F64 = torch.float64
LANGEVIN = ef.Langevin(step_size=0.05)
WEIGHT = 0.3
DATA = torch.randn(16, 2, generator=torch.Generator("cpu").manual_seed(0))
PENALISED = ("ContrastiveDivergence", "PersistentCD", "ShortRunMLE", "AdaptiveNCE", "AdaptiveBregman", "VariationalMLE")


def buffer() -> ef.ReplayBuffer:
    return ef.ReplayBuffer(30, (2,), init=("normal", 1.0), seed=1, dtype=F64)


def gaussian() -> players.DiagonalGaussian:
    return players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.0)


MAKE = {
    "CD": lambda e, **o: ef.ContrastiveDivergence(e, LANGEVIN, num_steps=2, seed=0, **o),
    "PersistentCD": lambda e, **o: ef.PersistentCD(e, LANGEVIN, buffer(), num_steps=2, seed=0, energy_l2=0.1, **o),
    "ShortRunMLE": lambda e, **o: ef.ShortRunMLE(e, LANGEVIN, num_steps=2, seed=0, **o),
    "AdaNCE": lambda e, **o: ef.AdaptiveNCE(e, LANGEVIN, buffer(), interval=2, num_steps=2, seed=0, **o),
    "VariationalMLE": lambda e, **o: ef.VariationalMLE(e, gaussian(), num_noise=3, seed=0, **o),
}


class Watched(nn.Module):
    """A small network that keeps the states it was last differentiated at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).to(F64)
        self.seen = torch.empty(0, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        return self.net(x).squeeze(1)


def closed_form(net: nn.Module, x: Tensor) -> Tensor:  # (n, 2) -> (n,)
    """||W' (w (1 - tanh^2 (W x + b)))||^2 by hand: the network's gradient without autograd's."""
    first, last = net[0], net[2]
    slope = last.weight * (1.0 - torch.tanh(x @ first.weight.T + first.bias) ** 2)
    return (slope @ first.weight).square().sum(1)


def test_of_a_quadratic_it_is_p_squared_times_the_square():
    energy, x = Quadratic(0.2, 1.3), torch.randn(9, 1, dtype=F64, requires_grad=True)
    norms = squared_gradient_norm(energy(x), x)
    centred = x.detach().squeeze(1) - 0.2
    torch.testing.assert_close(norms.detach(), 1.69 * centred.square(), rtol=1e-13, atol=0)
    by_mean, by_precision = torch.autograd.grad(norms.sum(), [energy.m, energy.p])
    torch.testing.assert_close(by_precision, 2.6 * centred.square().sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close(by_mean, -2 * 1.69 * centred.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MAKE)
def test_it_enters_the_objective_at_data_and_samples(name):
    """Loss and parameter gradient beside those without it; in the second iteration AdaNCE's copy is not the model."""
    data, found, energies = torch.randn(6, 2, dtype=F64), [], []
    for weight in (0.0, WEIGHT):
        energies.append(energy := Watched())
        objective = MAKE[name](energy, gradient_penalty=weight)
        objective(data)
        energy.seen = torch.empty(0, 2)
        loss, metrics = objective(data)
        found.append((loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, energy.net[:3:2].parameters())][:-1])))
    assert torch.equal(energies[0].seen, energies[1].seen), "sampling does not know of the penalty"
    net, (at_data, at_samples) = energies[1].net, energies[1].seen.split([6, len(energies[1].seen) - 6])
    assert torch.equal(at_data, data)
    wanted = closed_form(net, at_data).mean() + closed_form(net, at_samples).mean()
    torch.testing.assert_close(metrics["gradient_penalty"], wanted.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1][0] - found[0][0], WEIGHT * wanted.detach(), rtol=1e-9, atol=1e-12)
    slopes = torch.autograd.grad(WEIGHT * wanted, list(net[:3:2].parameters())[:-1])
    torch.testing.assert_close(found[1][1] - found[0][1], torch.cat([g.flatten() for g in slopes]), rtol=1e-9, atol=1e-12)
    assert (torch.cat([g.flatten() for g in slopes]).abs() > 0.01).any(), "power"


@pytest.mark.parametrize("name", EVERY)
def test_every_objective_has_a_value_without_gradients(name):
    """A look at validation data under no_grad or inference_mode: the loss and metrics of a training iteration, to the bit, and no
    graph."""
    terms = [{"gradient_penalty": WEIGHT}] * (name in PENALISED)
    terms += [{"kl_weight": 0.2}, {"entropy_weight": 0.1}] * (name in PENALISED[:3])
    for options in [{}, EVERY[name][1], *terms]:
        found = []
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            torch.manual_seed(0)
            objective = make(name, **options)
            with mode():
                for _ in range(2):
                    loss, metrics = objective(DATA.to(torch.get_default_device()).clone())
            assert loss.requires_grad == (mode is torch.enable_grad)
            assert not any(m.requires_grad for m in metrics.values())
            found.append((loss.detach(), metrics))
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        torch.testing.assert_close(found[2], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["tanh", "silu", "softplus", "gelu", "leaky_relu", "bfloat16"])
def test_networks_are_differentiated_twice(activation):
    """The slope of the penalty along a direction of the parameters is its difference quotient, in float64."""
    torch.manual_seed(1)
    options = {"activation": "tanh", "precision": "bfloat16"} if activation == "bfloat16" else {"activation": activation}
    net = MLPEnergy(2, (8, 8), **options)
    if activation != "bfloat16":
        net = net.to(F64)
    x = torch.randn(16, 2, dtype=next(net.parameters()).dtype, requires_grad=True)

    def penalty(shift: float) -> Tensor:
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p += shift * d
        return squared_gradient_norm(moved(x), x).mean()

    slopes = torch.autograd.grad(squared_gradient_norm(net(x), x).mean(), list(net.parameters()), materialize_grads=True)
    if activation == "bfloat16":  # rounded, a difference quotient has no digits: beside the same network without rounding
        plain = MLPEnergy(2, (8, 8), "tanh")
        plain.load_state_dict(net.state_dict())
        wanted = torch.autograd.grad(
            squared_gradient_norm(plain(x), x).mean(), list(plain.parameters()), materialize_grads=True
        )
        ours, truth = (torch.cat([g.flatten() for g in gs]) for gs in (slopes, wanted))
        assert 0.0 < (ours - truth).norm() < 0.03 * truth.norm()
        return
    direction = [torch.randn_like(p) for p in net.parameters()]
    slope = sum((g * d).sum() for g, d in zip(slopes, direction, strict=True))
    quotient = (penalty(1e-5) - penalty(-1e-5)).detach() / 2e-5
    torch.testing.assert_close(slope, quotient, rtol=1e-6, atol=1e-8)
    assert quotient.abs() > 1e-3


def test_refusals():
    x = torch.randn(3, 2)
    for energies, at in ((x.sum(1), x), (x.sum(1), x.clone().requires_grad_()), (nn.Linear(2, 1)(x).squeeze(1), x)):
        with pytest.raises(ValueError, match="energies: expected E"):
            squared_gradient_norm(energies, at)
    with pytest.raises(ValueError, match="do not depend on it"):
        squared_gradient_norm(nn.Linear(2, 1)(x).squeeze(1), x.clone().requires_grad_())
