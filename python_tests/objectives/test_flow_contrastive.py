"""Flow contrastive estimation: NCE where the flow is fixed, the Jensen-Shannon game, gradients, recovered densities, resume."""

from __future__ import annotations

import math

import pytest
import torch
from quadrature import Quadratic, expectation, gradient, grid, log_normal
from torch import Tensor, nn
from torch.nn.functional import softplus
from two_players import Plane, alternate, network, three_gaussians

from ebm_fast.objectives import NCE, FlowContrastive, nce_loss, players

F64 = torch.float64
# Data N(DM, DS^2); the flow starts at N(QM, QS^2).
DM, DS, QM, QS = 0.4, 0.7, -0.2, 1.1


def gaussian_data(n: int) -> Tensor:
    return DM + DS * torch.randn(n, 1, dtype=F64)


def gaussian_flow(mean: float = QM, std: float = QS) -> players.DiagonalGaussian:
    return players.DiagonalGaussian(torch.tensor([mean], dtype=F64), std)


def flow_on_plane(dtype: torch.dtype = F64) -> nn.Module:
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(5)
    return zuko.flows.MAF(features=2, transforms=2, hidden_features=(8,)).to(dtype)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1) + 0.5 * x.square().sum(1)


class Given:
    """Noise that hands out the draw of a player."""

    def __init__(self, draw: players.Draw) -> None:
        self.drawn = draw

    def sample(self, n: int) -> Tensor:
        assert n == len(self.drawn.x)
        return self.drawn.x.detach()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.drawn.log_prob(x).detach()


@pytest.mark.parametrize("nu", [1, 3])
def test_the_energy_s_loss_is_nce_with_the_flow_as_noise(nu):
    net, flow, data = Net(), flow_on_plane(), torch.randn(9, 2, dtype=F64)
    objective = FlowContrastive(net, flow, num_noise=nu, log_z=0.3, seed=4, chain_offset=2)
    for step in range(2):
        drawn = objective.generator.draw(9 * nu, seed=4, step=step, chain_offset=2 * nu)
        static = NCE(net, Given(drawn), num_noise=nu, log_z=0.3, seed=0)
        (loss, metrics), (wanted, static_metrics) = objective(data), static(data)
        torch.testing.assert_close(loss, wanted, rtol=1e-14, atol=0)
        torch.testing.assert_close(
            gradient(loss, objective.parameters()), gradient(wanted, static.parameters()), rtol=1e-12, atol=1e-14
        )
        assert set(metrics) == set(static_metrics)
        for name, value in metrics.items():
            torch.testing.assert_close(value, static_metrics[name], rtol=1e-13, atol=1e-15)


def finite_differences(objective: FlowContrastive, data: Tensor, h: float = 1e-5) -> Tensor:
    """d generator_loss / d phi, central differences over every number, the draw's counter held."""

    def value() -> float:
        objective.generator_iteration = 0
        return objective.generator_loss(data)[0].item()

    found = []
    for p in objective.generator_parameters():
        flat = p.detach().view(-1)
        for i in range(len(flat)):
            start = flat[i].item()
            sides = []
            for step in (h, -h):
                flat[i] = start + step
                sides.append(value())
            flat[i] = start
            found.append((sides[0] - sides[1]) / (2 * h))
    return torch.tensor(found, dtype=F64)


def test_the_flow_s_gradient_runs_through_samples_and_density():
    flow, data = flow_on_plane(), torch.randn(6, 2, dtype=F64)
    objective = FlowContrastive(Net(), flow, num_noise=2, likelihood_weight=0.3, log_z=0.3, seed=1)
    loss, _ = objective.generator_loss(data)
    found = gradient(loss, objective.generator_parameters())
    wanted = finite_differences(objective, data)
    assert wanted.abs().max() > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_the_players_losses_are_opposite_and_reach_their_own_parameters_alone():
    net, flow, data = Net(), flow_on_plane(), torch.randn(6, 2, dtype=F64)
    objective = FlowContrastive(net, flow, log_z=0.0, seed=1)
    loss, _ = objective(data)
    loss.backward()
    assert all(p.grad is None for p in objective.generator_parameters())
    assert all(p.grad is not None for p in objective.parameters())
    before = [p.grad.clone() for p in objective.parameters()]
    loss, metrics = objective.generator_loss(data)
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(objective.parameters(), before, strict=True))
    assert any(bool(p.grad.any()) for p in objective.generator_parameters())
    assert all(p.requires_grad for p in objective.parameters())
    drawn = objective.generator.draw(6, seed=1, step=1 << 55)
    r = [-net(x) - drawn.log_prob(x) for x in (data, drawn.x)]
    torch.testing.assert_close(loss, -nce_loss(*r), rtol=1e-13, atol=0)
    torch.testing.assert_close(metrics["entropy"], -drawn.log_prob(drawn.x).mean().detach(), rtol=1e-13, atol=0)
    ids = {id(p) for p in objective.parameters()}
    assert id(objective.log_z) in ids
    assert not ids & {id(p) for p in objective.generator_parameters()}


def test_where_all_densities_agree_the_loss_is_2_log_2_and_nobody_moves():
    """r = 0 everywhere: the value needs no expectation; the gradients are differences of means under one law."""
    energy = Quadratic(DM, 1 / DS**2)
    objective = FlowContrastive(energy, gaussian_flow(DM, DS), log_z=energy.log_z(), seed=3)
    loss, _ = objective(gaussian_data(50))
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-14)
    # Data that are the very samples: the two means cancel to rounding.
    for step, loss_of, parameters in (
        (0, objective, objective.parameters),
        (1 << 55, objective.generator_loss, objective.generator_parameters),
    ):
        objective.iteration = objective.generator_iteration = 0
        same = objective.generator.draw(50, seed=3, step=step).x.detach()
        loss, metrics = loss_of(same)
        assert gradient(loss, parameters()).abs().max() < 1e-13
        assert 0.0 <= metrics["accuracy"].item() <= 1.0
    # Data drawn independently: within 5.5 standard errors of 0; d r / d (m, p, log Z) has those deviations.
    n = 100_000
    found = gradient(objective(gaussian_data(n))[0], objective.parameters())
    deviation = torch.tensor([1 / DS, DS**2 / math.sqrt(2), 0.0], dtype=F64)
    assert bool((found.abs() <= 0.5 * 5.5 * math.sqrt(2 / n) * deviation + 1e-14).all())


def jensen_shannon(mean: Tensor, std: Tensor) -> Tensor:
    """JS(N(DM, DS^2), N(mean, std^2)) by quadrature, differentiable."""
    x = grid(points=2001, reach=12.0)
    p = log_normal(x, DM, DS)
    q = -0.5 * ((x.squeeze(1) - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    middle = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (expectation(p - middle, p, x) + expectation(q - middle, q, x))


def test_at_the_energy_s_optimum_the_flow_descends_the_jensen_shannon_divergence():
    """Value and gradient within 5.5 standard errors (false alarm 1e-7), which are a few percent of them."""
    energy, flow = Quadratic(DM, 1 / DS**2), gaussian_flow()
    n, runs = 20_000, 50
    objective = FlowContrastive(energy, flow, log_z=energy.log_z(), seed=3)
    rows = []
    for _ in range(runs):
        loss, _ = objective.generator_loss(gaussian_data(n))
        rows.append(torch.cat([loss.detach().view(1), gradient(loss, flow.parameters())]))
    found = torch.stack(rows)
    mean, log_std = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (QM, math.log(QS)))
    js = jensen_shannon(mean, log_std.exp())
    wanted = torch.cat([(2 * js - 2 * math.log(2)).detach().view(1), gradient(2 * js, (mean, log_std))])
    error = 5.5 * found.std(0) / math.sqrt(runs)
    assert bool(((found.mean(0) - wanted).abs() < error).all()), (found.mean(0), wanted, error)
    assert error[0] < 0.02 * 2 * js and bool((error[1:] < 0.05 * wanted[1:].abs()).all())


def test_any_flow_leaves_the_density_of_the_data_as_the_energy_s_optimum():
    """Exact expectation by quadrature: the gradient in (m, p, log Z) vanishes at the truth for two flows, and not beside it."""
    x = grid()
    for mean, std in ((QM, QS), (DM + 0.5, 2 * DS)):
        for shift, small in ((0.0, True), (0.03, False)):
            energy = Quadratic(DM + shift, 1 / DS**2)
            log_z = torch.tensor(energy.log_z(), dtype=F64, requires_grad=True)
            log_q = gaussian_flow(mean, std).log_prob(x).detach()
            r = -energy(x) - log_z - log_q
            loss = expectation(softplus(-r, threshold=40), log_normal(x, DM, DS), x)
            loss = loss + expectation(softplus(r, threshold=40), log_q, x)
            assert (gradient(loss, [*energy.parameters(), log_z]).abs().max() < 1e-12) == small


def test_likelihood_beside_the_game_is_maximum_likelihood():
    flow, data = flow_on_plane(), torch.randn(7, 2, dtype=F64)
    plain, beside = (FlowContrastive(Net(), flow, likelihood_weight=w, seed=2) for w in (0.0, 0.7))
    (without, _), (with_it, _) = plain.generator_loss(data), beside.generator_loss(data)
    wanted = -0.7 * flow().log_prob(data).mean()
    torch.testing.assert_close(with_it - without, wanted, rtol=1e-12, atol=0)
    difference = gradient(with_it, flow.parameters()) - gradient(without, flow.parameters())
    torch.testing.assert_close(difference, gradient(wanted, flow.parameters()), rtol=1e-9, atol=1e-12)


def descend(objective: FlowContrastive, batches: list[Tensor], lr: float) -> list[float]:
    losses = []
    for data in batches:
        for loss_of, parameters in (
            (objective, list(objective.parameters())),
            (objective.generator_loss, list(objective.generator_parameters())),
        ):
            loss, _ = loss_of(data)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for p, g in zip(parameters, gradients):
                    if g is not None:
                        p -= lr * g
            losses.append(loss.item())
    return losses


def test_resume_is_exact():
    batches = [torch.randn(8, 2, dtype=F64) for _ in range(6)]
    net, flow = Net(), flow_on_plane()
    objective = FlowContrastive(net, flow, log_z=0.2, seed=3)
    descend(objective, batches[:3], 0.1)
    saved = objective.state_dict()
    other_net = Net()
    other_net.load_state_dict(net.state_dict())
    rest = descend(objective, batches[3:], 0.1)
    other = FlowContrastive(other_net, flow_on_plane(), log_z=0.0)
    other.load_state_dict(saved)
    torch.manual_seed(77)
    assert descend(other, batches[3:], 0.1) == rest
    assert torch.equal(other.log_z, objective.log_z)
    with pytest.raises(ValueError, match=r"state: expected log_z none, got \(\)"):
        FlowContrastive(net, flow).load_state_dict(saved)


def test_a_split_batch_sees_the_same_flow():
    data, net, flow = torch.randn(8, 2, dtype=F64), Net(), players.DiagonalGaussian(torch.zeros(2, dtype=F64), 1.2)

    def losses(x: Tensor, offset: int) -> Tensor:
        objective = FlowContrastive(net, flow, num_noise=2, seed=2, chain_offset=offset)
        return torch.stack([objective(x)[0], objective.generator_loss(x)[0]])

    halves = losses(data[:4], 0) + losses(data[4:], 4)
    torch.testing.assert_close(losses(data, 0), halves / 2, rtol=1e-13, atol=0)


def test_density_of_a_mixture_on_the_plane():
    """Three Gaussians against quadrature, after 200 rounds: KL(truth || model) below 0.03 nats and log densities within 0.25
    (root mean square), log Z within 0.06, the flow within 0.06 nats. The best single Gaussian is 0.72 nats away."""
    zuko = pytest.importorskip("zuko")
    truth, plane = three_gaussians(), Plane()
    net, flow = network(), zuko.flows.NSF(features=2, transforms=1, bins=8, hidden_features=(32,))
    objective = FlowContrastive(net, flow, log_z=0.0, seed=2)
    alternate(objective, truth.sample(20_000, seed=1), 200, (2e-2, 2e-2), 512)
    with torch.no_grad():
        log_z = plane.log_integral(-net(plane.points))
        kl, error = plane.distance(truth, -net(plane.points) - log_z)
        assert kl < 0.03 and error < 0.25, (kl, error)
        assert objective.log_z.item() == pytest.approx(log_z, abs=0.06)
        assert plane.distance(truth, flow().log_prob(plane.points))[0] < 0.06
