"""Exact samplers against their laws at a false-alarm rate of 1e-6, log Z against integrals, and both against each other.

Every draw is mapped to numbers that are independent and uniform if and only if the law is the right one (Rosenblatt's
transformation, written out for each energy), and these are counted in 64 cells. With 10^5 draws a scale that is off by 5 % raises
a Gaussian's statistic by some 500 above its mean of 63, at a threshold of 132: it is missed with a probability far below 1e-6.
"""

from __future__ import annotations

import math

import pytest
import torch

import ebm_fast as ef
from ebm_fast import energies as en
from ebm_fast.energies.draws import Draws

ALPHA = 1e-6
N = 100_000
CELLS = 64
F64 = torch.float64
phi = torch.special.ndtr


def cell_p(u: torch.Tensor) -> float:
    """p-value of Pearson's statistic over equal cells; 0 where a number is outside [0, 1]."""
    if not bool(((u >= 0) & (u <= 1)).all()):
        return 0.0
    counts = torch.histc(u, CELLS, 0.0, 1.0)
    expected = u.numel() / CELLS
    statistic = (counts - expected).square().sum() / expected
    return torch.special.gammaincc(torch.tensor((CELLS - 1) / 2, dtype=F64), statistic / 2).item()


def dependence_z(u: torch.Tensor) -> float:
    """Largest correlation among columns u and their folded forms |u - 1/2|, in standard errors."""
    v = torch.cat((u, (u - 0.5).abs()), 1)
    v = (v - v.mean(0)) / v.std(0)
    return (v.T @ v / len(v)).fill_diagonal_(0.0).abs().max().item() * math.sqrt(len(v))


def moments_z(u: torch.Tensor) -> float:
    """Largest deviation of mean and variance of the normal scores, in standard errors."""
    z = torch.special.ndtri(u)
    return max(z.mean(0).abs().max().item(), (z.square().mean(0) - 1.0).abs().max().item() / 2**0.5) * math.sqrt(len(u))


def cdf(log_f, x, low, high):
    """F(x) of an unnormalised density by Simpson's rule on 50 000 intervals."""
    grid = torch.linspace(low, high, 100_001, dtype=F64)
    f = log_f(grid).exp()
    pairs = (f[:-2:2] + 4 * f[1:-1:2] + f[2::2]) / 6
    total = torch.cat((torch.zeros(1, dtype=F64), pairs.cumsum(0)))
    place = (x - low) / (high - low) * 50_000
    left = place.long().clamp(0, 49_999)
    return torch.lerp(total[left], total[left + 1], place - left) / total[-1]


def chain_of_gaussians(a, b):
    def uniforms(x):
        first = (x[:, :1] - a) * 2**0.5
        return phi(torch.cat((first, (x[:, 1:] - x[:, :-1] ** 2) * (2 * b) ** 0.5), 1))

    return uniforms


def mixture_uniforms(means, stds, weights):
    def uniforms(x):
        logs, columns = weights.log().expand(len(x), -1), []
        for i in range(means.shape[1]):
            share = torch.softmax(logs, 1)
            z = (x[:, i : i + 1] - means[:, i]) / stds[:, i]
            columns.append((share * phi(z)).sum(1))
            logs = logs - 0.5 * z**2 - stds[:, i].log()
        return torch.stack(columns, 1)

    return uniforms


def sphere_uniforms(radius, width):
    def uniforms(x):
        r, d = x.norm(dim=1), x.shape[1]

        def log_density(t):
            return torch.special.xlogy(d - 1, t) - 0.5 * ((t - radius) / width) ** 2

        columns = [cdf(log_density, r, 0.0, radius + 9 * width)]
        if d >= 2:
            columns.append(torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) + 0.5)
        if d == 3:
            columns.append((x[:, 2] / r + 1) / 2)
        return torch.stack(columns, 1)

    return uniforms


def dense():
    root = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.3, 0.4, 2.0]], dtype=F64)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=F64)

    def uniforms(x):
        return phi(torch.linalg.solve_triangular(root, (x - mean).T, upper=False).T)

    return en.Gaussian(mean, covariance=root @ root.T), uniforms


def regression():
    features, y = torch.randn(30, 3, dtype=F64), torch.randn(30, dtype=F64)
    covariance = torch.linalg.inv(features.T @ features / 0.5**2 + 2.0 * torch.eye(3, dtype=F64))
    mean, root = covariance @ (features.T @ y) / 0.5**2, torch.linalg.cholesky(covariance)

    def uniforms(x):
        return phi(torch.linalg.solve_triangular(root, (x - mean).T, upper=False).T)

    return en.LinearRegression(features, y, 0.5, 2.0), uniforms


def diagonal():
    variance = torch.tensor([0.1, 4.0], dtype=F64)
    return en.Gaussian(torch.tensor([3.0, -1.0], dtype=F64), variance=variance), lambda x: phi(
        (x - torch.tensor([3.0, -1.0], dtype=F64)) / variance.sqrt()
    )


def mixture():
    means = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-1.0, 4.0]], dtype=F64)
    stds = torch.tensor([[1.0, 0.5], [0.3, 2.0], [1.0, 1.0]], dtype=F64)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    return en.GaussianMixture(means, stds, 7.0 * weights), mixture_uniforms(means, stds, weights)


def gamma():
    k, r = torch.tensor([0.3, 1.0, 7.5], dtype=F64), torch.tensor([1.0, 4.0, 0.2], dtype=F64)
    return en.Gamma(k, r), lambda x: torch.special.gammainc(k.expand_as(x), r * x)


def wells(height, width):
    def uniforms(x):
        high = math.sqrt(width**2 + math.sqrt(60.0 / height))
        low = math.sqrt(max(width**2 - math.sqrt(60.0 / height), 0.0))
        magnitude = cdf(lambda t: -height * (t * t - width**2) ** 2, x.abs(), low, high)
        return 0.5 + 0.5 * x.sign() * magnitude

    return lambda: (en.DoubleWell(height, width, dim=2, dtype=F64), uniforms)


LAWS = {
    "diagonal": diagonal,
    "dense": dense,
    "mixture": mixture,
    "gamma": gamma,
    "shallow_wells": wells(0.2, 0.7),
    "deep_wells": wells(3.0, 20.0),
    "rosenbrock": lambda: (en.Rosenbrock(3, 0.5, 20.0, dtype=F64), chain_of_gaussians(0.5, 20.0)),
    "funnel": lambda: (
        en.Funnel(4, 2.0, dtype=F64),
        lambda x: phi(torch.cat((x[:, :1] / 2.0, x[:, 1:] * torch.exp(-x[:, :1] / 2)), 1)),
    ),
    "pair_of_points": lambda: (
        en.Ring(1, 2.0, 0.5, dtype=F64),
        lambda x: 0.5 + 0.5 * x.sign() * sphere_uniforms(2.0, 0.5)(x),
    ),
    "ring": lambda: (en.Ring(2, 2.0, 0.3, dtype=F64), sphere_uniforms(2.0, 0.3)),
    "ball": lambda: (en.Ring(3, 0.5, 1.0, dtype=F64), sphere_uniforms(0.5, 1.0)),
    "regression": regression,
}


@pytest.fixture(params=LAWS.values(), ids=LAWS.keys())
def law(request, _on_device):
    return request.param()


def test_draws_follow_the_law(law):
    energy, uniforms = law
    x = energy.sample(N, seed=3)
    assert x.shape == (N, energy.dim) and x.dtype is F64
    u = uniforms(x)
    assert min(cell_p(column) for column in u.T) > ALPHA / 12
    assert dependence_z(u) < 5.7 and moments_z(u) < 5.7  # 1e-6 over some 80 numbers
    centre = x.mean(0)
    stretched = uniforms(centre + 1.05 * (x - centre))
    assert min(cell_p(column) for column in stretched.T) < ALPHA
    if energy.dim > 1:
        mixed = torch.cat((u[:, :1], torch.where(torch.rand(N, 1) < 0.05, u[:, :1], u[:, 1:2])), 1)
        assert dependence_z(mixed) > 5.7  # 5 % of a number used twice


def test_weights_of_distant_modes():
    weights = torch.tensor([0.1, 0.2, 0.7], dtype=F64)
    energy = en.GaussianMixture([[0.0], [100.0], [200.0]], 1.0, 3.0 * weights)
    counts = torch.histc(energy.sample(N, seed=1).double(), 3, -50.0, 250.0)
    error = (N * weights * (1 - weights)).sqrt()
    assert ((counts - N * weights).abs() < 5.2 * error).all()
    assert ((counts - N * weights**1.05 / (weights**1.05).sum()).abs() > 5.2 * error).any()


class Fixed(Draws):
    """Uniforms that are chosen, and normals that are 1."""

    def __init__(self, u):
        super().__init__(len(u), 0, 0, u.device)
        self.u = u

    def uniform(self, k):
        return self.u[:, None].expand(-1, k)

    def normal(self, k):
        return torch.ones(self.n, k, dtype=F64)


def test_inverted_distributions_reach_into_the_tails():
    """Quantiles at 1e-15 and beside 1, where a grid that ends too early shows."""
    u = torch.tensor([1e-15, 1e-12, 1e-6, 0.5, 1 - 1e-6, 1 - 1e-9], dtype=F64)
    far = en.Ring(1, 100.0, 2.0, dtype=F64)._sample(Fixed(u)).squeeze(1)
    torch.testing.assert_close(far, 100.0 + 2.0 * torch.special.ndtri(u), rtol=1e-6, atol=0)
    ball = en.Ring(2, 1e-9, 1.0, dtype=F64)._sample(Fixed(u)).norm(dim=1)
    torch.testing.assert_close(ball, (-2.0 * torch.log1p(-u)).sqrt(), rtol=1e-5, atol=2e-8)
    # E = 100 (x^2 - 1)^2, close to a Gaussian of variance 1/800 about each well; its next order is a shift of 3/1600
    well = en.DoubleWell(100.0, 1.0, dtype=F64)._sample(Fixed(1 - u)).abs().squeeze(1)
    exact = cdf(lambda t: -100.0 * (t * t - 1) ** 2, well, 0.5, 1.5)
    torch.testing.assert_close(exact, 1 - u, rtol=1e-4, atol=1e-13)


def test_uniforms_have_sixty_four_bits():
    draws = Draws(100, 7, 3, torch.empty(0).device)
    u = draws.uniform(2)
    words = ef.ops.bits_(torch.empty(100, 4, dtype=torch.int32), seed=7, purpose="init", chain_offset=3).tolist()
    wanted = [[((w[i] + 2**31) * 2**32 + w[i + 1] + 2**31) / 2**64 for i in (0, 2)] for w in words]
    torch.testing.assert_close(u, torch.tensor(wanted, dtype=F64), rtol=2**-52, atol=2**-60)
    assert not torch.equal(draws.uniform(2), u)


def test_log_z_and_draws_belong_together(exact_case):
    """d log Z / d theta = -E[dE / d theta], by 10^5 draws; 4.9 standard errors, Bonferroni over a few dozen numbers.

    The second half shows the power: draws of an energy whose parameters are 5 % larger are told apart.
    """
    energy = exact_case.make(trainable=True)
    draws = energy.sample(N, seed=11)

    def worst(draws):
        z = 0.0
        for p, slope in zip(energy.parameters(), expected):
            per_draw = torch.vmap(torch.func.jacrev(lambda q, x, p=p: value(q, p, x)), (None, 0))(p.detach(), draws)
            per_draw = per_draw.reshape(N, -1)
            spread = per_draw.std(0) / math.sqrt(N)
            gap = (per_draw.mean(0) + slope.reshape(-1)).abs()
            z = max(z, (gap / (spread + 1e-9)).max().item())
        return z

    def value(q, p, x):
        name = next(name for name, other in energy.named_parameters() if other is p)
        return torch.func.functional_call(energy, {name: q}, (x[None],)).squeeze(0)

    log_z = energy.log_z
    assert log_z.dtype is F64 and log_z.shape == ()
    expected = (
        torch.autograd.grad(log_z, list(energy.parameters()), allow_unused=True, materialize_grads=True)
        if log_z.requires_grad
        else [torch.zeros_like(p) for p in energy.parameters()]
    )
    assert worst(draws) < 5.7
    with torch.no_grad():
        for p in energy.parameters():
            p.mul_(1.05)
    off = energy.sample(N, seed=11)
    with torch.no_grad():
        for p in energy.parameters():
            p.div_(1.05)
    assert worst(off) > 5.7


def integral(energy, *sides):
    """log of the sum of exp(-E) over a uniform grid: exact to rounding for what is smooth and ends inside."""
    axes = [torch.linspace(low, high, count, dtype=F64) for low, high, count in sides]
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return torch.logsumexp(-energy(points), 0).item() + sum(math.log((axis[1] - axis[0]).item()) for axis in axes)


def test_log_z_against_integrals():
    f64 = {"dtype": F64}
    features, y = torch.randn(8, 2, dtype=F64), torch.randn(8, dtype=F64)
    wide = (-12.0, 12.0, 600)
    for energy, sides in [
        (en.Gaussian([0.5, -1.0], [[2.0, 0.8], [0.8, 1.0]], **f64), (wide, wide)),
        (en.Gaussian([0.5], variance=[0.3], **f64), (wide,)),
        (en.Gaussian(torch.zeros(2, dtype=F64), scale_tril=[[1.0, 0.0], [0.7, 0.5]], **f64), (wide, wide)),
        (en.GaussianMixture([[0.0, 0.0], [3.0, 1.0]], [0.5, 1.0], [1.0, 2.0], **f64), (wide, wide)),
        (en.DoubleWell(0.7, 1.2, **f64), (wide,)),
        (en.DoubleWell(2.0, 1.5, dim=2, **f64), (wide, wide)),
        (en.Rosenbrock(2, 0.3, 5.0, **f64), ((-4.5, 5.0, 700), (-3.0, 27.0, 900))),
        (en.Ring(2, 3.0, 0.4, **f64), (wide, wide)),
        (en.LinearRegression(features, y, 0.6, 0.5), ((-4.0, 4.0, 900), (-4.0, 4.0, 900))),
    ]:
        assert energy.log_z.item() == pytest.approx(integral(energy, *sides), abs=1e-9), repr(energy)


def test_log_z_where_the_plane_does_not_serve():
    f64 = {"dtype": F64}
    t = torch.linspace(-60.0, 6.0, 20_000, dtype=F64)[:, None]  # x = e^t
    gamma = en.Gamma([0.7], [2.0], **f64)
    assert gamma.log_z.item() == pytest.approx(
        torch.logsumexp(t[:, 0] - gamma(t.exp()), 0).item() + math.log((t[1] - t[0]).item()), abs=1e-9
    )
    v, y = torch.linspace(-9, 9, 400, dtype=F64), torch.linspace(-8, 8, 300, dtype=F64)
    grid = torch.cartesian_prod(v, y)  # x = y e^(v / 2)
    funnel = en.Funnel(2, 1.1, **f64)
    points = torch.stack((grid[:, 0], grid[:, 1] * (grid[:, 0] / 2).exp()), 1)
    area = math.log((v[1] - v[0]).item() * (y[1] - y[0]).item())
    assert funnel.log_z.item() == pytest.approx(torch.logsumexp(grid[:, 0] / 2 - funnel(points), 0).item() + area, abs=1e-9)
    for dim, radius, width in ((1, 2.0, 0.5), (1, 0.3, 2.0), (2, 0.3, 1.0), (3, 2.0, 0.5), (10, 1.0, 0.7), (200, 5.0, 0.5)):
        ring = en.Ring(dim, radius, width, **f64)
        r = torch.linspace(0.0, radius + width * (9.0 + math.sqrt(dim)), 400_001, dtype=F64)
        along = torch.zeros(len(r), dim, dtype=F64)
        along[:, -1] = r
        surface = math.log(2.0) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        weight = torch.ones_like(r)
        weight[1:-1:2], weight[2:-1:2] = 4.0, 2.0  # Simpson's rule
        density = torch.special.xlogy(dim - 1, r) - ring(along) + (weight / 3).log()
        total = surface + torch.logsumexp(density, 0).item() + math.log((r[1] - r[0]).item())
        assert ring.log_z.item() == pytest.approx(total, abs=1e-8)


def test_a_seed_is_a_draw(exact_case):
    """Draw i depends on seed and i alone: not on n, on the backend, or on the state of torch's generator."""
    energy = exact_case.energy
    x = energy.sample(40, seed=5)
    assert x.shape == (40, *energy.event_shape)
    torch.testing.assert_close(energy.sample(7, seed=5), x[:7], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy.sample(9, seed=5, chain_offset=20), x[20:29], rtol=1e-12, atol=1e-12)
    assert not torch.equal(energy.sample(40, seed=6), x)
    with ef.use_backend("reference"):
        torch.testing.assert_close(energy.sample(40, seed=5), x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(energy.float().sample(40, seed=5), x.float(), rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    first = energy.sample(4)
    torch.manual_seed(1)
    assert torch.equal(energy.sample(4), first) and not torch.equal(energy.sample(4), first)
    a, b = (torch.Generator().manual_seed(2) for _ in range(2))
    assert torch.equal(energy.sample(4, generator=a), energy.sample(4, generator=b))
    assert energy.sample(0, seed=1).shape == (0, *energy.event_shape)


def test_without_exact_sampler(inexact_case):
    energy = inexact_case.energy
    with pytest.raises(NotImplementedError, match=f"{type(energy).__name__} has no exact sampler"):
        energy.sample(3)
    with pytest.raises(NotImplementedError, match=f"{type(energy).__name__} has no closed form of log Z"):
        _ = energy.log_z


def test_errors_of_sample():
    energy = en.Gaussian(torch.zeros(2))
    with pytest.raises(TypeError, match="n must be an int, got float"):
        energy.sample(3.0)
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        energy.sample(-1)
    with pytest.raises(TypeError, match="seed must be an int, got str"):
        energy.sample(3, seed="0")
    with pytest.raises(ValueError, match="chain_offset must be in"):
        energy.sample(3, chain_offset=-1)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator"):
        energy.sample(3, generator=0)
