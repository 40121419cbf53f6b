"""Binary and ranking noise-contrastive estimation: formulas, exact expectations, recovered parameters, resume, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from quadrature import Quadratic, expectation, gradient, grid, log_normal, newton
from torch import Tensor, nn
from torch.nn.functional import softplus

import ebm_fast as ef
from ebm_fast import noise
from ebm_fast.objectives import NCE, RankingNCE, nce_loss, ranking_nce_loss

F64 = torch.float64
# Data N(DM, DS^2), noise N(NM, NS^2), wider.
DM, DS, NM, NS = 0.7, 0.8, 0.0, 1.5


def gaussian_noise() -> noise.Gaussian:
    return noise.Gaussian(torch.tensor([NM], dtype=F64), NS)


def gaussian_data(n: int) -> Tensor:
    return DM + DS * torch.randn(n, 1, dtype=F64)


def log_ratio(energy: nn.Module, log_z: Tensor | float, x: Tensor) -> Tensor:
    return -energy(x) - log_z - log_normal(x, NM, NS)


class Recorded(nn.Module):
    """Another energy; keeps what it was asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.states, self.labels = inner, [], []

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.states.append(x.detach().clone())
        self.labels.append(y)
        return self.inner(x) if y is None else self.inner(x, y)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = F64, classes: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, max(1, classes))).to(dtype)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out = self.net(x)
        return out.squeeze(1) if y is None else out.gather(1, y.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("nu", [1, 4])
def test_loss_is_the_cross_entropy(nu):
    """(1 + nu) times (2.13), with probabilities as they stand there: v = 1 / nu, rho_0 = nu / (1 + nu)."""
    r_data, r_noise = 3 * torch.randn(7, dtype=F64), 3 * torch.randn(7 * nu, dtype=F64)
    v, rho_1 = 1 / nu, 1 / (1 + nu)
    data, rest = v * r_data.exp() / (1 + v * r_data.exp()), 1 / (1 + v * r_noise.exp())
    wanted = -(1 - rho_1) * rest.log().mean() - rho_1 * data.log().mean()
    torch.testing.assert_close(nce_loss(r_data, r_noise, num_noise=nu), (1 + nu) * wanted, rtol=1e-13, atol=0)


def test_no_digit_is_lost_in_the_tails():
    """Where torch's softplus with its default threshold is off by 1e-10 of the value."""
    r = torch.tensor([20.1, 25.0, 39.0, 41.0, -41.0], dtype=F64)
    exact = [v + math.log1p(math.exp(-v)) if v > 0 else math.log1p(math.exp(v)) for v in r.tolist()]
    for value, wanted in zip(r, exact, strict=True):
        found = nce_loss(-value.view(1), torch.tensor([-800.0], dtype=F64))
        assert found.item() == pytest.approx(wanted, rel=4e-16)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_no_overflow(dtype, size):
    r = torch.tensor([-size, size], dtype=dtype, requires_grad=True)
    nce_loss(r, r, num_noise=2.0).backward()
    torch.testing.assert_close(r.grad, torch.tensor([-0.5, 1.0], dtype=dtype))
    r.grad = None
    loss = ranking_nce_loss(r, torch.stack([-r, r]))
    # The first datum is `size` below its worst competitor by 2 size, the second ties with one.
    torch.testing.assert_close(loss.detach(), torch.tensor((2 * size + math.log(2)) / 2, dtype=dtype))
    loss.backward()
    assert bool(r.grad.isfinite().all())
    halves = torch.tensor([9.5, -7.25], dtype=torch.bfloat16)
    assert nce_loss(halves, halves).dtype == torch.float32


@pytest.mark.parametrize("nu", [1, 5])
def test_exact_gradient_vanishes_at_the_truth_alone(nu):
    """In expectation, by quadrature: parameters and log Z of the truth have gradient 0, and Newton from afar ends there."""
    energy, log_z, x = Quadratic(DM, 1 / DS**2), torch.zeros((), dtype=F64, requires_grad=True), grid()
    with torch.no_grad():
        log_z.fill_(energy.log_z())

    def loss() -> Tensor:
        r = log_ratio(energy, log_z, x)
        shift = math.log(nu)
        data = expectation(softplus(shift - r, threshold=40), log_normal(x, DM, DS), x)
        return data + nu * expectation(softplus(r - shift, threshold=40), log_normal(x, NM, NS), x)

    trained = [*energy.parameters(), log_z]
    assert gradient(loss(), trained).abs().max() < 1e-13
    with torch.no_grad():
        energy.m.fill_(0.2)
        energy.p.fill_(1.0)
        log_z.fill_(0.5)
    hessian = newton(loss, trained)
    assert torch.linalg.eigvalsh(hessian).min() > 0
    found = [p.item() for p in trained]
    assert found == pytest.approx([DM, 1 / DS**2, 0.5 * math.log(2 * math.pi * DS**2)], abs=1e-10)


def per_sample(energy: nn.Module, log_z: Tensor | None, x: Tensor) -> Tensor:
    """d r / d theta at each x, (n, k): r of a quadratic energy, by hand."""
    m, p = energy.m.item(), energy.p.item()
    rows = [p * (x.squeeze(1) - m), -0.5 * (x.squeeze(1) - m).square()]
    return torch.stack([*rows, -torch.ones(len(x), dtype=F64)] if log_z is not None else rows, 1)


def spread(values: Tensor, log_p: Tensor, x: Tensor) -> Tensor:
    """Covariance (k, k) of values (points, k)."""
    mean = torch.stack([expectation(column, log_p, x) for column in values.T])
    rows = (values - mean) * (log_p.exp() * (x[1, 0] - x[0, 0])).sqrt().unsqueeze(1)
    return rows.T @ rows


def law_of_gradient(nu: int, energy: nn.Module, log_z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and covariance times the number of data, of the gradient of NCE."""
    x = grid()
    r, slope = log_ratio(energy, log_z, x).detach(), per_sample(energy, log_z, x)
    on_data = -torch.sigmoid(math.log(nu) - r).unsqueeze(1) * slope
    on_noise = nu * torch.sigmoid(r - math.log(nu)).unsqueeze(1) * slope
    data, rest = log_normal(x, DM, DS), log_normal(x, NM, NS)
    mean = torch.stack([expectation(a, data, x) + expectation(b, rest, x) for a, b in zip(on_data.T, on_noise.T)])
    return mean, spread(on_data, data, x) + spread(on_noise, rest, x) / nu


@pytest.mark.parametrize("nu", [1, 3])
def test_gradient_of_a_batch_has_the_exact_mean(nu):
    """Within 5.5 standard errors (false alarm 1e-7), which are less than 4 % of it."""
    n = 200_000
    energy = Quadratic(-0.3, 0.7)
    objective = NCE(energy, gaussian_noise(), num_noise=nu, log_z=0.3, seed=1)
    loss, metrics = objective(gaussian_data(n))
    found = gradient(loss, objective.parameters())
    mean, covariance = law_of_gradient(nu, energy, objective.log_z)
    error = 5.5 * (covariance.diagonal() / n).sqrt()
    assert bool(((found - mean).abs() < error).all())
    assert bool((error < 0.04 * mean.abs()).all())
    assert metrics["log_z"].item() == 0.3 and 0.5 < metrics["accuracy"].item() < 1.0


def test_parameters_and_log_z_are_recovered():
    """The minimum over one large sample lies within 5.5 standard errors of the truth, from the exact Fisher matrices.

    The noise of a call is a function of its iteration, so that the loss of iteration 0 is a fixed function.
    """
    n, nu = 200_000, 2
    energy, data = Quadratic(0.0, 1.0), gaussian_data(n)
    objective = NCE(energy, gaussian_noise(), num_noise=nu, log_z=0.0, seed=5)

    def loss() -> Tensor:
        objective.iteration = 0
        return objective(data)[0]

    hessian = newton(loss, list(objective.parameters()), steps=15)
    truth = torch.tensor([DM, 1 / DS**2, 0.5 * math.log(2 * math.pi * DS**2)], dtype=F64)
    found = torch.stack([p.detach() for p in objective.parameters()])
    exact = Quadratic(DM, 1 / DS**2)
    _, covariance = law_of_gradient(nu, exact, torch.tensor(exact.log_z(), dtype=F64))
    inverse = torch.linalg.inv(hessian)
    error = 5.5 * (inverse @ covariance @ inverse / n).diagonal().sqrt()
    assert bool(((found - truth).abs() < error).all()), (found, truth, error)
    assert bool((error < torch.tensor([0.03, 0.06, 0.03])).all()), error


def test_an_energy_with_a_constant_normalises_itself():
    """Without a learnable log Z its gradient goes to the energy's own constant, to the last digit."""
    data = gaussian_data(500)
    free = NCE(Quadratic(0.2, 1.1, c=0.4), gaussian_noise(), num_noise=2, seed=7)
    beside = NCE(Quadratic(0.2, 1.1), gaussian_noise(), num_noise=2, seed=7, log_z=0.4)
    (one, metrics), (two, _) = free(data), beside(data)
    torch.testing.assert_close(one, two, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient(one, free.parameters()), gradient(two, beside.parameters()), rtol=1e-13, atol=0)
    assert "log_z" not in metrics


def test_classes_have_their_own_log_z():
    data, y = torch.randn(6, 2, dtype=F64), torch.tensor([2, 0, 0, 2, 1, 2])
    net, model = Recorded(Net(classes=3)), noise.Gaussian(torch.zeros(2, dtype=F64))
    objective = NCE(net, model, num_noise=2, log_z=0.0, num_classes=3, seed=0)
    with torch.no_grad():
        objective.log_z.copy_(torch.tensor([0.5, -1.0, 2.0]))
    loss, _ = objective((data, y))
    noised = net.states[0][6:]
    labels = y.repeat_interleave(2)
    assert torch.equal(net.labels[0], torch.cat([y, labels]))
    r_data = -net.inner(data, y) - objective.log_z[y] - model.log_prob(data)
    r_noise = -net.inner(noised, labels) - objective.log_z[labels] - model.log_prob(noised)
    wanted = nce_loss(r_data, r_noise, num_noise=2)
    torch.testing.assert_close(loss, wanted, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        gradient(loss, objective.parameters()), gradient(wanted, objective.parameters()), rtol=1e-12, atol=1e-14
    )
    with pytest.raises(ValueError, match=r"expected \(x, y\), because log_z has classes"):
        objective(data)
    shared = NCE(net, model, log_z=0.0, seed=0)
    shared((data, y))[0].backward()
    assert shared.log_z.grad.shape == ()


def test_noise_is_the_model_s_and_one_evaluation_does():
    net, model = Recorded(Net()), noise.Gaussian(torch.ones(2, dtype=F64), 0.5)
    objective = NCE(net, model, num_noise=3, seed=9, chain_offset=4)
    data = torch.randn(5, 2, dtype=F64)
    asked: list[int] = []
    model.register_forward_hook(lambda *_: asked.append(1))
    for step in range(3):
        objective(data)
        assert len(net.states) == step + 1
        assert torch.equal(net.states[step][:5], data)
        assert torch.equal(net.states[step][5:], model.sample(15, seed=9, step=step, chain_offset=12))


MAKERS = {
    "nce": lambda net, **o: NCE(net, noise.Gaussian(torch.zeros(2, dtype=F64), 1.5), num_noise=2, log_z=0.1, **o),
    "rank": lambda net, **o: RankingNCE(net, noise.Uniform(torch.full((2,), -6.0, dtype=F64), 6.0), num_noise=3, **o),
    "foreign": lambda net, **o: NCE(net, torch.distributions.Normal(torch.zeros(2, dtype=F64), 1.5), **o),
}


@pytest.mark.parametrize("maker", list(MAKERS))
def test_resume_is_exact(maker):
    data = torch.randn(8, 2, dtype=F64)

    def train(objective: Any, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, _ = objective(data)
            gradients = torch.autograd.grad(loss, list(objective.parameters()))
            with torch.no_grad():
                for p, g in zip(objective.parameters(), gradients):
                    p -= 0.1 * g
            losses.append(loss.item())
        return losses

    net = Net()
    objective = MAKERS[maker](net, seed=3)
    train(objective, 3)
    other_net = Net()
    other_net.load_state_dict(net.state_dict())
    other = MAKERS[maker](other_net)
    other.load_state_dict(objective.state_dict())
    torch.manual_seed(77)
    assert train(other, 3) == train(objective, 3)


@pytest.mark.parametrize("maker", ["nce", "rank"])
def test_a_split_batch_sees_the_same_noise(maker):
    data, net = torch.randn(8, 2, dtype=F64), Net()
    whole = MAKERS[maker](net, seed=2)(data)[0]
    halves = [MAKERS[maker](net, seed=2, chain_offset=o)(data[o : o + 4])[0] for o in (0, 4)]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2, rtol=1e-13, atol=0)


def test_ranking_is_softmax_and_log_z_cancels():
    r_data, r_noise = torch.randn(9, dtype=F64), torch.randn(9, 4, dtype=F64)
    logits = torch.cat([r_data.unsqueeze(1), r_noise], 1)
    wanted = nn.functional.cross_entropy(logits, torch.zeros(9, dtype=torch.int64))
    torch.testing.assert_close(ranking_nce_loss(r_data, r_noise), wanted, rtol=1e-13, atol=0)
    row = r_noise[0]
    torch.testing.assert_close(
        ranking_nce_loss(r_data, row), ranking_nce_loss(r_data, row.expand(9, 4)), rtol=1e-13, atol=0
    )
    energy, data = Quadratic(0.3, 1.2, c=0.0), gaussian_data(400)
    found = []
    for c in (0.0, 5.0):
        with torch.no_grad():
            energy.c.fill_(c)
        objective = RankingNCE(energy, gaussian_noise(), num_noise=3, seed=1)
        loss, metrics = objective(data)
        assert 0.25 < metrics["accuracy"].item() < 1.0  # 0.42 +- 0.025, chance is 0.25
        found.append(torch.cat([loss.detach().view(1), gradient(loss, objective.parameters())]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    assert found[0][3].abs() < 1e-14, "no gradient in the constant"


def ranking_quadrature(energy: nn.Module) -> tuple[Tensor, Tensor]:
    """L = 2 exactly: mean and variance of the gradient of softplus(r(z) - r(x)), data x, noise z, on the product grid."""
    x = grid(points=801)
    r, slope = log_ratio(energy, 0.0, x).detach(), per_sample(energy, None, x)
    weights = [log_normal(x, m, s).exp() * (x[1, 0] - x[0, 0]) for m, s in ((DM, DS), (NM, NS))]
    both = weights[0].unsqueeze(1) * weights[1].unsqueeze(0)
    wrong = torch.sigmoid(r.unsqueeze(0) - r.unsqueeze(1))
    terms = wrong.unsqueeze(2) * (slope.unsqueeze(0) - slope.unsqueeze(1))
    mean = torch.einsum("xz,xzk->k", both, terms)
    return mean, torch.einsum("xz,xzk->k", both, (terms - mean).square())


def test_ranking_is_exact_in_expectation_and_recovers_the_parameters():
    energy = Quadratic(DM, 1 / DS**2)
    assert ranking_quadrature(energy)[0].abs().max() < 1e-12
    with torch.no_grad():
        energy.m.fill_(0.1)
        energy.p.fill_(3.0)
    n, data = 200_000, gaussian_data(200_000)
    objective = RankingNCE(energy, gaussian_noise(), num_noise=1, seed=4)
    loss, _ = objective(data)
    mean, variance = ranking_quadrature(energy)
    error = 5.5 * (variance / n).sqrt()
    found = gradient(loss, energy.parameters())
    assert bool(((found - mean).abs() < error).all())
    assert bool((error < 0.04 * mean.abs()).all())

    more = RankingNCE(energy, gaussian_noise(), num_noise=7, seed=4)

    def fixed() -> Tensor:
        more.iteration = 0
        return more(data[:50_000])[0]

    newton(fixed, list(energy.parameters()), steps=15)
    # Maximum likelihood's own standard errors at this n are 0.0036 and 0.0099; ranking has less than twice those.
    assert energy.m.item() == pytest.approx(DM, abs=5.5 * 2 * DS / math.sqrt(50_000))
    assert energy.p.item() == pytest.approx(1 / DS**2, abs=5.5 * 2 * math.sqrt(2 / 50_000) / DS**2)


def test_shared_noise_is_unbiased_and_costs_less():
    # A Gaussian beside the net, so that the ratios to the noise are moderate.
    net = Recorded(ef.energies.sum_of(Net(), ef.energies.Gaussian(torch.zeros(2, dtype=F64))))
    data, model = torch.randn(64, 2, dtype=F64), noise.Gaussian(torch.zeros(2, dtype=F64))
    shared = RankingNCE(net, model, num_noise=5, shared=True, seed=0)
    own = RankingNCE(net, model, num_noise=5, seed=0)
    losses = torch.tensor([[objective(data)[0].item() for objective in (shared, own)] for _ in range(400)])
    assert [len(states) for states in net.states[:2]] == [69, 384]
    difference = losses[:, 0] - losses[:, 1]
    error = 5.5 * difference.std() / math.sqrt(400)
    assert difference.mean().abs() < error < 0.05 * losses.mean()
    with pytest.raises(ValueError, match="shared=True"):
        shared((data, torch.zeros(64, dtype=torch.int64)))


def test_errors():
    net, model = Net(), noise.Gaussian(torch.zeros(2, dtype=F64))
    for error, match, options in (
        (ValueError, "num_noise", {"num_noise": 0}),
        (TypeError, "num_noise", {"num_noise": 1.5}),
        (ValueError, "seed", {"seed": 1 << 64}),
        (ValueError, "chain_offset", {"chain_offset": -1}),
        (ValueError, "log_z", {"log_z": math.nan}),
        (ValueError, "num_classes", {"num_classes": 3}),
        (ValueError, "num_classes", {"num_classes": 0, "log_z": 0.0}),
    ):
        with pytest.raises(error, match=match):
            NCE(net, model, **options)
    for options in ({"log_z": 0.0}, {"num_classes": 2}):
        with pytest.raises(ValueError, match="log_z: cancels"):
            RankingNCE(net, model, num_noise=2, **options)
    with pytest.raises(TypeError, match="energy: expected a callable"):
        NCE(Net, model)
    with pytest.raises(TypeError, match=r"noise: .*sample and log_prob"):
        NCE(net, 3.0)
    objective = NCE(net, model, seed=0, log_z=0.0)
    for batch in (torch.ones(3, dtype=F64), torch.ones(0, 2, dtype=F64), torch.ones(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="batch"):
            objective(batch)
    with pytest.raises(ValueError, match=r"batch: expected states \(n, 2\) like those of the noise"):
        objective(torch.ones(3, 5, dtype=F64))
    with pytest.raises(ValueError, match=r"energy: expected one energy a state, \(6,\), got \(6, 1\)"):
        NCE(lambda x: x[:, :1], model)(torch.ones(3, 2, dtype=F64))
    with pytest.raises(FloatingPointError, match=r"not finite: batch, energy_data, noise_log_prob_of_batch$"):
        objective(torch.tensor([[1.0, math.nan]], dtype=F64))
    box = NCE(net, noise.Uniform(torch.zeros(2, dtype=F64), 1.0), seed=0)
    with pytest.raises(FloatingPointError, match=r"not finite: noise_log_prob_of_batch$"):
        box(torch.full((3, 2), 1.5, dtype=F64))
    assert objective.iteration == box.iteration == 0
    with pytest.raises(ValueError, match=r"state: expected log_z none, got \(\)"):
        box.load_state_dict(objective.state_dict())
    for bad in (torch.tensor(1.0), torch.ones(2, 1), torch.ones(0)):
        for arguments in ((bad, torch.ones(2)), (torch.ones(2), bad)):
            with pytest.raises(ValueError, match="log_ratio"):
                nce_loss(*arguments)
    for arguments in ((torch.ones(2), torch.ones(3, 1)), (torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(2), torch.ones(2, 0))):
        with pytest.raises(ValueError, match="log_ratio_data, log_ratio_noise"):
            ranking_nce_loss(*arguments)
    for nu in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="num_noise"):
            nce_loss(torch.ones(2), torch.ones(2), num_noise=nu)


def test_trainer_resumes_bit_for_bit(tmp_path):
    """Log Z and the noise's counter go through the checkpoint; a Gaussian's parameters are found on the way."""
    data = torch.randn(256, 2) * 0.5 + 1

    def build(folder: str) -> ef.Trainer:
        torch.manual_seed(0)
        energy = ef.energies.Gaussian(torch.zeros(2), precision=torch.ones(2), trainable=True)
        objective = NCE(energy, noise.Gaussian.fit(data, widen=1.5), num_noise=2, log_z=1.0, seed=2)
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
        batches = ef.training.BatchStream(data, batch_size=64, seed=1)
        return ef.Trainer(energy, objective, optimizer, batches, directory=tmp_path / folder, checkpoint_every=7, progress=False)

    whole = build("whole")
    whole.fit(20)
    part = build("part")
    part.fit(12)
    again = build("part")
    assert again.resume() and again.iteration == 12
    again.fit(20)
    assert torch.equal(again.objective.log_z, whole.objective.log_z) and whole.objective.log_z.item() != 1.0
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), whole.module.parameters(), strict=True))


@pytest.mark.cuda
def test_an_iteration_does_not_wait_for_the_device():
    net = Net(torch.float32).cuda()
    objective = NCE(net, noise.Gaussian(torch.zeros(2), torch.ones(2)).cuda(), num_noise=2, log_z=0.0, seed=0)
    data = torch.randn(10, 2, device="cuda")
    objective(data)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(data)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    objective.finish_checks()
