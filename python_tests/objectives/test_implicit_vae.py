"""The entropy gradient of implicit encoders against closed forms, and the implicit VAE that is made of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_draws import sigma_points
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import ConditionalScore, GaussianGenerator, ImplicitEncoder, LatentPrior
from ebm_fast.objectives import ImplicitVAE, entropy_surrogate

F64 = torch.float64
D, P = 2, 3  # numbers in a latent and in an event


def test_surrogate_has_the_gradient_of_a_gaussian_s_entropy():
    """z = W x + b + L eps, eps with mean 0 and covariance I exactly: the gradient is that of log |det L|, L^-T in L and 0 in W
    and b, and the value is d, to rounding. A score 1 % off is 1 % off."""
    x = torch.randn(5, P, dtype=F64).repeat_interleave(2 * D, 0)
    eps = sigma_points(torch.zeros(5, D, dtype=F64), torch.eye(D, dtype=F64))
    w, b = torch.randn(D, P, dtype=F64, requires_grad=True), torch.randn(D, dtype=F64, requires_grad=True)
    factor = torch.tensor([[0.7, 0.0], [-0.4, 0.3]], dtype=F64, requires_grad=True)
    z = x @ w.mT + b + eps @ factor.mT
    score = -eps @ torch.linalg.inv(factor)
    surrogate = entropy_surrogate(z, score)
    assert surrogate.item() == pytest.approx(D, rel=1e-14)
    of_w, of_b, of_factor = torch.autograd.grad(surrogate, (w, b, factor), retain_graph=True)
    exact = torch.linalg.inv(factor).mT.detach()
    torch.testing.assert_close(of_factor, exact, rtol=1e-13, atol=1e-14)
    assert of_w.abs().max() < 1e-13 and of_b.abs().max() < 1e-13
    wrong = torch.autograd.grad(entropy_surrogate(z, 1.01 * score), factor)[0]
    torch.testing.assert_close(wrong, 1.01 * exact, rtol=1e-13, atol=1e-14)


def test_surrogate_has_the_gradient_of_a_skewed_density_s_entropy():
    """z = a eps + c eps^3 + m sin eps: H = E log g'(eps) + constant, s = (-eps - g''/g') / g', by the trapezoidal rule on 4001
    nodes; value 1 (Stein's identity) and gradient to 1e-10."""
    eps = torch.linspace(-9.0, 9.0, 4001, dtype=F64)
    weight = torch.exp(-0.5 * eps.square())
    weight = weight / weight.sum()
    a, c, m = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.8, 0.1, 0.3))
    z = a * eps + c * eps**3 + m * eps.sin()
    slope = a + 3 * c * eps**2 + m * eps.cos()
    entropy = (weight * slope.log()).sum()
    score = (-eps - (6 * c * eps - m * eps.sin()) / slope) / slope
    surrogate = entropy_surrogate(z[:, None], (len(eps) * weight * score)[:, None])
    assert surrogate.item() == pytest.approx(1.0, abs=1e-10)
    for found, exact in zip(torch.autograd.grad(surrogate, (a, c, m)), torch.autograd.grad(entropy, (a, c, m))):
        assert found.item() == pytest.approx(exact.item(), rel=1e-10)


class LinearEncoder(nn.Module):
    """z = A x + b + L eps; with `exact` eps is replaced by points of mean 0 and covariance I, 2 d for each datum."""

    def __init__(self, exact: bool = False, dtype: torch.dtype = F64, spread: float = 1.0) -> None:
        super().__init__()
        self.mean = nn.Linear(P, D, dtype=dtype)
        self.factor = nn.Parameter(spread * torch.tensor([[0.7, 0.0], [-0.4, 0.5]], dtype=dtype))
        self.exact = exact
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.seen.append(noise)
        if self.exact:
            noise = sigma_points(torch.zeros(len(x) // (2 * D), D, dtype=x.dtype), torch.eye(D, dtype=x.dtype))
        return self.mean(x) + noise @ self.factor.tril().mT

    def covariance(self) -> Tensor:
        return self.factor.tril() @ self.factor.tril().mT


@pytest.mark.parametrize("prior", [False, True])
def test_gradient_of_the_evidence_bound_is_exact(prior):
    """Linear encoder and decoder, exact score: every parameter's gradient is that of the bound in closed form, to rounding."""
    torch.manual_seed(3)
    encoder, decoder = LinearEncoder(exact=True), GaussianGenerator(nn.Linear(D, P, dtype=F64), 0.6, trainable_std=True)
    centre, precision = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([2.0, 0.5], dtype=F64)
    energy = ef.energies.Gaussian(centre, precision=precision, trainable=True)
    x = torch.randn(6, P, dtype=F64)

    def score(z: Tensor, x: Tensor) -> Tensor:
        return -torch.linalg.solve(encoder.covariance(), (z - encoder.mean(x)).mT).mT

    objective = ImplicitVAE(encoder, decoder, score, D, prior=energy if prior else None, num_samples=2 * D)
    parameters = list(objective.parameters())
    assert len(parameters) == 6 and not list(objective.score_parameters())
    loss, metrics = objective(x)
    of_prior = torch.autograd.grad(loss, list(energy.parameters()), retain_graph=True, allow_unused=True)
    assert of_prior == (None, None), "the prior is fixed"
    found = torch.autograd.grad(loss, parameters)
    mean, covariance, w = encoder.mean(x), encoder.covariance(), decoder.network.weight
    spread = torch.trace(w @ covariance @ w.mT)
    likelihood = decoder.log_prob(x, mean).mean() - 0.5 * spread * (-2 * decoder.log_std).exp()
    if not prior:
        centre, precision = torch.zeros(D, dtype=F64), torch.ones(D, dtype=F64)
    log_prior = -0.5 * ((mean - centre).square() @ precision).mean() - 0.5 * (precision * covariance.diagonal()).sum()
    bound = likelihood + log_prior + encoder.factor.diagonal().log().sum()
    for got, want in zip(found, torch.autograd.grad(-bound, parameters), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    assert metrics["stein"].item() == pytest.approx(1.0, rel=1e-13)
    assert metrics["log_likelihood"].item() == pytest.approx(likelihood.item(), rel=1e-12)


class LinearScore(nn.Module):
    """s(z, x) = c - P z + B x."""

    def __init__(self) -> None:
        super().__init__()
        self.of_z, self.of_x = nn.Linear(D, D, bias=False), nn.Linear(P, D)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.of_x(x) - self.of_z(z)


@pytest.mark.parametrize("entropy_weight", [1.0, 0.0])
def test_two_players_find_the_posterior(entropy_weight):
    """A linear encoder learns the exact posterior of x = W z + sigma eps, z ~ N(0, I): covariance within 6 % and mean map within
    0.04, averaged over the last iterations. Without the entropy's gradient the spread collapses instead."""
    torch.manual_seed(0)
    w = torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.3, -0.6]])
    decoder = GaussianGenerator(nn.Linear(D, P), 0.8)
    with torch.no_grad():
        decoder.network.weight.copy_(w)
        decoder.network.bias.zero_()
    x = torch.randn(512, D) @ w.mT + 0.8 * torch.randn(512, P)
    encoder, score = LinearEncoder(dtype=torch.float32), LinearScore()
    objective = ImplicitVAE(
        encoder, decoder.requires_grad_(False), score, D, entropy_weight=entropy_weight, method="implicit", seed=0
    )
    of_encoder = torch.optim.Adam(encoder.parameters(), 0.02)
    of_score = torch.optim.Adam(objective.score_parameters(), 0.1, betas=(0.8, 0.98))

    def turn(loss_of: Any, optimizer: torch.optim.Optimizer) -> None:
        loss, _ = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found, last = [], 200 if entropy_weight else 100
    for i in range(-100, last):
        turn(objective.score_loss, of_score)  # which begins alone, and has two turns for each of the encoder's
        if i >= 0:
            turn(objective.score_loss, of_score)
            turn(objective, of_encoder)
        if i >= last - 60:
            of_encoder.param_groups[0]["lr"] = 0.01
            found.append(torch.cat([encoder.covariance().detach(), encoder.mean.weight.detach()], 1))
    covariance, slope = torch.stack(found).mean(0).split([D, P], 1)
    truth = torch.linalg.inv(torch.eye(D) + w.mT @ w / 0.64)
    if entropy_weight == 0.0:
        assert covariance.trace() < 0.1 * truth.trace()
        return
    assert (covariance - truth).abs().max() < 0.06 * truth.max()
    assert (slope - truth @ w.mT / 0.64).abs().max() < 0.04


def nets() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(0)
    return ImplicitEncoder(P, 4, D, (8,)), GaussianGenerator(nn.Linear(D, P), 0.5), ConditionalScore(D, P, (8,))


METHODS = {"sliced": {"num_projections": 2}, "implicit": {}, "denoising": {"sigma": 0.3}}


@pytest.mark.parametrize("method", METHODS)
def test_protocol_and_players_apart(method):
    encoder, decoder, score = nets()
    objective = ImplicitVAE(encoder, decoder, score, 4, num_samples=3, method=method, **METHODS[method])
    first, second = list(objective.parameters()), list(objective.score_parameters())
    assert first == [*encoder.parameters(), *decoder.parameters()] and second == list(score.parameters())
    for loss_of, mine, others in ((objective, first, second), (objective.score_loss, second, first)):
        loss, metrics = loss_of(torch.randn(5, P))
        assert loss.shape == () and all(m.shape == () and not m.requires_grad and m.isfinite() for m in metrics.values())
        loss.backward()
        # A constant added to a score has no part in a trace, but in the square.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in mine) and all(p.grad is None for p in others)
        for p in mine:
            p.grad = None
    assert (objective.iteration, objective.score_iteration) == (1, 1)
    objective.finish_checks()


def test_an_energy_may_be_the_score():
    """The lecture's form: an energy-based model of q(z | x), whose gradient is the score."""
    encoder, decoder, score = nets()

    def energy(z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (score(z, x)).square().sum(1) + z.square().sum(1)

    def gradient(z: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            return -torch.autograd.grad(energy(leaf, x).sum(), leaf)[0]

    x, losses = torch.randn(5, P), []
    for model in (energy, gradient):
        loss, _ = ImplicitVAE(encoder, decoder, model, 4, seed=0)(x)
        gradients = torch.autograd.grad(loss, list(encoder.parameters()))
        losses.append(torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)]))
    torch.testing.assert_close(*losses)


def test_turns_share_no_noise_and_a_split_batch_sees_the_same():
    x = torch.randn(8, P, dtype=F64)

    def noises(part: Tensor, chain_offset: int) -> list[Tensor]:
        encoder = LinearEncoder()
        objective = ImplicitVAE(
            encoder, GaussianGenerator(nn.Linear(D, P, dtype=F64)), lambda z, x: -z, D, num_samples=2, seed=1, method="denoising",
            sigma=0.5, chain_offset=chain_offset,
        )  # fmt: skip
        for loss_of in (objective, objective, objective.score_loss, objective.score_loss):
            loss_of(part)
        return encoder.seen

    whole, first, second = noises(x, 0), noises(x[:4], 0), noises(x[4:], 4)
    assert all(torch.equal(a, torch.cat([b, c])) for a, b, c in zip(whole, first, second, strict=True))
    assert len({noise[0, 0].item() for noise in whole}) == 4
    assert abs(torch.cat(whole).std().item() - 1.0) < 5.5 / math.sqrt(2 * 128)


def test_resume_is_exact():
    x = torch.randn(6, P)

    def train(parts: tuple[nn.Module, ...], objective: ImplicitVAE, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            players = ((objective, objective.parameters()), (objective.score_loss, objective.score_parameters()))
            for loss_of, parameters in players:
                loss, _ = loss_of(x)
                kept = list(parameters)
                with torch.no_grad():
                    for p, g in zip(kept, torch.autograd.grad(loss, kept)):
                        p -= 0.02 * g
                losses.append(loss.item())
        return losses

    parts, others = nets(), nets()
    objective = ImplicitVAE(parts[0], parts[1], parts[2], 4, seed=2)
    train(parts, objective, 2)
    for a, b in zip(others[:2], parts[:2]):
        a.load_state_dict(b.state_dict())
    other = ImplicitVAE(others[0], others[1], others[2], 4)
    other.load_state_dict(objective.state_dict())  # the score network comes along
    assert train(others, other, 2) == train(parts, objective, 2)


def test_what_is_not_finite_is_named():
    objective = ImplicitVAE(*nets(), 4, seed=0, check=True)
    x = torch.randn(3, P)
    x[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"not finite: batch, latents, log_likelihood, log_prior, score$"):
        objective(x)
    with pytest.raises(FloatingPointError, match=r"not finite: batch, latents, score_matching$"):
        objective.score_loss(x)
    assert objective.iteration == objective.score_iteration == 0


def test_errors():
    encoder, decoder, score = nets()

    def made(**options: Any) -> ImplicitVAE:
        return ImplicitVAE(**{"encoder": encoder, "decoder": decoder, "score": score, "noise_shape": 4, **options})

    for error, match, options in (
        (TypeError, "encoder", {"encoder": ImplicitEncoder}),
        (TypeError, "decoder", {"decoder": lambda z: z}),
        (TypeError, "score", {"score": 3.0}),
        (TypeError, "prior", {"prior": LatentPrior}),
        (ValueError, "noise_shape", {"noise_shape": 0}),
        (ValueError, "num_samples", {"num_samples": 0}),
        (ValueError, "num_projections", {"num_projections": 0}),
        (ValueError, "method", {"method": "guess"}),
        (ValueError, "sigma", {"sigma": 0.1}),
        (ValueError, "sigma", {"method": "denoising"}),
        (ValueError, "sigma", {"method": "denoising", "sigma": 0.0}),
        (ValueError, "entropy_weight", {"entropy_weight": -1.0}),
        (ValueError, "seed", {"seed": 1 << 64}),
    ):
        with pytest.raises(error, match=match):
            made(**options)
    x = torch.randn(3, P)
    for match, options in (
        (r"encoder: expected latents \(3, \*latent\), got \(2, 2\)", {"encoder": lambda x, eps: encoder(x, eps)[1:]}),
        (r"decoder: expected one number a latent, \(3,\)", {"decoder": type("Odd", (), {"log_prob": lambda self, x, z: z})()}),
        (r"prior: expected one number a latent", {"prior": lambda z: z}),
        (r"model: expected energies \(3,\) or scores \(3, 2\)", {"score": lambda z, x: z[:, :1]}),
    ):
        with pytest.raises(ValueError, match=match):
            made(**options)(x)
    with pytest.raises(ValueError, match="no labels"):
        made()((x, torch.zeros(3)))
    for arguments in ((torch.ones(2, 2), torch.ones(2, 3)), (torch.ones(2), torch.ones(2)), (torch.ones(0, 2), torch.ones(0, 2))):
        with pytest.raises(ValueError, match="z, score"):
            entropy_surrogate(*arguments)
    for make in (lambda: ImplicitEncoder(3, 0, 2), lambda: ConditionalScore(2, 3, (8, 0))):
        with pytest.raises(ValueError, match="expected ints of at least 1"):
            make()
