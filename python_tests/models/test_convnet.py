"""Layers as written in the table, the conditional energy and its marginal, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ebm_fast.models import ConvNetEnergy, thesis_convnet


def layout(net: nn.Module) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            found.append((layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.out_channels))
        elif isinstance(layer, nn.Linear):
            found.append((layer.out_features,))
    return found


@pytest.mark.parametrize(
    ("name", "shape", "fourth", "linear"),
    [
        ("A", (1, 28, 28), (3, 2, 1, 256), [(512,), (1,)]),
        ("B", (3, 32, 32), (4, 2, 1, 256), [(512,), (1,)]),
        ("C", (3, 32, 32), (4, 2, 1, 512), [(512,), (256,), (1,)]),
    ],
)
def test_thesis_networks(name, shape, fourth, linear):
    net = thesis_convnet(name)
    convolutions = [(3, 1, 1, 64), (4, 2, 1, 128), (4, 2, 1, 256), fourth, (4, 1, 0, 1024)]
    assert layout(net) == [*convolutions, *linear]
    assert sum(isinstance(m, nn.LeakyReLU) for m in net.modules()) == len(convolutions) + len(linear) - 1
    assert (
        next(m for m in net.modules() if isinstance(m, nn.Linear)).in_features == 1024
    )  # 1 x 1 pixels are left
    x = torch.randn(2, *shape)
    assert net(x).shape == (2,)


@pytest.mark.parametrize("activation", ["silu", "leaky_relu", "elu", "gelu", "softplus", "relu"])
@pytest.mark.parametrize("channels", [(4, 8), ((3, 2, 1, 5), 6), ()])
@pytest.mark.parametrize("hidden", [(), (17, 13)])
def test_every_form_gives_one_independent_energy_a_chain(activation, channels, hidden):
    torch.manual_seed(0)
    net = ConvNetEnergy(2, (8, 12), channels, hidden, activation=activation).double()
    x = torch.randn(5, 2, 8, 12, dtype=torch.float64)
    energies = net(x)
    assert energies.shape == (5,) and energies.std() > 0
    torch.testing.assert_close(energies[3:4], net(x[3:4]))


def test_gradients_against_finite_differences():
    torch.manual_seed(0)
    net = ConvNetEnergy(1, 4, (3, 4), (5,), num_classes=3).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2, 0])
    assert torch.autograd.gradcheck(lambda x: net(x, y), (x,))
    assert torch.autograd.gradcheck(net, (x,))
    assert torch.autograd.gradgradcheck(net, (x,), fast_mode=True)


def test_the_marginal_energy_sums_the_classes():
    torch.manual_seed(0)
    net = ConvNetEnergy(1, 8, (4,), (), num_classes=3).double()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    joint = torch.stack([net(x, torch.full((6,), c)) for c in range(3)], 1)
    assert joint.std(1).min() > 0
    torch.testing.assert_close(torch.exp(-net(x)), torch.exp(-joint).sum(1))


def test_errors():
    with pytest.raises(ValueError, match="in_channels: expected an int of at least 1, got 0"):
        ConvNetEnergy(0)
    with pytest.raises(ValueError, match=r"activation.*'tanh'"):
        ConvNetEnergy(activation="tanh")
    with pytest.raises(ValueError, match="leaves no pixel"):
        ConvNetEnergy(1, 8, (4, (9, 1, 0, 4)))
    with pytest.raises(ValueError, match="num_classes"):
        ConvNetEnergy(num_classes=0)
    with pytest.raises(ValueError, match=r"expected \(n, 1, 8, 8\), got \(2, 1, 7, 8\)"):
        ConvNetEnergy()(torch.zeros(2, 1, 7, 8))
    with pytest.raises(ValueError, match="no classes"):
        ConvNetEnergy()(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="'D'"):
        thesis_convnet("D")
