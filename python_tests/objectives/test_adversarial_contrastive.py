"""Adversarial contrastive estimation: the mixture of noise, its ends, gradients of both players, recovered densities, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from quadrature import LOG_2PI, Quadratic, expectation, gradient, grid, log_normal, newton
from torch import Tensor, nn
from torch.nn.functional import softplus
from two_players import Plane, alternate, network

import ebm_fast as ef
from ebm_fast import noise
from ebm_fast.objectives import (
    NCE,
    AdversarialContrastive,
    FlowContrastive,
    VariationalMLE,
    adversarial_contrastive_loss,
    nce_loss,
    players,
)

F64 = torch.float64


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)).to(F64)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1) + 0.5 * x.square().sum(1)


def generator(std: Any = 0.4, **options: Any) -> players.Generator:
    torch.manual_seed(4)
    return players.Generator(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(F64), 2, std=std, **options)


def base() -> noise.Gaussian:
    return noise.Gaussian(torch.zeros(2, dtype=F64), 1.5)


def gaussian_player(mean: float = 0.2, std: float = 0.9) -> players.DiagonalGaussian:
    return players.DiagonalGaussian(torch.tensor([mean], dtype=F64), std)


def test_loss_is_the_thesis_s_formula():
    """(1 + nu) times (3.3), with probabilities as they stand there."""
    nu, w = 3, 0.3
    data, static, generated = (3 * torch.randn(n, dtype=F64) for n in (7, 5, 11))
    rho_0, rho_1, v = nu / (1 + nu), 1 / (1 + nu), 1 / nu
    h = [-(1 + v * r.exp()).log() for r in (data, static, generated)]
    wanted = -rho_0 * w * h[1].mean() - rho_0 * (1 - w) * h[2].mean() - rho_1 * (1 - h[0].exp()).log().mean()
    found = adversarial_contrastive_loss(data, static, generated, base_weight=w, num_noise=nu)
    torch.testing.assert_close(found, (1 + nu) * wanted, rtol=1e-13, atol=0)
    far = torch.tensor([-1e4, 1e4], dtype=torch.float32, requires_grad=True)
    adversarial_contrastive_loss(far, far, far, base_weight=0.5).backward()
    torch.testing.assert_close(far.grad, torch.tensor([-0.5, 0.5]))
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="base_weight"):
            adversarial_contrastive_loss(data, static, generated, base_weight=bad)
    with pytest.raises(ValueError, match="log_ratio_noise"):
        adversarial_contrastive_loss(data, static, generated[:0], base_weight=0.5)


def test_its_ends_are_nce_and_flow_contrastive_estimation():
    net, data, options = Net(), torch.randn(8, 2, dtype=F64), {"num_noise": 2, "log_z": 0.1, "seed": 6, "chain_offset": 3}
    one = AdversarialContrastive(net, generator(), base(), base_weight=1.0, **options)
    static = NCE(net, base(), **options)
    for _ in range(2):
        (loss, metrics), (wanted, others) = one(data), static(data)
        assert torch.equal(loss, wanted)
        assert torch.equal(gradient(loss, one.parameters()), gradient(wanted, static.parameters()))
        assert {name: m.item() for name, m in metrics.items()} == {name: m.item() for name, m in others.items()}
    with pytest.raises(ValueError, match="base_weight: with 1 the generator"):
        one.generator_loss(data)
    flow = players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.2)
    zero, game = AdversarialContrastive(net, flow, base_weight=0.0, **options), FlowContrastive(net, flow, **options)
    for loss_of, other in ((zero, game), (zero.generator_loss, game.generator_loss)):
        assert torch.equal(loss_of(data)[0], other(data)[0])


def test_the_classifier_knows_the_density_of_the_whole_mixture():
    net, nu, w, data = Net(), 3, 0.25, torch.randn(5, 2, dtype=F64)
    objective = AdversarialContrastive(net, generator(), base(), base_weight=w, num_noise=nu, log_z=0.2, seed=8)
    for for_generator in (False, True):
        step = 1 << 55 if for_generator else 0
        static = base().sample(4, seed=8, step=step)  # a quarter of 15, rounded
        drawn = objective.generator.draw(11, seed=8, step=step)
        ratios = []
        for x in (data, static, drawn.x):
            p_n = w * base().log_prob(x).exp() + (1 - w) * drawn.log_prob(x).exp()
            ratios.append(-net(x) - 0.2 - p_n.log())
        wanted = nce_loss(ratios[0], ratios[1], num_noise=nu) * w + nce_loss(ratios[0], ratios[2], num_noise=nu) * (1 - w)
        loss, metrics = (objective.generator_loss if for_generator else objective)(data)
        torch.testing.assert_close(loss, -wanted if for_generator else wanted, rtol=1e-12, atol=0)
    log_q = drawn.log_prob(drawn.x)
    torch.testing.assert_close(metrics["entropy"], -log_q.mean().detach(), rtol=1e-12, atol=0)
    # The generator's other forms, on the same draw: entropy beside the game, and the loss that does not saturate.
    options = {"base_weight": w, "num_noise": nu, "log_z": 0.2, "seed": 8}
    spread = AdversarialContrastive(net, generator(), base(), entropy_weight=0.4, **options).generator_loss(data)[0]
    torch.testing.assert_close(spread, loss + 0.4 * log_q.mean(), rtol=1e-12, atol=0)
    other = AdversarialContrastive(net, generator(), base(), saturating=False, **options).generator_loss(data)[0]
    torch.testing.assert_close(other, nu * (1 - w) * softplus(math.log(nu) - ratios[2]).mean(), rtol=1e-12, atol=0)


OBJECTIVES = {
    "saturating": lambda **o: AdversarialContrastive(Net(), generator(learn_std=True), base(), **o),
    "entropy": lambda **o: AdversarialContrastive(Net(), generator(), base(), base_weight=0.3, entropy_weight=0.4, **o),
    "not saturating": lambda **o: AdversarialContrastive(Net(), generator(), base(), num_noise=2, saturating=False, **o),
    "flow": lambda **o: FlowContrastive(Net(), players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.2), log_z=0.1, **o),
    "variational": lambda **o: VariationalMLE(Net(), players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.2), num_noise=2, **o),
    "bound": lambda **o: VariationalMLE(Net(), generator(learn_std=True), entropy_weight=0.8, **o),
    "neighbours": lambda **o: VariationalMLE(Net(), generator(None), entropy="nearest_neighbour", **o),
}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_generator_s_gradient_is_that_of_its_loss(name):
    """Central differences over every number of the generator, the draw's counter held."""
    objective, data, h = OBJECTIVES[name](seed=2), torch.randn(6, 2, dtype=F64), 1e-5
    loss, _ = objective.generator_loss(data)
    found = gradient(loss, objective.generator_parameters())
    wanted = []
    for p in objective.generator_parameters():
        flat = p.detach().view(-1)
        for i in range(len(flat)):
            start, sides = flat[i].item(), []
            for step in (h, -h):
                flat[i] = start + step
                objective.generator_iteration = 0
                sides.append(objective.generator_loss(data)[0].item())
            flat[i] = start
            wanted.append((sides[0] - sides[1]) / (2 * h))
    wanted = torch.tensor(wanted, dtype=F64)
    assert wanted.abs().max() > 0.02
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_no_gradient_crosses_over(name):
    objective, data = OBJECTIVES[name](seed=2), torch.randn(6, 2, dtype=F64)
    objective(data)[0].backward()
    assert all(p.grad is None for p in objective.generator_parameters())
    assert all(bool(p.grad.any()) or p is list(objective.energy.parameters())[-1] for p in objective.energy.parameters())
    for p in objective.parameters():
        p.grad = None
    objective.generator_loss(data)[0].backward()
    assert all(p.grad is None for p in objective.parameters())
    assert all(p.grad is not None for p in objective.generator_parameters())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_resume_is_exact(name):
    batches = [torch.randn(6, 2, dtype=F64) for _ in range(6)]

    def train(objective: Any, some: list[Tensor]) -> list[float]:
        losses = []
        for data in some:
            for loss_of, parameters in (
                (objective, list(objective.parameters())),
                (objective.generator_loss, list(objective.generator_parameters())),
            ):
                loss, _ = loss_of(data)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                with torch.no_grad():
                    for p, g in zip(parameters, gradients):
                        p -= 0.05 * (0.0 if g is None else g)
                losses.append(loss.item())
        return losses

    objective = OBJECTIVES[name](seed=3)
    train(objective, batches[:3])
    saved, energy = objective.state_dict(), {k: v.clone() for k, v in objective.energy.state_dict().items()}
    rest = train(objective, batches[3:])
    other = OBJECTIVES[name]()
    other.energy.load_state_dict(energy)
    other.load_state_dict(saved)
    torch.manual_seed(77)
    assert train(other, batches[3:]) == rest
    assert len(set(rest)) == len(rest)


@pytest.mark.parametrize("w", [0.0, 0.4])
def test_parameters_and_log_z_are_recovered(w):
    """For a generator as it stands, the minimum over one large sample lies within 5.5 standard errors of the truth.

    The covariance is that of NCE with the mixture as its noise, an upper bound for parts of fixed size.
    """
    mean, std, n = 0.7, 0.8, 200_000
    energy, player, static = Quadratic(0.3, 1.0), gaussian_player(0.2, 1.3), noise.Gaussian(torch.zeros(1, dtype=F64), 1.5)
    data = mean + std * torch.randn(n, 1, dtype=F64)
    objective = AdversarialContrastive(
        energy, player, static if w else None, base_weight=w, num_noise=2, log_z=0.0, seed=5
    )

    def loss() -> Tensor:
        objective.iteration = 0
        return objective(data)[0]

    hessian = newton(loss, list(objective.parameters()), steps=15)
    x = grid()
    log_q = player.log_prob(x).detach()
    log_noise = torch.logaddexp(math.log(w) + static.log_prob(x), math.log1p(-w) + log_q) if w else log_q
    exact = Quadratic(mean, 1 / std**2)
    r = (-exact(x) - exact.log_z() - log_noise - math.log(2)).detach()
    slope = torch.stack([(x[:, 0] - mean) / std**2, -0.5 * (x[:, 0] - mean).square(), -torch.ones(len(x), dtype=F64)], 1)
    total = torch.zeros(3, 3, dtype=F64)
    for weight, law, share in (
        (-torch.sigmoid(-r), log_normal(x, mean, std), 1.0),
        (2 * torch.sigmoid(r), log_noise, 0.5),
    ):
        values = weight.unsqueeze(1) * slope
        centre = torch.stack([expectation(column, law, x) for column in values.T])
        rows = (values - centre) * (law.exp() * (x[1, 0] - x[0, 0])).sqrt().unsqueeze(1)
        total += share * rows.T @ rows
    inverse = torch.linalg.inv(hessian)
    error = 5.5 * (inverse @ total @ inverse / n).diagonal().sqrt()
    truth = torch.tensor([mean, 1 / std**2, 0.5 * (LOG_2PI + 2 * math.log(std))], dtype=F64)
    found = torch.stack([p.detach() for p in objective.parameters()])
    assert bool(((found - truth).abs() < error).all()), (found, truth, error)
    assert bool((error < torch.tensor([0.03, 0.06, 0.03])).all()), error


def test_a_generator_s_draw_is_noise_without_bias():
    """E over the noise of 4 rows, latents held, of softplus(r) equals that of their mixture by quadrature."""
    net = nn.Linear(1, 1).to(F64)
    player, energy, runs = players.Generator(net, 1, std=0.3), Quadratic(0.3, 1.5), 20_000
    x = grid(reach=8.0, points=2001)
    centres = player.draw(4, seed=1).log_prob
    with torch.no_grad():
        z = ef.ops.normal_(torch.empty(4, 1, dtype=F64), seed=1, purpose="generator_latent")
        rows = net(z).unsqueeze(0) + 0.3 * torch.randn(runs, 4, 1, dtype=F64)
        values = [softplus(-energy(s) - 0.4 - centres(s)) for s in (x, rows.view(-1, 1))]
        exact = expectation(values[0], centres(x), x)
        means = values[1].view(runs, 4).mean(1)
    error = 5.5 * means.std() / math.sqrt(runs)
    assert (means.mean() - exact).abs() < error < 0.02 * exact


def test_not_saturating_loss_is_least_where_the_generator_is_the_model():
    """E_q softplus(-r) = E_q log(1 + q / p_theta): log 2 and stationary at q = p_theta; saturated gradients die, these do not."""
    energy = Quadratic(0.2, 1 / 0.81)
    at_truth = AdversarialContrastive(energy, gaussian_player(), base_weight=0.0, saturating=False, log_z=energy.log_z(), seed=1)
    loss, _ = at_truth.generator_loss(torch.randn(4000, 1, dtype=F64))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-13)
    score = gradient(loss, at_truth.generator_parameters())
    assert bool((score.abs() < 0.5 * 5.5 * torch.tensor([1 / 0.9, math.sqrt(2)]) / math.sqrt(4000)).all())
    slopes = []
    for saturating in (True, False):
        player, options = gaussian_player(9.0), {"log_z": energy.log_z(), "seed": 1, "saturating": saturating}
        far = AdversarialContrastive(energy, player, base_weight=0.0, **options)
        loss, _ = far.generator_loss(torch.full((500, 1), 0.2, dtype=F64))
        slopes.append(gradient(loss, [player.mean]).item())
    assert slopes[1] > 5 and abs(slopes[0]) < slopes[1]


def test_errors():
    net, data = Net(), torch.randn(4, 2, dtype=F64)
    for make, error, match in (
        (lambda: AdversarialContrastive(net, generator(None), base()), ValueError, "generator: expected one with a density"),
        (lambda: AdversarialContrastive(net, generator()), ValueError, "base: expected a noise model for base_weight=0.5"),
        (lambda: AdversarialContrastive(net, generator(), base(), base_weight=0.0), ValueError, "base_weight: a base noise"),
        (lambda: AdversarialContrastive(net, generator(), base(), base_weight=1.1), ValueError, "base_weight"),
        (lambda: AdversarialContrastive(net, generator(), base(), entropy_weight=-1.0), ValueError, "entropy_weight"),
        (lambda: AdversarialContrastive(net, generator(), object()), TypeError, "noise: .*sample and log_prob"),
        (lambda: AdversarialContrastive(net, nn.ReLU(), base()), TypeError, "generator: ReLU"),
        (lambda: AdversarialContrastive(Net, generator(), base()), TypeError, "energy: expected a callable"),
        (lambda: FlowContrastive(net, generator()), TypeError, "flow: expected one with an exact log_prob, got Generator"),
        (lambda: FlowContrastive(net, generator(None)), ValueError, "generator: expected one with a density"),
        (lambda: FlowContrastive(net, gaussian_player(), likelihood_weight=math.inf), ValueError, "likelihood_weight"),
        (lambda: FlowContrastive(net, gaussian_player(), log_z=math.nan), ValueError, "log_z"),
    ):
        with pytest.raises(error, match=match):
            make()
    objective = AdversarialContrastive(net, generator(), base(), seed=0)
    for loss_of in (objective, objective.generator_loss):
        with pytest.raises(ValueError, match="batch: expected states x alone"):
            loss_of((data, torch.zeros(4, dtype=torch.int64)))
        with pytest.raises(ValueError, match="batch: a mixture of noise needs 2"):
            loss_of(data[:1])
        with pytest.raises(ValueError, match="batch: expected floating-point states"):
            loss_of(torch.ones(3, dtype=F64))
        with pytest.raises(ValueError, match=r"batch: expected states \(n, 2\) like those of the noise"):
            loss_of(torch.ones(4, 5, dtype=F64))
        with pytest.raises(FloatingPointError, match="not finite: batch"):
            loss_of(torch.full((4, 2), math.nan, dtype=F64))
    assert objective.iteration == objective.generator_iteration == 0
    wrong = FlowContrastive(net, gaussian_player(), seed=0)
    with pytest.raises(ValueError, match=r"generator: expected samples like the batch, torch.float64 \(2,\).*\(1,\)"):
        wrong(data)
    column = FlowContrastive(lambda x: x[:, :1], gaussian_player(), seed=0)
    for loss_of in (column, column.generator_loss):
        with pytest.raises(ValueError, match=r"energy: expected one energy a state, \(8,\), got \(8, 1\)"):
            loss_of(data[:, :1].contiguous())
    fixed = FlowContrastive(net, generator_without_gradient(), seed=0)
    fixed(data)
    with pytest.raises(ValueError, match="generator: its samples carry no gradient"):
        fixed.generator_loss(data)
    broken = FlowContrastive(net, players.DiagonalGaussian(torch.zeros(2, dtype=F64)), seed=0)
    with torch.no_grad():
        broken.generator.mean.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite: samples, energy, noise_log_prob"):
        broken.generator_loss(data)
    with pytest.raises(FloatingPointError, match=r"not finite: .*energy_noise"):
        broken(data)
    box = AdversarialContrastive(net, generator(), noise.Uniform(torch.full((2,), 5.0, dtype=F64), 6.0), seed=0)
    assert box(data)[0].isfinite(), "data outside of the base's support have the generator's density"


def generator_without_gradient() -> players.Player:
    return players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.2).requires_grad_(False)


def test_density_on_the_plane_with_a_noisy_generator():
    """Two Gaussians against quadrature, after 200 rounds: KL(truth || model) below 0.03 nats, mass 1 within 0.06, and a
    generator with both modes in their proportion; the static noise is 0.57 nats away."""
    truth = ef.energies.GaussianMixture([[1.5, 0.0], [-1.5, 0.0]], 0.5, [0.7, 0.3])
    data, plane, net = truth.sample(10_000, seed=1), Plane(201), network()
    player = players.Generator(nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 2)), 2, std=0.4)
    static = noise.Gaussian.fit(data, widen=1.3)
    objective = AdversarialContrastive(net, player, static, base_weight=0.3, entropy_weight=0.1, log_z=0.0, seed=2)
    alternate(objective, data, 200, (1e-2, 1e-2), 512)
    with torch.no_grad():
        mass = plane.log_integral(-net(plane.points) - objective.log_z)
        kl, _ = plane.distance(truth, -net(plane.points) - objective.log_z - mass)
        drawn = player.draw(2000, seed=9)
        assert kl < 0.03 and abs(mass) < 0.06, (kl, mass)
        assert 0.6 < (drawn.x[:, 0] > 0).float().mean() < 0.9
        assert plane.distance(truth, drawn.log_prob(plane.points))[0] < 0.4
        assert plane.distance(truth, static.log_prob(plane.points))[0] > 0.5


@pytest.mark.cuda
def test_an_iteration_does_not_wait_for_the_device():
    objective = AdversarialContrastive(Net(), generator(), base(), log_z=0.0, seed=0)
    data = torch.randn(10, 2, dtype=F64)
    for loss_of in (objective, objective.generator_loss):
        loss_of(data)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss_of in (objective, objective.generator_loss):
            loss_of(data)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    objective.finish_checks()
