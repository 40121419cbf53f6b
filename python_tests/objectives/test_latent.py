"""Latent-variable objectives against the exact likelihood of linear-Gaussian models; their models, chains, errors, resume."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_draws import ExactDraws, sigma_points
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal

import ebm_fast as ef
from ebm_fast import engine
from ebm_fast.models import BernoulliGenerator, DeconvNet, GaussianGenerator, JointEnergy, LatentPrior
from ebm_fast.objectives import LatentEBM, LatentMLE, latent_ebm_loss

F64 = torch.float64
D, P = 2, 3  # numbers in a latent and in an event


class Linear:
    """z ~ e^-V(z) N(0, s^2 I), V a Gaussian energy or none, x = W z + b + sigma eps: all in closed form, float64."""

    def __init__(self, tilted: bool, dtype: torch.dtype = F64) -> None:
        torch.manual_seed(5)
        tilt = None
        if tilted:
            mean, precision = torch.tensor([0.6, -0.3], dtype=dtype), torch.tensor([1.5, 0.4], dtype=dtype)
            tilt = ef.energies.Gaussian(mean, precision=precision, trainable=True)
        self.prior = LatentPrior(D, tilt, std=0.9)
        self.generator = GaussianGenerator(nn.Linear(D, P, dtype=dtype), 0.7, trainable_std=True)
        self.parameters = [*self.prior.parameters(), *self.generator.parameters()]

    def prior_law(self) -> tuple[Tensor, Tensor]:
        """Mean (1, d) and precision (d, d)."""
        w, tilt = self.generator.network.weight, self.prior.tilt
        precision, shift = torch.eye(D, dtype=w.dtype) / self.prior.std**2, torch.zeros(D, dtype=w.dtype)
        if tilt is not None:
            precision, shift = precision + torch.diag(tilt.precision), tilt.precision * tilt.mean
        return torch.linalg.solve(precision, shift)[None], precision

    def posterior_law(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, d) and precision (d, d)."""
        w, b, variance = self.generator.network.weight, self.generator.network.bias, (2 * self.generator.log_std).exp()
        mean, precision = self.prior_law()
        posterior = precision + w.mT @ w / variance
        return torch.linalg.solve(posterior, (mean @ precision + (x - b) @ w / variance).mT).mT, posterior

    def nll(self, x: Tensor) -> Tensor:
        """-mean log p(x)."""
        w, b, variance = self.generator.network.weight, self.generator.network.bias, (2 * self.generator.log_std).exp()
        mean, precision = self.prior_law()
        covariance = w @ torch.linalg.inv(precision) @ w.mT + variance * torch.eye(P, dtype=w.dtype)
        return -MultivariateNormal(mean @ w.mT + b, covariance).log_prob(x).mean()

    def gradient(self, loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.parameters)])

    def joint(self) -> JointEnergy:
        return JointEnergy(self.prior, self.generator)


def draws_of(law: tuple[Tensor, Tensor], stretch: float = 1.0) -> Tensor:
    mean, precision = (t.detach() for t in law)
    return sigma_points(mean, stretch * torch.linalg.inv(precision))


def data(n: int = 7, dtype: torch.dtype = F64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(n, P, dtype=dtype) * torch.tensor([1.5, 0.5, 1.0], dtype=dtype) + 0.3


def test_fisher_s_identity_is_exact():
    """With draws of the posterior's mean and covariance the gradient is the likelihood's to rounding; with 2 % more variance
    it is 1e-3 off."""
    model, x = Linear(tilted=False), data()
    exact = model.gradient(model.nll(x))
    for stretch, close in ((1.0, True), (1.02, False)):
        sampler = ExactDraws(lambda condition: draws_of(model.posterior_law(x), stretch))  # noqa: B023
        loss, metrics = LatentMLE(model.joint(), sampler, D, num_steps=1, num_chains=2 * D, strategy="step")(x)
        off = (model.gradient(loss) - exact).abs().max()
        assert off < 1e-12 if close else off > 1e-3
    assert set(metrics) == {"energy"} and metrics["energy"] == loss


def test_latent_ebm_has_the_gradient_of_the_likelihood():
    """Prior's and generator's part at once, to rounding; 2 % more variance of either kind of draws is 1e-3 off."""
    model, x = Linear(tilted=True), data()
    exact = model.gradient(model.nll(x))

    def found(prior: float = 1.0, posterior: float = 1.0) -> Tensor:
        objective = LatentEBM(
            model.prior, model.generator, ExactDraws(lambda _: draws_of(model.prior_law(), prior).repeat(len(x), 1)),
            posterior_sampler=ExactDraws(lambda _: draws_of(model.posterior_law(x), posterior)), num_steps=1, num_chains=2 * D,
            strategy="step",
        )  # fmt: skip
        assert list(objective.parameters()) == model.parameters
        return model.gradient(objective(x)[0])

    assert (found() - exact).abs().max() < 1e-12
    assert (found(prior=1.02) - exact).abs().max() > 1e-3
    assert (found(posterior=1.02) - exact).abs().max() > 1e-3


def chain_law(mean: Tensor, precision: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
    """Mean (n, d) and covariance (d, d) after Langevin steps from N(0, I) towards N(mean, precision^-1): exact."""
    shrink = torch.eye(D, dtype=mean.dtype) - step_size * precision
    m, c = torch.zeros_like(mean), torch.eye(D, dtype=mean.dtype)
    for _ in range(steps):
        m = m @ shrink.mT + step_size * mean @ precision
        c = shrink @ c @ shrink.mT + 2 * step_size * torch.eye(D, dtype=mean.dtype)
    return m, c


CHAINS = {
    "langevin": (ef.Langevin(step_size=0.05), 4),
    "mala": (ef.MALA(step_size=0.25), 14),
    "hmc": (ef.HMC(step_size=0.35, num_leapfrog=3), 6),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_have_the_gradient_of_their_law(name):
    """The mean gradient of 24 iterations on 2000 data: within 8 of its standard errors (t of 23 degrees, false alarm 1e-7 an
    entry) of the exact gradient of MALA's and HMC's target, and of the K-step law of Langevin; 8 errors are less than 4 % of
    the largest entry. Langevin's 4 steps, of both chains, are far from the likelihood's gradient."""
    sampler, steps = CHAINS[name]
    model, x = Linear(tilted=True), data(2000)
    objective = LatentEBM(model.prior, model.generator, sampler, num_steps=(steps, steps), seed=3)
    found = torch.stack([model.gradient(objective(x)[0]) for _ in range(24)])
    exact = likelihood = model.gradient(model.nll(x))
    if name == "langevin":
        laws = [chain_law(*(t.detach() for t in law), steps, 0.05) for law in (model.prior_law(), model.posterior_law(x))]
        points = [sigma_points(*law) for law in laws]
        stub = LatentEBM(
            model.prior, model.generator, ExactDraws(lambda _: points[0].repeat(len(x), 1)),
            posterior_sampler=ExactDraws(lambda _: points[1]), num_chains=2 * D, strategy="step",
        )  # fmt: skip
        exact = model.gradient(stub(x)[0])
    error = 8 * found.std(0) / math.sqrt(24)
    assert bool(((found.mean(0) - exact).abs() < error).all()), (found.mean(0) - exact) / error
    assert error.max() < 0.04 * exact.abs().max()
    if name == "langevin":
        assert ((exact - likelihood).abs() > 5 * error).any(), "power"


def test_factor_analysis_is_learned():
    """Probabilistic PCA by LatentMLE: sigma^2 is the mean of the discarded eigenvalues of the data's covariance, W W' = U (L -
    sigma^2) U' of the others (Tipping and Bishop 1999). Within 4 % of the largest eigenvalue, from 40 % off; after six
    steps of 0.25 it ends up to 7 % off, so 0.8 % (root mean square over 14 draws of the data)."""
    torch.manual_seed(0)
    x = torch.randn(400, 1) @ torch.tensor([[1.2, -0.8, 0.4]]) + 0.6 * torch.randn(400, 3)
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.mT @ x / len(x))
    truth = (values[-1] - values[:2].mean()) * torch.outer(vectors[:, -1], vectors[:, -1]) + values[:2].mean() * torch.eye(3)
    generator = GaussianGenerator(nn.Linear(1, 3, bias=False), 1.2, trainable_std=True)
    with torch.no_grad():
        generator.network.weight.copy_(torch.tensor([[0.3], [0.2], [0.1]]))
    objective = LatentMLE(JointEnergy(LatentPrior(1), generator), ef.MALA(step_size=0.15), 1, num_steps=12, seed=0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.04)

    def covariance() -> Tensor:
        w = generator.network.weight.detach()
        return w @ w.mT + (2 * generator.log_std.detach()).exp() * torch.eye(3)

    assert (covariance() - truth).abs().max() > 0.39 * values[-1]
    found = []
    for i in range(120):
        loss, _ = objective(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i >= 70:
            found.append(covariance())
    assert (torch.stack(found).mean(0) - truth).abs().max() < 0.04 * values[-1]


def test_likelihoods_are_those_of_torch():
    z, x = torch.randn(5, D, dtype=F64), torch.randn(5, 2, 2, dtype=F64)
    network = nn.Sequential(nn.Linear(D, 4, dtype=F64), nn.Unflatten(1, (2, 2)))
    gaussian = GaussianGenerator(network, 0.4)
    torch.testing.assert_close(gaussian.log_prob(x, z), Normal(network(z), 0.4).log_prob(x).sum((1, 2)), rtol=1e-12, atol=0)
    assert list(gaussian.parameters()) == list(network.parameters()) and torch.equal(gaussian(z), network(z))
    bernoulli, bits = BernoulliGenerator(network), (x > 0).double()
    wanted = Bernoulli(logits=network(z)).log_prob(bits).sum((1, 2))
    torch.testing.assert_close(bernoulli.log_prob(bits, z), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(bernoulli(z), network(z).sigmoid())
    prior = LatentPrior(D, ef.energies.MLPEnergy(D, (4,)).double(), std=1.3)
    wanted = prior.tilt(z) - Normal(z.new_tensor(0.0), 1.3).log_prob(z).sum(1)
    torch.testing.assert_close(prior(z), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(JointEnergy(prior, gaussian)(z, x=x), prior(z) - gaussian.log_prob(x, z), rtol=0, atol=0)


def test_deconvolutions_double_the_side():
    z = torch.randn(3, 4)
    image = DeconvNet(4, 3, 24, (16, 8, 4))(z)
    assert image.shape == (3, 3, 24, 24) and image.abs().max() < 1.0
    network = DeconvNet(4, tanh=False)
    with torch.no_grad():
        network.layers[-1].bias.fill_(5.0)
    assert network(z).shape == (3, 1, 8, 8) and network(z).mean() > 3.0
    with pytest.raises(ValueError, match=r"image_size: expected a multiple of 4 for 2 doublings, got 10"):
        DeconvNet(4, 1, 10)
    with pytest.raises(ValueError, match="expected ints of at least 1"):
        DeconvNet(4, 1, 8, ())


def net(dtype: torch.dtype = torch.float32) -> tuple[LatentPrior, GaussianGenerator]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(D, 8), nn.SiLU(), nn.Linear(8, P))
    return LatentPrior(D, ef.energies.MLPEnergy(D, (8,))).to(dtype), GaussianGenerator(network.to(dtype), 0.5)


LANGEVIN = ef.Langevin(step_size=0.05)
MAKERS: dict[str, Any] = {
    "mle": lambda prior, generator, **o: LatentMLE(JointEnergy(prior, generator), LANGEVIN, D, num_steps=3, **o),
    "ebm": lambda prior, generator, **o: LatentEBM(prior, generator, LANGEVIN, num_steps=(3, 4), **o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_protocol(name):
    prior, generator = net()
    objective, x = MAKERS[name](prior, generator, num_chains=2), data(6, torch.float32)
    loss, metrics = objective(x)
    assert loss.shape == () and loss.requires_grad
    assert all(m.shape == () and not m.requires_grad and m.isfinite() for m in metrics.values())
    assert all(p.grad is None for p in objective.parameters())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in (*prior.parameters(), *generator.parameters())}
    loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    assert sum(p.grad.abs().sum() for p in generator.parameters()) > 0
    objective.finish_checks()
    if name == "ebm":
        assert set(metrics) == {
            "energy_posterior", "energy_prior", "gap", "log_likelihood", "grad_norm_posterior", "grad_norm_prior"
        }  # fmt: skip
        assert metrics["gap"] == metrics["energy_prior"] - metrics["energy_posterior"]
        assert list(objective.prior_parameters()) == list(prior.parameters())
        assert list(objective.generator_parameters()) == list(generator.parameters())


def test_two_chains_are_the_engine_s_and_share_no_noise():
    """Iteration t: 4 posterior steps from step 7 t on, then 3 prior steps; starts are draws 2 t and 2 t + 1."""
    prior, generator = net()
    objective, x = MAKERS["ebm"](prior, generator, seed=8, chain_offset=5, num_chains=2), data(3, torch.float32)
    rows = x.repeat_interleave(2, 0)
    for t in range(2):
        loss, _ = objective(x)
        ends = []
        for start, first, steps, energy, condition in (
            (2 * t, 7 * t, 4, JointEnergy(prior, generator), {"x": rows}), (2 * t + 1, 7 * t + 4, 3, prior, {}),
        ):  # fmt: skip
            z = ef.objectives.InitialStates(("normal", 1.0), (D,))(6, 8, start, 10)
            engine.run_(energy, LANGEVIN, z, steps, seed=8, step=first, chain_offset=10, condition=condition)
            ends.append(z)
        wanted = latent_ebm_loss(prior(ends[0]), prior(ends[1]), generator.log_prob(rows, ends[0]))
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_a_split_batch_sees_the_same_chains(name):
    x = data(8)
    whole, *halves = (
        MAKERS[name](*net(F64), seed=2, num_chains=3, chain_offset=o)(part)[0]
        for o, part in ((0, x), (0, x[:4]), (4, x[4:]))
    )  # fmt: skip
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_resume_is_exact(name):
    x = data(8, torch.float32)

    def train(objective: Any, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, _ = objective(x)
            gradients = torch.autograd.grad(loss, list(objective.parameters()), materialize_grads=True)
            with torch.no_grad():
                for p, g in zip(objective.parameters(), gradients):
                    p -= 0.01 * g
            losses.append(loss.item())
        return losses

    first, second = net(), net()
    objective = MAKERS[name](*first, seed=3)
    train(objective, 2)
    for a, b in zip(second, first):
        a.load_state_dict(b.state_dict())
    other = MAKERS[name](*second)
    other.load_state_dict(objective.state_dict())
    assert train(other, 2) == train(objective, 2)


def test_samples_are_means_of_the_prior_s_chains():
    prior, generator = net()
    objective = MAKERS["ebm"](prior, generator, seed=1)
    samples = objective.sample(50, seed=4, num_steps=6)
    z = ef.objectives.InitialStates(("normal", 1.0), (D,))(50, 4, 0)
    engine.run_(prior, LANGEVIN, z, 6, seed=4)
    torch.testing.assert_close(samples, generator(z).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(objective.sample(10, seed=4, num_steps=6, chain_offset=40), samples[40:], rtol=1e-5, atol=1e-6)
    assert not samples.requires_grad and objective.iteration == 0


def test_gaussian_part_may_be_left_to_the_sampler():
    """A prior of native code, with prior_precision for its Gaussian: the same gradient as of `LatentPrior`, to rounding."""
    prior, generator = net()
    x = data(20, torch.float32)
    assert ef.sample(prior.tilt, LANGEVIN, torch.zeros(3, D), num_steps=1).strategy == "fused" or x.is_cuda
    found = []
    aided = ef.Langevin(step_size=0.05, prior_precision=1.0)
    for energy, sampler in ((prior, LANGEVIN), (prior.tilt, aided), (prior.tilt, LANGEVIN)):
        objective = LatentEBM(energy, generator, sampler, num_steps=10, seed=6)
        loss, _ = objective(x)
        gradients = torch.autograd.grad(loss, list(objective.parameters()), materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in gradients]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert (found[0] - found[2]).abs().max() > 0.01, "power"


def test_trainer_resumes_bit_for_bit(tmp_path):
    x = data(64, torch.float32)

    def build(folder: str) -> ef.Trainer:
        objective = MAKERS["ebm"](*net(), seed=2)
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
        batches = ef.training.BatchStream(x, batch_size=16, seed=1)
        return ef.Trainer(
            objective.energy, objective, optimizer, batches, directory=tmp_path / folder, checkpoint_every=3, progress=False
        )

    whole, part = build("whole"), build("part")
    whole.fit(8)
    part.fit(5)
    again = build("part")
    assert again.resume() and again.iteration == 5
    again.fit(8)
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), whole.module.parameters(), strict=True))


def test_labels_reach_the_joint_energy():
    x, y = data(4), torch.tensor([0, 1, 1, 0])
    means = torch.tensor([[-2.0, 0.0], [3.0, 1.0]], dtype=F64)

    def energy(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 50.0 * (z - means[y]).square().sum(1) + 0.0 * x.sum(1)

    seen: list[Tensor] = []
    objective = LatentMLE(
        lambda z, x, y: (seen.append(z), energy(z, x, y))[1], ef.Langevin(step_size=0.009), D, num_steps=20, num_chains=2
    )
    objective((x, y))
    assert (seen[-1] - means[y].repeat_interleave(2, 0)).abs().max() < 1.0


def test_what_is_not_finite_is_named():
    prior, generator = net()
    x = data(3, torch.float32)
    x[1, 0] = math.nan
    wanted_of = {"mle": "batch, latents, energy", "ebm": "batch, latents_posterior, energy_posterior, log_likelihood"}
    for name, wanted in wanted_of.items():
        objective = MAKERS[name](prior, generator, check=True)
        with pytest.raises(FloatingPointError, match=f"not finite: {wanted}$"):
            objective(x)
        assert objective.iteration == 0


def test_errors():
    prior, generator = net()
    joint, x = JointEnergy(prior, generator), data(3, torch.float32)
    for error, match, options in (
        (ValueError, "num_steps", {"num_steps": 0}),
        (ValueError, "num_chains", {"num_chains": 0}),
        (ValueError, "latent_shape", {"latent_shape": (2, 0)}),
        (ValueError, "latent_shape", {"latent_shape": 2.0}),
        (TypeError, "sampler", {"sampler": 3.0}),
        (ValueError, "strategy", {"strategy": "fast"}),
        (ValueError, "init", {"init": ("normal", -1.0)}),
        (ValueError, "seed", {"seed": 1 << 64}),
        (TypeError, "energy", {"energy": JointEnergy}),
    ):
        arguments = {"energy": joint, "sampler": LANGEVIN, "latent_shape": D, "num_steps": 2, **options}
        with pytest.raises(error, match=match):
            LatentMLE(**arguments)
    with pytest.raises(ValueError, match=r"num_steps: expected an int or \(prior, posterior\)"):
        LatentEBM(prior, generator, LANGEVIN, num_steps=(1, 2, 3))
    with pytest.raises(TypeError, match="posterior_sampler must be a sampler"):
        LatentEBM(prior, generator, LANGEVIN, posterior_sampler="mala")
    with pytest.raises(ValueError, match=r"latent_shape: .*no event_shape"):
        LatentEBM(lambda z: z.sum(1), generator, LANGEVIN)
    with pytest.raises(TypeError, match="generator: expected an object with log_prob"):
        LatentEBM(prior, lambda z: z, LANGEVIN)
    with pytest.raises(ValueError, match="no labels"):
        MAKERS["ebm"](prior, generator)((x, torch.zeros(3)))
    with pytest.raises(ValueError, match=r"energy: expected one number a state, \(3,\), got \(3, 2\)|energy must return shape"):
        LatentMLE(lambda z, x: z, LANGEVIN, D, num_steps=1)(x)
    with pytest.raises(ValueError, match=r"prior: expected one number a latent, \(3,\), got \(3, 1\)"):
        LatentEBM(lambda z: z[:, :1], generator, LANGEVIN, latent_shape=D)(x)
    with pytest.raises(ValueError, match=r"network: expected its output to have the shape \(3, 4\)"):
        MAKERS["ebm"](prior, generator)(torch.randn(3, 4))
    with pytest.raises(ValueError, match=r"z: expected \(n, 2\)"):
        prior(torch.randn(3, 4))
    for error, match, make in (
        (ValueError, "event_shape", lambda: LatentPrior(0)),
        (ValueError, "std", lambda: LatentPrior(2, std=0.0)),
        (TypeError, "tilt", lambda: LatentPrior(2, 3.0)),
        (TypeError, "network", lambda: GaussianGenerator(lambda z: z)),
        (ValueError, "std", lambda: GaussianGenerator(nn.Linear(2, 2), -1.0)),
        (TypeError, "prior", lambda: JointEnergy(3.0, generator)),
    ):
        with pytest.raises(error, match=match):
            make()
    with pytest.raises(ValueError, match="log_likelihood"):
        latent_ebm_loss(torch.ones(2), torch.ones(3), torch.ones(3))
