"""The second players: draws that counters determine, densities that are those of the draws, what is no player."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MixtureSameFamily, Normal

from ebm_fast import noise
from ebm_fast.objectives import kozachenko_leonenko, players
from ebm_fast.ops import normal_
from ebm_fast.testing import ks_test

F64 = torch.float64


def network(out: int = 2, dtype: torch.dtype = F64) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, out)).to(dtype)


def makers() -> dict[str, players.Player]:
    return {
        "gaussian": players.DiagonalGaussian(torch.tensor([0.3, -0.2], dtype=F64), [0.5, 0.8]),
        "generator": players.Generator(network(), 3, std=[0.2, 0.3], learn_std=True),
        "implicit": players.Generator(network(), (3,)),
    }


@pytest.mark.parametrize("name", list(makers()))
def test_a_row_depends_on_seed_step_and_index_alone(name):
    player = makers()[name]
    whole = player.draw(9, seed=5, step=7).x
    parts = torch.cat([player.draw(4, seed=5, step=7).x, player.draw(5, seed=5, step=7, chain_offset=4).x])
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-14)
    for other in (player.draw(9, seed=6, step=7), player.draw(9, seed=5, step=8)):
        assert not bool((other.x == whole).any())
    whole.sum().backward()
    assert all(p.grad is not None for p in player.parameters())


def test_gaussian_is_its_formula():
    player, x = makers()["gaussian"], torch.randn(20, 2, dtype=F64)
    wanted = Normal(torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([0.5, 0.8], dtype=F64)).log_prob(x).sum(1)
    torch.testing.assert_close(player.log_prob(x).detach(), wanted, rtol=1e-12, atol=1e-12)
    drawn = player.draw(40_000, seed=1)
    assert ks_test((drawn.x[:, 0].detach() - 0.3) / 0.5, torch.special.ndtr).passed
    # log q along the path is -z^2 / 2 - log std: the entropy's gradient in log std is 1 for every sample.
    entropy = -drawn.log_prob(drawn.x).mean()
    slopes = torch.autograd.grad(entropy, [player.mean, player.log_std])
    torch.testing.assert_close(slopes[0], torch.zeros(2, dtype=F64), rtol=0, atol=1e-13)
    torch.testing.assert_close(slopes[1], torch.ones(2, dtype=F64), rtol=1e-13, atol=0)


def test_a_generator_s_draw_has_a_known_density():
    """Normalised; the mixture by hand; and its rows are one sample of each component, with noise of its own purpose."""
    player = makers()["generator"]
    drawn = player.draw(5, seed=2, step=3, chain_offset=1)
    options = {"seed": 2, "step": 3, "chain_offset": 1}
    z = normal_(torch.empty(5, 3, dtype=F64), purpose="generator_latent", **options)
    e = normal_(torch.empty(5, 2, dtype=F64), purpose="generator_noise", **options)
    std = torch.tensor([0.2, 0.3], dtype=F64)
    centres = player.net(z)
    torch.testing.assert_close(drawn.x, centres + std * e, rtol=1e-13, atol=1e-14)
    x = torch.randn(30, 2, dtype=F64)
    parts = torch.stack([Normal(c, std).log_prob(x).sum(1) for c in centres])
    torch.testing.assert_close(drawn.log_prob(x), parts.logsumexp(0) - math.log(5), rtol=1e-12, atol=1e-12)
    axis = torch.linspace(-4, 4, 401, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        total = drawn.log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-10)
    torch.autograd.gradcheck(lambda *_: player.draw(3, seed=1).log_prob(x[:4]), tuple(player.parameters()))


def test_entropy_of_a_generator_s_draw_is_a_lower_bound():
    """G linear: q is a Gaussian, whose entropy is known; the bound comes close from below as draws grow."""
    net = nn.Linear(1, 1).to(F64)
    nn.init.constant_(net.weight, 2.0)
    player = players.Generator(net, 1, std=0.5)
    exact = 0.5 * math.log(2 * math.pi * math.e * (4 + 0.25))
    bounds = []
    with torch.no_grad():
        for n in (2, 20, 1000):
            draws = [player.draw(n, seed=0, step=step) for step in range(2000 // n)]
            values = torch.stack([-d.log_prob(d.x).mean() for d in draws])
            bounds.append(values.mean().item())
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[1] < exact and bounds[2] == pytest.approx(exact, abs=0.08)


def test_nearest_neighbours_know_the_entropy():
    """Of a Gaussian on the plane and of a uniform line, within 5.5 deviations sqrt(Var log rho d / n) and the bias."""
    torch.manual_seed(1)
    n = 2000
    plane = torch.randn(n, 2, dtype=F64) * torch.tensor([0.5, 2.0])
    line = 3 * torch.rand(n, 1, dtype=F64)
    for x, exact in ((plane, 1 + math.log(2 * math.pi)), (line, math.log(3))):
        # Var of d log rho + log density is pi^2 / 6 + Var log p <= pi^2 / 6 + 1 on the plane; neighbours correlate mildly.
        assert kozachenko_leonenko(x).item() == pytest.approx(exact, abs=5.5 * 2 * math.sqrt(2.65 / n))
        t = torch.zeros((), dtype=F64, requires_grad=True)
        scaled = kozachenko_leonenko(x * t.exp())
        assert gradient_of(scaled, t) == pytest.approx(x.shape[1], rel=1e-8), "scaling by e^t adds d t"
    with pytest.raises(ValueError, match="at least 2 states"):
        kozachenko_leonenko(plane[:1])


def gradient_of(value: Tensor, t: Tensor) -> float:
    return torch.autograd.grad(value, t)[0].item()


class Pair(nn.Module):
    """The contract of normflows: `sample(n)` returns reparametrised states and log densities."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(2, dtype=F64))

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        x = self.shift + torch.randn(n, 2, dtype=F64)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.shift).square().sum(1) - math.log(2 * math.pi)


class Maker(nn.Module):
    """The contract of zuko: a distribution when called."""

    def __init__(self, make) -> None:
        super().__init__()
        self.shift, self.make = nn.Parameter(torch.ones(2, dtype=F64)), make

    def forward(self) -> Distribution:
        return self.make(self.shift)


@pytest.mark.parametrize("make", [Pair, lambda: Maker(lambda m: Normal(m, 1.0)),
                                  lambda: Maker(lambda m: Independent(Normal(m, 1.0), 1))])  # fmt: skip
def test_modules_of_others(make):
    module = make()
    player, x = players.as_player(module), torch.randn(6, 2, dtype=F64)
    drawn = player.draw(5, seed=3, step=1)
    assert drawn.x.shape == (5, 2) and drawn.x.requires_grad
    wanted = noise.Gaussian(torch.ones(2, dtype=F64)).log_prob(x)
    torch.testing.assert_close(drawn.log_prob(x).detach(), wanted, rtol=1e-13, atol=1e-13)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    assert torch.equal(player.draw(5, seed=3, step=1).x, drawn.x)
    assert torch.equal(torch.rand(2), expected), "torch's generator is left alone"
    assert not bool((player.draw(5, seed=3, step=2).x == drawn.x).any())
    # Static noise drawn from the same counter shares no number with it.
    assert not bool((noise.as_noise(Pair()).sample(5, seed=3, step=1) == drawn.x).any())
    (slope,) = torch.autograd.grad(drawn.x.sum(), [module.shift])
    torch.testing.assert_close(slope, torch.full((2,), 5.0, dtype=F64))
    assert players.as_player(player) is player


def test_flows_of_zuko():
    zuko = pytest.importorskip("zuko")
    for make in (zuko.flows.MAF, zuko.flows.RealNVP):
        flow = make(2, transforms=2, hidden_features=(16,))
        drawn = players.as_player(flow).draw(7, seed=1)
        torch.testing.assert_close(drawn.log_prob(drawn.x), flow().log_prob(drawn.x))
        both = players.as_player(flow).draw_with_density(7, seed=1)
        assert drawn.log_q is None and torch.equal(both.x, drawn.x)
        torch.testing.assert_close(both.log_q, drawn.log_prob(drawn.x))
        drawn.x.sum().backward()
        assert any(bool(p.grad.any()) for p in flow.parameters())


def test_a_generator_under_autocast_makes_states_of_its_own_dtype():
    player = players.Generator(network(dtype=torch.float32), 3, std=0.2)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        drawn = player.draw(4, seed=0)
        assert drawn.x.dtype == drawn.log_prob(drawn.x).dtype == torch.float32


def test_errors():
    class NoDensity(Pair):
        log_prob = None

    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.zeros(2, 2), 1.0), 1))
    for bad, match in (
        (Normal(torch.zeros(2), 1.0), "expected a torch module .* got Normal"),
        (noise.Gaussian, "expected a torch module"),
        (NoDensity(), r"NoDensity lacks log_prob\(x\)"),
        (network(), r"Sequential has no log_prob.*wrap a network .*Generator"),
        (Maker(lambda m: m), "expected a distribution with rsample from Maker, got Parameter"),
        (Maker(lambda m: mixture), "expected a distribution with rsample"),
        (Maker(lambda m: Bernoulli(m)), "expected a distribution with rsample"),
    ):
        with pytest.raises(TypeError, match=f"generator: .*{match}"):
            players.as_player(bad)
    for make, error, match in (
        (lambda: players.Generator(lambda z: z, 3), TypeError, "net: expected a torch module"),
        (lambda: players.Generator(network(), ()), ValueError, "latent_shape"),
        (lambda: players.Generator(network(), 0), ValueError, "latent_shape"),
        (lambda: players.Generator(network(), 3, std=0.0), ValueError, "std must be above 0"),
        (lambda: players.Generator(network(), 3, learn_std=True), ValueError, "learn_std"),
        (lambda: players.Generator(network(), 3, std=torch.ones(5)).draw(2, seed=0), ValueError, r"std .*\(2,\), got \(5,\)"),
        (lambda: players.Generator(nn.Flatten(0), 3).draw(2, seed=0), ValueError, r"net: expected states \(2, \*event\)"),
        (lambda: players.DiagonalGaussian(0.0), ValueError, "mean must have the event's shape"),
        (lambda: players.DiagonalGaussian(torch.zeros(2), torch.ones(3)), ValueError, "std"),
        (lambda: players.DiagonalGaussian(torch.zeros(2), -1.0), ValueError, "std must be above 0"),
    ):
        with pytest.raises(error, match=match):
            make()
    pair = Pair()
    drawn = players.as_player(pair).draw(3, seed=0)
    pair.log_prob = lambda x: x
    with pytest.raises(ValueError, match=r"log_prob to return \(3,\), .*for states \(3, 2\), got \(3, 2\)"):
        drawn.log_prob(drawn.x)
    pair.sample = lambda n: torch.zeros(n + 1, 2)
    with pytest.raises(ValueError, match=r"expected 3 states \(3, \*event\), got \(4, 2\)"):
        players.as_player(pair).draw(3, seed=0)
