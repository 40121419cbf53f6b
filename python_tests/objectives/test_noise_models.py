"""Noise models: normalised, drawn from the law that they state, a function of seed and counter alone; others' objects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import ebm_fast as ef
from ebm_fast import noise
from ebm_fast.noise import as_noise
from ebm_fast.testing import ks_test

F64 = torch.float64
FACTOR = [[0.5, 0.0], [0.4, 0.3]]


def t(*numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def plane_models() -> dict[str, noise.NoiseModel]:
    return {
        "diagonal": noise.Gaussian(t(0.3, -0.2), t(0.5, 0.8)),
        "full": noise.Gaussian(t(0.3, -0.2), scale_tril=t(*FACTOR)),
        "mixture": noise.Mixture(t([1.0, 0.0], [-1.0, 0.5]), t(0.4, 0.7), t(1.0, 3.0)),
        "kernel": noise.KernelDensity(t([1.0, 0.0], [-1.0, 0.5], [0.2, 0.1]), 0.45),
        "exact": noise.Exact(ef.energies.Ring(2, 1.5, 0.4, dtype=F64)),
        "foreign": as_noise(MultivariateNormal(t(0.3, -0.2), scale_tril=t(*FACTOR))),
    }


@pytest.mark.parametrize("name", list(plane_models()))
def test_density_integrates_to_one(name):
    axis = torch.linspace(-8, 8, 801, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    total = plane_models()[name].log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    # The ring's density has a kink at the origin, of relative size e^-7.
    assert total.item() == pytest.approx(1.0, abs=1e-5 if name == "exact" else 1e-10)


def test_densities_are_torch_s():
    x = torch.randn(50, 2, dtype=F64)
    models = plane_models()
    torch.testing.assert_close(
        models["diagonal"].log_prob(x), Normal(t(0.3, -0.2), t(0.5, 0.8)).log_prob(x).sum(1), rtol=1e-13, atol=1e-13
    )
    full = MultivariateNormal(t(0.3, -0.2), scale_tril=t(*FACTOR)).log_prob(x)
    torch.testing.assert_close(models["full"].log_prob(x), full, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(models["foreign"].log_prob(x), full, rtol=1e-12, atol=1e-12)
    parts = [Normal(m, s).log_prob(x).sum(1) for m, s in ((t(1.0, 0.0), 0.4), (t(-1.0, 0.5), 0.7))]
    mixed = torch.stack([parts[0] + math.log(0.25), parts[1] + math.log(0.75)]).logsumexp(0)
    torch.testing.assert_close(models["mixture"].log_prob(x), mixed, rtol=1e-12, atol=1e-12)
    kernels = torch.stack([Normal(c, 0.45).log_prob(x).sum(1) for c in models["kernel"].data]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(models["kernel"].log_prob(x), kernels, rtol=1e-12, atol=1e-12)
    box = noise.Uniform(t(-1.0, 0.0), 2.0)
    inside = ((x >= t(-1.0, 0.0)) & (x <= 2)).all(1)
    assert 0 < inside.sum() < 50
    torch.testing.assert_close(box.log_prob(x), torch.where(inside, -math.log(6.0), -math.inf).to(F64))


def test_kernel_density_in_pieces_is_the_whole(monkeypatch):
    from ebm_fast.noise import mixture

    model, x = noise.KernelDensity(torch.randn(70, 3), "silverman"), torch.randn(33, 3)
    whole = model.log_prob(x)
    monkeypatch.setattr(mixture, "PAIRS", 700)
    # a GPU may add up a sum of another length in another order
    torch.testing.assert_close(model.log_prob(x), whole, rtol=2e-7 if x.is_cuda else 0, atol=0)


def phi(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


# Draws brought to one coordinate, and that coordinate's distribution function.
LAWS = {
    "diagonal 0": ("diagonal", lambda x: (x[:, 0] - 0.3) / 0.5, phi),
    "diagonal 1": ("diagonal", lambda x: (x[:, 1] + 0.2) / 0.8, phi),
    "full 0": ("full", lambda x: (x[:, 0] - 0.3) / 0.5, phi),
    "full 1": ("full", lambda x: (x[:, 1] + 0.2) / 0.5, phi),
    "full 1 given 0": ("full", lambda x: (x[:, 1] + 0.2 - 0.8 * (x[:, 0] - 0.3)) / 0.3, phi),
    "mixture 0": ("mixture", lambda x: x[:, 0], lambda v: 0.25 * phi((v - 1) / 0.4) + 0.75 * phi((v + 1) / 0.7)),
    "mixture 1": ("mixture", lambda x: x[:, 1], lambda v: 0.25 * phi(v / 0.4) + 0.75 * phi((v - 0.5) / 0.7)),
    "kernel 0": ("kernel", lambda x: x[:, 0], lambda v: sum(phi((v - c) / 0.45) for c in (1.0, -1.0, 0.2)) / 3),
    "foreign 1 given 0": ("foreign", lambda x: (x[:, 1] + 0.2 - 0.8 * (x[:, 0] - 0.3)) / 0.3, phi),
}
N = 200_000


@pytest.mark.parametrize("law", list(LAWS))
def test_draws_follow_the_density(law):
    """Kolmogorov-Smirnov at a false-alarm rate of 1e-6; a scale wrong by 5 % is found."""
    name, coordinate, cdf = LAWS[law]
    draws = coordinate(plane_models()[name].sample(N, seed=11))
    ks_test(draws, cdf, alpha=1e-6).check()
    assert not ks_test(draws * 1.05, cdf, alpha=1e-6).passed


def test_the_largest_uniform_stays_in_the_box(monkeypatch):
    """low + (high - low) rounds to more than high in some of these features."""
    low, high = torch.rand(1000) - 1, torch.rand(1000) + 0.1
    assert bool((low + (high - low) > high).any())
    monkeypatch.setattr("ebm_fast.noise.uniform.uniform_", lambda out, **_: out.fill_(1.0))
    model = noise.Uniform(low, high)
    assert bool(model.log_prob(model.sample(1, seed=0)).isfinite())


def test_uniform_draws_fill_the_box_and_stay_inside():
    model = noise.Uniform(torch.tensor([-1.0, 1000.1]), torch.tensor([3.0, 1000.7]))
    draws = model.sample(N, seed=3)
    assert draws.dtype == torch.float32 and bool(model.log_prob(draws).isfinite().all())
    for value, low, width in ((draws[:, 0], -1.0, 4.0), (draws[:, 1], 1000.1, 0.6)):
        unit = (value.double() - low) / width
        ks_test(unit, lambda u: u.clamp(0, 1), alpha=1e-6).check()
        assert not ks_test(unit * 0.95, lambda u: u.clamp(0, 1), alpha=1e-6).passed


@pytest.mark.parametrize("name", ["diagonal", "full", "mixture", "kernel", "exact", "uniform"])
def test_a_row_depends_on_seed_step_and_index_alone(name):
    model = noise.Uniform(t(-1.0, 0.0), 2.0) if name == "uniform" else plane_models()[name]
    whole = model.sample(9, seed=5, step=7)
    parts = torch.cat([model.sample(4, seed=5, step=7), model.sample(5, seed=5, step=7, chain_offset=4)])
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-14)
    written = torch.full_like(whole, math.nan)
    assert model.sample_(written, seed=5, step=7) is written
    torch.testing.assert_close(written, whole, rtol=1e-14, atol=1e-14)
    for other in (model.sample(9, seed=6, step=7), model.sample(9, seed=5, step=8)):
        assert not bool((other == whole).any())
    torch.manual_seed(1)
    first = model.sample(3)
    torch.manual_seed(1)
    assert torch.equal(model.sample(3), first), "without a seed torch's generator decides"


def test_foreign_draws_are_repeated_and_leave_torch_s_generator_alone():
    model = as_noise(Normal(torch.zeros(3), torch.ones(3)))
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    first = model.sample(5, seed=9, step=2)
    assert torch.equal(torch.rand(2), expected)
    torch.rand(100)
    assert torch.equal(model.sample(5, seed=9, step=2), first)
    others = (model.sample(5, seed=9, step=3), model.sample(5, seed=8, step=2), model.sample(5, seed=9, step=2, chain_offset=1))
    assert not any(bool((other == first).any()) for other in others)


def test_fits_are_the_maximum_likelihood():
    data = torch.randn(500, 2, 3, dtype=F64) * 2 + 5
    diagonal, full = noise.Gaussian.fit(data), noise.Gaussian.fit(data, covariance="full", widen=1.5)
    torch.testing.assert_close(diagonal.mean, data.mean(0))
    torch.testing.assert_close(diagonal.std, data.std(0, correction=0))
    covariance = full.scale_tril @ full.scale_tril.T / 1.5**2
    torch.testing.assert_close(covariance, data.flatten(1).T.cov(correction=0))
    assert diagonal.event_shape == full.event_shape == (2, 3) and full.sample(4, seed=0).shape == (4, 2, 3)
    box = noise.Uniform.fit(data, margin=0.25)
    side = data.amax(0) - data.amin(0)
    torch.testing.assert_close(box.low, data.amin(0) - 0.25 * side)
    torch.testing.assert_close(box.high, data.amax(0) + 0.25 * side)
    single = (data * 1e6).float()
    assert bool(noise.Uniform.fit(single, margin=0.0).log_prob(single).isfinite().all())
    scott, silverman = (noise.KernelDensity(data, rule).bandwidth for rule in ("scott", "silverman"))
    torch.testing.assert_close(scott, data.std(0) * 500 ** (-1 / 10))
    torch.testing.assert_close(silverman, scott * (4 / 8) ** (1 / 10))


FITS = {
    "diagonal": lambda data, **o: noise.Gaussian.fit(data, **o),
    "full": lambda data, **o: noise.Gaussian.fit(data, covariance="full", **o),
    "uniform": lambda data, **o: noise.Uniform.fit(data, **o),
    "kernel": lambda data, **o: noise.KernelDensity(data, **o),
}


@pytest.mark.parametrize("fit", list(FITS))
def test_a_feature_that_does_not_vary_is_named_or_floored(fit):
    data = torch.randn(100, 4)
    data[:, 2] = 0.1  # whose mean over 100 rounds
    with pytest.raises(ValueError, match=r"data: 1 of 4 features have .* 0 \(flat index 2\).*floor="):
        FITS[fit](data)
    model = FITS[fit](data, floor=0.01)
    assert bool(model.log_prob(data).isfinite().all())
    spread = model.sample(20_000, seed=1).std(0).cpu()
    assert spread[2] == pytest.approx(0.01 * 1.2 / math.sqrt(12) if fit == "uniform" else 0.01, rel=0.05)
    assert all(spread[i] > 0.1 for i in (0, 1, 3))
    for bad in (torch.randn(1, 4), torch.randn(4), torch.ones(3, 2, dtype=torch.int64), data / 0, torch.ones(3, 0)):
        with pytest.raises(ValueError, match=r"^data: expected"):
            FITS[fit](bad)
    for floor in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="floor"):
            FITS[fit](data, floor=floor)


def test_singular_covariance_is_an_error():
    data = torch.randn(100, 3)
    data[:, 2] = data[:, 0] - 2 * data[:, 1]
    for bad in (data, torch.randn(3, 5)):
        with pytest.raises(ValueError, match="singular; give floor="):
            noise.Gaussian.fit(bad, covariance="full")
        noise.Gaussian.fit(bad, covariance="full", floor=0.1)


class Pair:
    """The contract of normflows: `sample(n)` returns states and log densities."""

    def sample(self, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        z = torch.randn(num_samples, 2)
        return z, self.log_prob(z)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi)


class Sampler(nn.Module):
    def sample(self, n: int) -> Tensor:
        return torch.randn(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_objects_of_others():
    x = torch.randn(6, 2)
    pair = as_noise(Pair())
    assert pair.sample(3, seed=0).shape == (3, 2)
    torch.testing.assert_close(pair.log_prob(x), noise.Gaussian(torch.zeros(2)).log_prob(x))
    factorised = as_noise(Normal(torch.zeros(2), 1.0))
    torch.testing.assert_close(factorised.log_prob(x), pair.log_prob(x))
    energy = ef.energies.Gaussian(torch.zeros(2))
    assert isinstance(as_noise(energy), noise.Exact)
    torch.testing.assert_close(as_noise(energy).log_prob(x), pair.log_prob(x))
    model = noise.Gaussian(torch.zeros(2))
    assert as_noise(model) is model


def test_what_is_no_noise_is_refused():
    class NoDensity:
        def sample(self, n: int) -> Tensor:
            return torch.randn(n, 2)

    for bad, wanted in (
        (NoDensity(), "NoDensity without log_prob"),
        (object(), "without sample and log_prob"),
        (Pair, "the class Pair"),
        (Sampler(), "Sampler without log_prob"),
        (nn.ReLU(), "ReLU without log_prob"),
    ):
        with pytest.raises(TypeError, match=f"noise: .*{wanted}"):
            as_noise(bad)
    with pytest.raises(NotImplementedError, match="no exact sampler"):
        as_noise(ef.energies.PhiFour((4, 4), 1.0, 1.0))
    pair = Pair()
    pair.log_prob = lambda x: x
    with pytest.raises(ValueError, match=r"log_prob to return \(6,\), one number a state.*got \(6, 2\)"):
        as_noise(pair).log_prob(torch.randn(6, 2))
    pair.sample = lambda n: torch.zeros(n + 1, 2)
    with pytest.raises(ValueError, match=r"sample\(3\) to return states \(3, \*event\), got \(4, 2\)"):
        as_noise(pair).sample(3, seed=0)
    with pytest.raises(ValueError, match="draws like the batch"):
        as_noise(Pair()).sample_(torch.empty(3, 2, dtype=F64), seed=0)


def test_bad_arguments():
    for make, name in (
        (lambda: noise.Gaussian(torch.zeros(2), std=1.0, scale_tril=torch.eye(2)), "one of std and scale_tril"),
        (lambda: noise.Gaussian(0.0), "mean"),
        (lambda: noise.Gaussian(torch.zeros(2), torch.ones(3)), "std"),
        (lambda: noise.Gaussian(torch.zeros(2), 0.0), "std"),
        (lambda: noise.Gaussian(torch.zeros(2), scale_tril=torch.ones(2, 2)), "scale_tril"),
        (lambda: noise.Gaussian(torch.zeros(2), scale_tril=torch.eye(3)), "scale_tril"),
        (lambda: noise.Gaussian.fit(torch.randn(9, 2), covariance="dense"), "covariance"),
        (lambda: noise.Gaussian.fit(torch.randn(9, 2), widen=0.0), "widen"),
        (lambda: noise.Uniform(0.0, 1.0), "low and high"),
        (lambda: noise.Uniform(torch.zeros(2), torch.ones(3)), "low and high"),
        (lambda: noise.Uniform(torch.zeros(2), 0.0), "low"),
        (lambda: noise.Uniform.fit(torch.randn(9, 2), margin=-0.1), "margin"),
        (lambda: noise.Mixture(torch.zeros(3)), "means"),
        (lambda: noise.KernelDensity(torch.randn(9, 2), "botev"), "bandwidth"),
        (lambda: noise.KernelDensity(torch.randn(9, 2), torch.ones(3)), "bandwidth"),
        (lambda: noise.KernelDensity(torch.randn(9, 2), -1.0), "bandwidth"),
    ):
        with pytest.raises(ValueError, match=name):
            make()
    model = noise.Gaussian(torch.zeros(2))
    for x in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.int64), [0.0, 0.0]):
        with pytest.raises(ValueError, match=r"x: expected floating-point states \(n, 2\)"):
            model.log_prob(x)
    with pytest.raises(ValueError, match=r"on .*, as the noise model is, got meta"):
        model.log_prob(torch.zeros(3, 2, device="meta"))
    with pytest.raises(ValueError, match="n must be at least 0"):
        model.sample(-1)


def test_dtypes():
    model = noise.Gaussian.fit(torch.randn(50, 3), covariance="full")
    assert model.log_prob(torch.randn(4, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert model.log_prob(torch.randn(4, 3, dtype=F64)).dtype == F64
    assert model.double().sample(4, seed=0).dtype == F64
    half = torch.empty(4, 3, dtype=torch.bfloat16)
    assert bool(model.sample_(half, seed=0).isfinite().all())
    box, half = noise.Uniform(-torch.ones(3), 2.0), torch.empty(400, 3, dtype=torch.float16)
    assert bool(((box.sample_(half, seed=0) - box.sample(400, seed=0)).abs() < 2e-3).all()) and -1 <= half.min() < half.max() <= 2
    other = noise.Gaussian(torch.zeros(3, dtype=F64), scale_tril=torch.eye(3, dtype=F64))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(4, seed=0), model.sample(4, seed=0))


def test_flows_of_zuko():
    zuko = pytest.importorskip("zuko")
    flow = zuko.flows.MAF(features=2, transforms=2, hidden_features=(16,))
    model, x = as_noise(flow), torch.randn(5, 2)
    torch.testing.assert_close(model.log_prob(x), flow().log_prob(x))
    assert torch.equal(model.sample(7, seed=1, step=3), model.sample(7, seed=1, step=3))
    assert any(name.startswith("noise.") for name in model.state_dict())
    energy = ef.energies.GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], trainable=True)
    objective = ef.NCE(energy, flow, num_noise=2, log_z=0.0, seed=0)
    loss, _ = objective(torch.randn(8, 2))
    loss.backward()
    assert all(p.grad is None for p in flow.parameters()), "static noise collects no gradient"
    assert energy.means.grad.abs().sum() > 0


@pytest.mark.parametrize("name", list(plane_models()))
def test_autocast_rounds_neither_draws_nor_densities(name):
    model = as_noise(MultivariateNormal(torch.zeros(2), torch.eye(2))) if name == "foreign" else plane_models()[name].float()
    wanted = model.sample_(torch.empty(64, 2), seed=1)
    with torch.autocast(wanted.device.type, torch.bfloat16):
        drawn = model.sample_(torch.empty(64, 2), seed=1)
        assert torch.equal(drawn, wanted)
        assert not torch.equal(drawn, drawn.bfloat16().float())
        densities = model.log_prob(drawn)
    assert torch.equal(densities, model.log_prob(wanted))
