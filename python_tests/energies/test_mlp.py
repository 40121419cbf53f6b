"""MLPEnergy: an ordinary module, trained in between, whose descriptor is what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.energies.mlp import ACTIVATIONS
from ebm_fast.reference.chain import energy_function

MODULES = dict(zip(ACTIVATIONS, (nn.Tanh, nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.GELU)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(7,), (5, 9, 4, 6)])
def test_it_is_the_network_and_the_descriptor_describes_it(activation, widths):
    torch.manual_seed(0)
    energy = MLPEnergy((2, 3), widths, activation)
    parts: list[nn.Module] = []
    for layer in energy.layers[:-1]:
        parts += [layer, MODULES[activation]()]
    x = torch.randn(11, 2, 3)
    torch.testing.assert_close(energy(x), nn.Sequential(*parts, energy.layers[-1])(x.flatten(1))[:, 0])
    d = energy.descriptor()
    assert (d.kind, d.dim, d.integers[1:]) == ("mlp", 6, (len(widths), *widths))
    packed = energy_function(d.kind, d.dim, d.integers, d.parameters)(x.flatten(1).double())
    torch.testing.assert_close(packed, energy.double()(x.double()), rtol=1e-5, atol=1e-6)


def test_training_between_runs_is_seen():
    """Three steps of an optimiser: the fused chain is the one that autograd's gradient makes of the new weights."""
    torch.manual_seed(0)
    energy, x0 = MLPEnergy(2, (16, 16), "silu"), torch.randn(9, 2)
    optimiser = torch.optim.SGD(energy.parameters(), 0.5)
    seen = []
    for k in range(3):
        run = ef.sample(energy, ef.Langevin(0.1), x0, num_steps=10, seed=k)
        assert run.strategy == "fused"
        other = ef.sample(energy, ef.Langevin(0.1), x0, num_steps=10, seed=k, strategy="step")
        torch.testing.assert_close(run.samples, other.samples, rtol=1e-5, atol=1e-5)
        seen.append(run.stats.energy[-1])
        optimiser.zero_grad()
        (energy(x0).mean() - energy(run.final).mean()).backward()
        optimiser.step()
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)
    assert all(p.grad is not None for p in energy.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"dim": 2000}, ValueError, "dim must be at most 1024"),
        ({"dim": 2, "widths": ()}, ValueError, "widths must be those of 1 to 4"),
        ({"dim": 2, "widths": (8,) * 5}, ValueError, "widths must be those of 1 to 4"),
        ({"dim": 2, "widths": (513,)}, ValueError, "at most 512"),
        ({"dim": 2, "activation": "sine"}, ValueError, "activation must be one of"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        MLPEnergy(**arguments)


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match="events of 2 numbers"):
        MLPEnergy(2)(torch.zeros(3, 4))
