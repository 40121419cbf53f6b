"""Explicit and implicit score matching: exact traces, theorem 2.1 by quadrature, closed-form and statistical recovery."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import NCSN, ConvNetEnergy, NoiseConditionalEnergy, ScoreMLP
from ebm_fast.objectives import (
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    explicit_score_matching_loss,
    implicit_score_matching_loss,
)
from ebm_fast.objectives.scores import ScoreFunction, half_square

F64 = torch.float64
LEVELS = (0.3, 2.0)


def flat_gradient(loss: Tensor, module: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


MODELS = {
    "mlp energy": lambda: (ef.energies.MLPEnergy(3, (16, 16)), (5, 3), {}),
    "mixture": lambda: (ef.energies.GaussianMixture(torch.randn(2, 3), trainable=True), (5, 3), {}),
    "convolutional energy": lambda: (ConvNetEnergy(1, 4, (4,), (5,)), (2, 1, 4, 4), {}),
    "conditional energy": lambda: (NoiseConditionalEnergy(NCSN(1, 3, (4, 8))), (2, 1, 3, 3), {"sigma": LEVELS}),
    "score mlp": lambda: (ScoreMLP(3, (16,), conditional=False), (5, 3), {}),
    "score unet": lambda: (NCSN(1, (3, 2), (4, 8)), (2, 1, 3, 2), {"sigma": LEVELS}),
}


@pytest.mark.parametrize("name", MODELS)
def test_implicit_loss_by_brute_force_in_every_mode_and_chunk(name):
    """Value against the Jacobian of the score row by row, gradient against that of the brute force: 1e-12 of its size."""
    net, shape, condition = MODELS[name]()
    net, x = net.double(), torch.randn(shape, dtype=F64)
    condition = {key: torch.tensor(value, dtype=F64) for key, value in condition.items()}

    def score(row: Tensor, i: int) -> Tensor:
        one = {key: value[i : i + 1] for key, value in condition.items()}
        leaf = row.unsqueeze(0)
        out = net(leaf, **one)
        return torch.autograd.grad(-out.sum(), leaf, create_graph=True)[0][0] if out.dim() == 1 else out[0]

    truth = torch.zeros((), dtype=F64)
    for i, row in enumerate(x):
        row = row.clone().requires_grad_()
        s = score(row, i)
        trace = sum(
            torch.autograd.grad(s.flatten()[k], row, create_graph=True)[0].flatten()[k] for k in range(row.numel())
        )
        truth = truth + (0.5 * s.square().sum() + trace) / len(x)
    wanted = flat_gradient(truth, net)
    assert wanted.abs().max() > 1e-3
    d = x[0].numel()
    for mode, chunk in (("auto", 64), ("forward", d), ("reverse", d), ("forward", 3), ("reverse", 2), ("auto", d - 1)):
        loss = implicit_score_matching_loss(net, x, condition, chunk=chunk, mode=mode)
        torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
        found = flat_gradient(loss, net)
        assert (found - wanted).abs().max() < 1e-11 * wanted.abs().max(), (mode, chunk)
        with torch.no_grad():
            without = implicit_score_matching_loss(net, x, condition, chunk=chunk, mode=mode)
        assert not without.requires_grad
        torch.testing.assert_close(without, loss.detach(), rtol=1e-13, atol=1e-13)
    squares = half_square(ScoreFunction(net)(x, condition)).mean()
    assert (loss - squares).abs() > 1e-3, "power: the trace is no small part of it"


class Quartic(nn.Module):
    """E = a x^4 + b x^2 + c x + g exp(-x^2 / 2), entire in x, so that the trapezoidal rule converges at once."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([0.05, -0.2, 0.3, 0.7], dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, g = self.p
        x = x.squeeze(1)
        return a * x**4 + b * x**2 + c * x + g * torch.exp(-0.5 * x**2)


class QuarticScore(Quartic):
    """A score network of its own, s = a x^3 + b x + c + g exp(-x^2 / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, g = self.p
        return -a * x**3 + b * x + c + g * torch.exp(-0.5 * x**2)


@pytest.mark.parametrize("make", [Quartic, QuarticScore])
def test_explicit_minus_implicit_is_constant_in_the_parameters(make):
    """Theorem 2.1 by the trapezoidal rule on 96 nodes, float64: value differences and gradients to 1e-12.

    The constant is half the Fisher information of the data, computed apart."""
    data = ef.energies.GaussianMixture(torch.tensor([[-1.5], [1.0]], dtype=F64), torch.tensor([0.6, 1.0]), [0.3, 0.7])
    nodes = torch.linspace(-9, 10, 96, dtype=F64)[:, None]
    weights = torch.exp(-data(nodes)) * 0.2
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
    net = make()
    explicit, implicit = ExplicitScoreMatching(net, data), ImplicitScoreMatching(net)
    constant = (weights * half_square(-data.grad(nodes))).sum()
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            net.p[1:] += torch.randn(3, dtype=F64)
        esm, ism = (
            sum(w * f(node[None])[0] for w, node in zip(weights, nodes, strict=True)) for f in (explicit, implicit)
        )
        assert (esm - ism).item() == pytest.approx(constant.item(), rel=1e-11)
        a, b = flat_gradient(esm, net), flat_gradient(ism, net)
        assert (a - b).abs().max() < 1e-12 * a.abs().max() and a.abs().min() > 1e-3


class LinearScore(nn.Module):
    """s = b - P x."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(d * d + d, dtype=F64))
        self.d = d

    def parts(self) -> tuple[Tensor, Tensor]:
        return self.theta[: self.d], self.theta[self.d :].view(self.d, self.d)

    def forward(self, x: Tensor) -> Tensor:
        b, P = self.parts()
        return b - x @ P.T


class QuadraticEnergy(LinearScore):
    """E = x'P x / 2 - b'x with a symmetric P, from its lower triangle."""

    def parts(self) -> tuple[Tensor, Tensor]:
        b, P = super().parts()
        return b, P.tril() + P.tril(-1).T

    def forward(self, x: Tensor) -> Tensor:
        b, P = self.parts()
        return 0.5 * ((x @ P) * x).sum(1) - x @ b


def newton(module: LinearScore, loss_of: object) -> None:
    """One step to the minimum of a loss that is quadratic in the parameters (those that do not matter stay)."""
    theta = module.theta
    gradient = torch.autograd.grad(loss_of(), theta, create_graph=True)[0]
    hessian = torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0] for g in gradient])
    with torch.no_grad():
        # On the CPU, since on a GPU there is no driver for a matrix without full rank.
        theta -= torch.linalg.lstsq(hessian.cpu(), gradient.detach().cpu(), driver="gelsd").solution.to(theta)


@pytest.mark.parametrize("make", [LinearScore, QuadraticEnergy])
@pytest.mark.parametrize("kind", ["explicit", "implicit"])
def test_gaussian_minimiser_in_closed_form(make, kind):
    """Implicit: mean and covariance of the sample (as maximum likelihood); explicit: those of the density. To 1e-10."""
    d = 3
    mean, root = torch.randn(d, dtype=F64), torch.randn(d, d, dtype=F64)
    x = mean + torch.randn(50, d, dtype=F64) @ root
    net = make(d)
    if kind == "implicit":
        objective = ImplicitScoreMatching(net)
        m, P = x.mean(0), torch.linalg.inv(x.T.cov(correction=0))
    else:
        m, P = mean, torch.linalg.inv(root.T @ root)
        objective = ExplicitScoreMatching(net, ef.energies.Gaussian(mean, precision=P))
    newton(net, lambda: objective(x)[0])
    b, found = net.parts()
    torch.testing.assert_close(found, P, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.linalg.solve(found, b), m, rtol=1e-10, atol=1e-10)


def test_means_of_a_mixture_are_recovered():
    """Two overlapping components in two dimensions; within 5.5 standard errors of the estimator (sandwich formula, false
    alarm 4e-8 each), which are below 0.04: means that are off by 0.2 would be seen. Start: 0.5 off."""
    truth = torch.tensor([[-1.2, 0.4], [1.2, -0.3]], dtype=F64)
    x = ef.energies.GaussianMixture(truth, 1.0, [0.4, 0.6]).sample(20_000, seed=3)

    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.means = nn.Parameter(truth + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            r = (x[:, None] - self.means).square().sum(2)
            return -torch.logsumexp(torch.tensor([0.4, 0.6], dtype=F64).log() - 0.5 * r, 1)

    net = Means()
    objective = ImplicitScoreMatching(net)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = objective(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    basis, rows, slopes = torch.eye(4, dtype=F64), [], []
    for k in range(4):
        terms = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                net.means += sign * 1e-4 * basis[k].view(2, 2)
            v = torch.eye(2, dtype=F64).view(2, 1, 2).expand(2, *x.shape)
            s, q = ScoreFunction(net).quadratic(x, v)
            terms.append((half_square(s) + q.sum(0)).detach())
            slopes.append(sign * flat_gradient(objective(x)[0], net) / 2e-4)
            with torch.no_grad():
                net.means -= sign * 1e-4 * basis[k].view(2, 2)
        rows.append((terms[0] - terms[1]) / 2e-4)
    bread = torch.linalg.inv(torch.stack([slopes[2 * k] + slopes[2 * k + 1] for k in range(4)]))
    errors = (bread @ torch.stack(rows).cov() @ bread.T / len(x)).diagonal().sqrt()
    assert errors.max() < 0.04
    assert ((net.means.detach() - truth).flatten().abs() < 5.5 * errors).all()


def test_known_scores_of_every_kind():
    """A function, an energy in closed form, any energy: one loss, by its formula; and no gradient into them."""
    x = torch.randn(6, 2, dtype=F64)
    net = ef.energies.MLPEnergy(2, (8,)).double()
    other = ef.energies.MLPEnergy(2, (8,)).double()
    s = ScoreFunction(net)(x)
    for known, score in (
        (lambda x: -x, -x),
        (ef.energies.Gaussian(torch.zeros(2, dtype=F64)), -x),
        (other, ScoreFunction(other)(x).detach()),
    ):
        loss, metrics = ExplicitScoreMatching(net, known)(x)
        torch.testing.assert_close(loss, 0.5 * (s - score).square().sum(1).mean())
        torch.testing.assert_close(loss, explicit_score_matching_loss(s, score))
        torch.testing.assert_close(metrics["score_norm"], s.detach().norm(dim=1).mean())
        loss.backward()
    assert all(p.grad is None for p in other.parameters())
    for bad in (None, 3, ef.energies.Gaussian):
        with pytest.raises(TypeError, match="data_score"):
            ExplicitScoreMatching(net, bad)
    for a, b in ((x, x[:3]), (x[:, 0], x[:, 0]), (x[:0], x[:0])):
        with pytest.raises(ValueError, match="score, data_score"):
            explicit_score_matching_loss(a, b)


def test_one_chunk_s_graph_at_a_time():
    """Saved tensors alive at once while chunks of 2 of 12 dimensions are summed: no more than one such chunk keeps."""

    class Handle:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def pack(tensor: Tensor) -> Handle:
        nonlocal alive, most
        alive, handle = alive + 1, Handle(tensor)
        most = max(most, alive)
        weakref.finalize(handle, gone)
        return handle

    def peak(d: int, chunk: int) -> int:
        nonlocal most
        net, x, most = ef.energies.MLPEnergy(d, (8, 8)), torch.randn(4, d), 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda handle: handle.tensor):
            loss = implicit_score_matching_loss(net, x, chunk=chunk, mode="reverse")
        loss.backward()
        del loss
        assert alive == 0
        return most

    assert peak(12, 2) <= peak(4, 2) < 0.5 * peak(12, 12)


def test_the_summed_gradient_is_scaled_and_has_no_second_derivative():
    net, x = ef.energies.MLPEnergy(3, (8,)).double(), torch.randn(4, 3, dtype=F64)
    whole, summed = (implicit_score_matching_loss(net, x, chunk=chunk) for chunk in (3, 1))
    torch.testing.assert_close(flat_gradient(-2.5 * summed, net), -2.5 * flat_gradient(whole, net))
    last = net.layers[-1].bias
    loss = implicit_score_matching_loss(net, x, chunk=1)
    loss.backward()
    assert last.grad is None, "as without chunks: a constant in the energy gets no gradient"
    loss = implicit_score_matching_loss(net, x, chunk=1)
    first = torch.autograd.grad(loss, net.layers[0].weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        first.sum().backward()
    net.requires_grad_(False)
    assert implicit_score_matching_loss(net, x, chunk=1).item() == pytest.approx(whole.item())


def test_plain_functions_serve_as_models():
    x = torch.randn(7, 4, dtype=F64)
    a = torch.tensor(1.5, dtype=F64, requires_grad=True)
    for chunk, mode in ((64, "auto"), (1, "auto"), (3, "forward")):
        for model in (lambda x: 0.5 * a * x.square().sum(1), lambda x: -a * x):
            loss = implicit_score_matching_loss(model, x, chunk=chunk, mode=mode)
            assert loss.item() == pytest.approx((0.5 * 2.25 * x.square().sum(1).mean() - 6.0).item(), rel=1e-12)
            (slope,) = torch.autograd.grad(loss, a)
            assert slope.item() == pytest.approx((1.5 * x.square().sum(1).mean() - 4.0).item(), rel=1e-12)
    constant = torch.ones(4, dtype=F64)
    for mode in ("forward", "reverse"):
        assert implicit_score_matching_loss(lambda x: constant.expand_as(x), x, mode=mode).item() == pytest.approx(2.0)
        assert implicit_score_matching_loss(lambda x: x @ constant, x, mode=mode).item() == pytest.approx(2.0)


def test_metrics_of_the_implicit_loss():
    x = torch.randn(9, 3, dtype=F64)
    _, metrics = ImplicitScoreMatching(ef.energies.Gaussian(torch.zeros(3, dtype=F64), precision=2.0, trainable=True))(x)
    assert metrics["trace"].item() == pytest.approx(-6.0)
    assert metrics["score_norm"].item() == pytest.approx(2 * x.norm(dim=1).mean().item())


def test_errors():
    x = torch.randn(4, 2)
    for bad in (None, 1.0, nn.Linear):
        with pytest.raises(TypeError, match="model: expected an energy"):
            ImplicitScoreMatching(bad)
    for chunk in (0, 2.5, None):
        with pytest.raises((TypeError, ValueError), match="chunk"):
            ImplicitScoreMatching(nn.Identity(), chunk=chunk)
    with pytest.raises(ValueError, match="mode"):
        ImplicitScoreMatching(nn.Identity(), mode="fast")
    for model in (lambda x: x.sum(), lambda x: x[:, :1], lambda x: x[:3].sum(1), lambda x: "no tensor"):
        with pytest.raises(ValueError, match=r"model: expected energies \(4,\) or scores \(4, 2\)"):
            ImplicitScoreMatching(model)(x)
    with pytest.raises(ValueError, match="detached from x"):
        ImplicitScoreMatching(lambda x: x.detach().sum(1))(x)


def test_reduced_precision():
    """bfloat16 networks under autocast: the loss is summed in float32, within 5 % of float32's."""
    torch.manual_seed(1)
    net, x = ScoreMLP(2, (32,), conditional=False), torch.randn(256, 2)
    truth = ImplicitScoreMatching(net)(x)[0]
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        loss = ImplicitScoreMatching(net)(x)[0]
    assert loss.dtype == torch.float32 and math.isfinite(loss.item())
    assert abs(loss.item() - truth.item()) < 0.05 * abs(truth.item())
