"""Score networks: scaling at every level, independence of the batch, any image size, the energy made of one, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebm_fast.models import NCSN, NoiseConditional, NoiseConditionalEnergy, ScoreMLP
from ebm_fast.models.score_mlp import LevelEmbedding

F64 = torch.float64
NETWORKS = {
    "mlp": lambda **o: (ScoreMLP(3, (16, 16), **o), (3,)),
    "unet": lambda **o: (NCSN(2, (6, 5), (4, 8), **o), (2, 6, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("conditional", [True, False])
def test_a_state_s_score_is_its_own(name, conditional):
    """Shape, no dependence on the rest of the batch, differentiable against finite differences, and level-dependent."""
    net, event = NETWORKS[name](conditional=conditional)
    net = net.double()
    x = torch.randn(4, *event, dtype=F64)
    sigma = torch.tensor([0.1, 1.0, 3.0, 1.0], dtype=F64) if conditional else None
    s = net(x, sigma)
    assert s.shape == x.shape and s.std() > 0
    torch.testing.assert_close(net(x[1:2], sigma[1:2] if conditional else None), s[1:2])
    assert torch.autograd.gradcheck(lambda x: net(x, sigma), (x.requires_grad_(),), fast_mode=True)
    if conditional:
        x = x.detach()
        assert not torch.allclose(net(x[:1], sigma[:1]), net(x[:1], sigma[1:2]))


def test_the_form_of_the_score():
    """With F = 0 the score of N(0, (tau^2 + sigma^2) I); with F = k the same plus tau c k / sigma."""
    tau, k = 2.0, 0.3
    net = ScoreMLP(3, (8,), data_std=tau).double()
    x, sigma = torch.randn(5, 3, dtype=F64), torch.tensor([0.01, 0.5, 1.0, 4.0, 50.0], dtype=F64)
    with torch.no_grad():
        net.last.weight.zero_()
        for bias in (0.0, k):
            net.last.bias.fill_(bias)
            variance = (sigma**2 + tau**2)[:, None]
            wanted = -x / variance + tau * bias / (sigma[:, None] * variance.sqrt())
            torch.testing.assert_close(net(x, sigma), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_and_targets_have_size_one_at_every_level(name):
    """For data of standard deviation tau, sigma from 0.01 to 100: what F sees has variance 1, and the denoising residual
    sigma s + z is at most as large as z whatever F in (-1, 1) says: no level drowns the others."""
    tau = 3.0
    net, event = NETWORKS[name](data_std=tau)
    seen: list[Tensor] = []
    network = net.network

    def spy(u: Tensor, sigma: Tensor | None, y: Tensor | None = None) -> Tensor:
        seen.append(u)
        return network(u, sigma, y)

    net.network = spy
    for sigma in (0.01, 1.0, 100.0):
        x, z = tau * torch.randn(2000, *event), torch.randn(2000, *event)
        with torch.no_grad():
            s = net(x + sigma * z, torch.full((2000,), sigma))
        assert seen[-1].std().item() == pytest.approx(1.0, abs=0.05)
        residual = (sigma * s + z).std().item()
        assert 0 < residual < 2


def test_levels_are_told_apart():
    """Embeddings of levels 1.1 apart, from 0.001 to 1000, differ by at least 0.1 of their norm; width numbers each."""
    sigma = 1.1 ** torch.arange(-72.0, 73.0)
    e = LevelEmbedding(16)(sigma)
    assert e.shape == (145, 16)
    distance = torch.cdist(e, e).fill_diagonal_(math.inf).min()
    assert distance > 0.1 * e.norm(dim=1).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_energy_is_its_formula_and_its_score_a_gradient(name):
    net, event = NETWORKS[name](data_std=1.5)
    energy = NoiseConditionalEnergy(net).double()
    x, sigma = torch.randn(3, *event, dtype=F64), torch.tensor([0.2, 1.0, 5.0], dtype=F64)
    c = (sigma**2 + 1.5**2).rsqrt().view(-1, *[1] * len(event))
    u = c * x
    product = (u * net.network(u, sigma)).flatten(1).sum(1)
    torch.testing.assert_close(energy(x, sigma), 0.5 * u.flatten(1).square().sum(1) - 1.5 / sigma * product)
    assert torch.autograd.gradcheck(lambda x: energy(x, sigma), (x.requires_grad_(),), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: energy(x, sigma), (x,), fast_mode=True)


@pytest.mark.parametrize("size", [1, 2, 7, 28, (3, 10)])
def test_any_image_size(size):
    net = NCSN(1, size, (4, 8, 8))
    x = torch.randn(2, *net.event_shape)
    s = net(x, torch.tensor([0.1, 1.0]))
    assert s.shape == x.shape and s.isfinite().all()


def test_classes():
    net = NCSN(1, 4, (4,), num_classes=3)
    x, sigma = torch.randn(1, 1, 4, 4).expand(3, -1, -1, -1), torch.ones(3)
    s = net(x, sigma, torch.tensor([0, 1, 2]))
    assert not torch.allclose(s[0], s[1]) and not torch.allclose(s[1], s[2])
    torch.testing.assert_close(NoiseConditionalEnergy(net)(x, sigma, y=torch.tensor([0, 0, 0]))[0:1].expand(3),
                               NoiseConditionalEnergy(net)(x, sigma, torch.tensor([0, 0, 0])))  # fmt: skip
    plain = NCSN(1, 4, (4,), conditional=False, num_classes=2)
    assert plain(x, y=torch.tensor([0, 1, 1])).shape == x.shape


def test_errors():
    x, sigma = torch.randn(4, 3), torch.ones(4)
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="data_std"):
            ScoreMLP(3, data_std=bad)
    for dim, widths in ((0, (8,)), (3, ()), (3, (0,)), (2.5, (8,))):
        with pytest.raises(ValueError, match="dim, widths"):
            ScoreMLP(dim, widths)
    for width in (0, 3, 2.5):
        with pytest.raises(ValueError, match="width"):
            ScoreMLP(3, embedding=width)
    with pytest.raises(ValueError, match=r"x: expected \(n, 3\), got \(4, 2\)"):
        ScoreMLP(3)(x[:, :2], sigma)
    with pytest.raises(ValueError, match="needs sigma="):
        ScoreMLP(3)(x)
    with pytest.raises(ValueError, match="no levels"):
        ScoreMLP(3, conditional=False)(x, sigma)
    with pytest.raises(ValueError, match=r"sigma: expected one level a state, \(4,\), got \(3,\)"):
        ScoreMLP(3)(x, sigma[:3])
    with pytest.raises(ValueError, match="no classes"):
        ScoreMLP(3)(x, sigma, sigma.long())
    for options in ({"channels": ()}, {"channels": (0,)}, {"in_channels": 0}):
        with pytest.raises(ValueError, match="channels"):
            NCSN(**options)
    with pytest.raises(ValueError, match="num_classes"):
        NCSN(num_classes=0)
    images = torch.randn(4, 1, 28, 28)
    for options, y in (({"num_classes": 2}, None), ({}, sigma.long())):
        with pytest.raises(ValueError, match="y: this network"):
            NCSN(**options)(images, sigma, y)
    for bad in (torch.nn.Linear(2, 2), ScoreMLP(3, conditional=False)):
        with pytest.raises(TypeError, match="network"):
            NoiseConditionalEnergy(bad)
    with pytest.raises(NotImplementedError):
        NoiseConditional((3,), 1.0, False)(x)
