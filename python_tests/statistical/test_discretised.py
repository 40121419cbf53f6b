"""Samplers that accept every step are biased by the step size; on a Gaussian the law of the discretised chain is exactly known.

The updates are linear there, z' = A z + b + B noise with z = (x, v or p), so that mean and covariance after K steps follow from
a recursion in float64 that shares no code with the samplers. 10^5 chains tell moments to 0.5 % of a variance (one sd); tests have
a false-alarm rate of 1e-6, and a noise wrong by 5 % (10 % of its variance) fails them.
"""

from __future__ import annotations

import pytest
import torch
from statistical import faults
from torch import Tensor

import ebm_fast as ef
from ebm_fast.samplers import langevin, underdamped
from ebm_fast.testing import invariance_test, mcse_z_test

PRECISION = torch.tensor([0.3, 0.6, 1.0, 1.5, 2.0, 2.5], dtype=torch.float64)
MEAN = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
TARGET = ef.energies.Gaussian(MEAN.float(), precision=PRECISION.float())
START = torch.tensor([2.0, -1.0, 0.0, 0.5, 1.5, -2.0])
CHAINS = 100000


class Law:
    """Mean and covariance of (x, v) of each element: (d, 2), (d, 2, 2)."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance

    @classmethod
    def start(cls, momentum_variance: float = 0.0) -> Law:
        mean = torch.stack([START.double(), torch.zeros(6, dtype=torch.float64)], 1)
        covariance = torch.zeros(6, 2, 2, dtype=torch.float64)
        covariance[:, 1, 1] = momentum_variance
        return cls(mean, covariance)

    def move(self, matrix: Tensor, offset: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> None:
        """z <- matrix z + offset + noise. # (d, 2, 2), (d, 2), (d, 2, 2)"""
        self.mean = (matrix @ self.mean[:, :, None])[:, :, 0] + offset
        self.covariance = matrix @ self.covariance @ matrix.transpose(1, 2) + noise


def matrices(a: Tensor | float, b: Tensor | float, c: Tensor | float, d: Tensor | float) -> Tensor:
    """[[a, b], [c, d]] of each element. (6, 2, 2)"""
    rows = [torch.as_tensor(t, dtype=torch.float64).expand(6) for t in (a, b, c, d)]
    return torch.stack(rows, 1).view(6, 2, 2)


def langevin_law(sampler: ef.Langevin, steps: int, scale: Tensor | float = 1.0) -> Law:
    """x <- x + v', v' = m v - s P (a (x - mean) + p x), and sqrt(P) n z before or after."""
    law = Law.start()
    for k in range(steps):
        s = sampler.step_size(k) if callable(sampler.step_size) else sampler.step_size
        n = sampler.noise_std if sampler.noise_std is not None else (2 * s * sampler.temperature) ** 0.5
        pull = s * scale * (PRECISION + sampler.prior_precision)
        m = sampler.momentum
        push = s * scale * PRECISION * MEAN
        step = (matrices(1.0 - pull, m, -pull, m), torch.stack([push, push], 1))
        stir = (matrices(1.0, 0.0, 0.0, 1.0), 0.0, matrices(n * n * scale, 0.0, 0.0, 0.0))
        for move in ([step, stir] if sampler.order == "gradient" else [stir, step]):
            law.move(*move)
    return law


def baoab_law(step_size: float, friction: float, temperature: float, mass: Tensor | float, steps: int) -> Law:
    """B A O A B of a unit-mass momentum with sigma = sqrt of the inverse mass."""
    law = Law.start(temperature)
    sigma = torch.as_tensor(mass, dtype=torch.float64).sqrt().expand(6)
    half = 0.5 * step_size
    persistence = torch.exp(torch.tensor(-friction * step_size, dtype=torch.float64))
    push = torch.stack([torch.zeros(6, dtype=torch.float64), half * sigma * PRECISION * MEAN], 1)
    kick = (matrices(1.0, 0.0, -half * sigma * PRECISION, 1.0), push)
    drift = (matrices(1.0, half * sigma, 0.0, 1.0),)
    stir = (matrices(1.0, 0.0, 0.0, persistence), 0.0, matrices(0.0, 0.0, 0.0, (1.0 - persistence**2) * temperature))
    for _ in range(steps):
        for move in (kick, drift, stir, drift, kick):
            law.move(*move)
    return law


def check_law(x: Tensor, v: Tensor | None, law: Law):
    """First and second moments of independent chains # (n, 6), and that elements are independent of each other."""
    names = {"x": x} if v is None else {"x": x, "v": v}
    values, exact = [], []
    for k, z in enumerate(names.values()):
        d = z.double() - law.mean[:, k]
        values += [d, d.square(), d[:, :2] * d[:, 4:6], d[:, :-1] * d[:, 1:]]
        exact += [torch.zeros(6), law.covariance[:, k, k], torch.zeros(2), torch.zeros(5)]
    if v is not None:
        values.append((x.double() - law.mean[:, 0]) * (v.double() - law.mean[:, 1]))
        exact.append(law.covariance[:, 0, 1])
    return mcse_z_test(torch.cat(values, 1)[None], torch.cat([e.double() for e in exact]))


def run(sampler, steps, strategy="step"):
    return ef.sample(TARGET, sampler, START.expand(CHAINS, 6), num_steps=steps, seed=0, record=False, strategy=strategy)


LANGEVIN = {
    "one step": (ef.Langevin(0.2), 1),
    "unadjusted": (ef.Langevin(0.2), 12),
    "temperature": (ef.Langevin(0.2, temperature=2.5), 12),
    "decoupled noise": (ef.Langevin(0.3, noise_std=0.1), 12),
    "noise first": (ef.Langevin(0.2, order="noise"), 12),
    "prior": (ef.Langevin(0.2, prior_precision=0.5), 12),
    "heavy ball": (ef.Langevin(0.1, momentum=0.6), 15),
    "heavy ball, noise first": (ef.Langevin(0.1, momentum=0.6, order="noise"), 15),
    "schedule": (ef.Langevin(lambda age: 0.3 / (1 + age)), 12),
}


@pytest.mark.parametrize("strategy", ["step", "auto"])
@pytest.mark.parametrize("name", LANGEVIN)
def test_law_of_langevin_after_k_steps(name, strategy):
    sampler, steps = LANGEVIN[name]
    done = run(sampler, steps, strategy)
    result = check_law(done.final, done.state.extra.get("velocity"), langevin_law(sampler, steps)).check()
    assert result.detectable < 0.03  # sd of a test function: 4 % of a variance


def test_law_of_langevin_with_a_preconditioner():
    scale = torch.linspace(0.5, 2.0, 6)
    sampler = ef.Langevin(0.15, preconditioner=scale)
    check_law(run(sampler, 10).final, None, langevin_law(sampler, 10, scale.double())).check()


@pytest.mark.parametrize("fault", [{"scale": 1.05}, {"scale": 0.95}, {"reused": True}, {"step": 0}, {}], ids=str)
def test_wrong_noise_of_langevin(fault, monkeypatch):
    """5 % of scale, a block used twice, the same numbers in every step; and no fault, in the same stand-in."""
    faults.plant(monkeypatch, langevin, "langevin_step_", faults.langevin_noise(**fault))
    sampler = ef.Langevin(0.2)
    result = check_law(run(sampler, 12).final, None, langevin_law(sampler, 12))
    assert result.p_value < 1e-9 if fault else result.passed


@pytest.mark.parametrize("order", ["gradient", "noise"])
def test_stationary_law_and_autocorrelation(order):
    """A3, A14: variance n^2 / (s a (2 - s a)), times (1 - s a)^2 for noise first; autocorrelation (1 - s a)^t."""
    s, n, t = 0.3, 0.5, 4
    shrink = 1.0 - s * PRECISION
    variance = n * n / (s * PRECISION * (2.0 - s * PRECISION)) * (shrink.square() if order == "noise" else 1.0)
    sampler = ef.Langevin(s, noise_std=n, order=order)

    def exact(count):
        return (MEAN + variance.sqrt() * torch.randn(count, 6, dtype=torch.float64)).float()

    invariance_test((sampler, TARGET), exact, num_steps=t, n=20000).check()
    torch.manual_seed(1)
    before = exact(CHAINS)
    after = ef.sample(TARGET, sampler, before, num_steps=t, seed=2, record=False).final
    products = ((before - MEAN) * (after - MEAN))[None]
    mcse_z_test(products, variance * shrink**t).check()
    assert not mcse_z_test(products, variance * shrink ** (t + 1)).passed


def test_random_numbers_of_another_chain(monkeypatch):
    """Every mean is right where chains go in pairs; that they are not independent is what the kit sees."""
    s = 0.3
    variance = 2.0 * s / (s * PRECISION * (2.0 - s * PRECISION))

    def exact(count):
        return (MEAN + variance.sqrt() * torch.randn(count, 6, dtype=torch.float64)).float()

    faults.plant(monkeypatch, langevin, "langevin_step_", faults.langevin_noise(shared=True))
    result = invariance_test((ef.Langevin(s), TARGET, {"strategy": "step"}), exact, num_steps=4, n=4000)
    assert result.p_value < 1e-9
    assert result.worst()[0].name == "chains c, c + 1"


@pytest.mark.parametrize(
    ("step", "friction", "temperature", "steps"),
    [(0.4, 1.0, 1.0, 1), (0.4, 1.0, 1.0, 15), (0.8, 0.2, 0.5, 10), (0.5, 5.0, 2.0, 12)],
)
@pytest.mark.parametrize("mass", [None, torch.linspace(0.5, 1.5, 6)])
@pytest.mark.parametrize("strategy", ["step", "auto"])
def test_law_of_underdamped_dynamics_after_k_steps(step, friction, temperature, steps, mass, strategy):
    done = run(ef.UnderdampedLangevin(step, friction=friction, temperature=temperature, inverse_mass=mass), steps, strategy)
    law = baoab_law(step, friction, temperature, 1.0 if mass is None else mass, steps)
    assert check_law(done.final, done.state.extra["momentum"], law).check().detectable < 0.03


@pytest.mark.parametrize("fault", [{"scale": 1.05}, {"scale": 0.95}, {"reused": True}, {}], ids=str)
def test_wrong_noise_of_underdamped_dynamics(fault, monkeypatch):
    faults.plant(monkeypatch, underdamped, "baoab_", faults.baoab_noise(**fault))
    done = run(ef.UnderdampedLangevin(0.4, friction=1.0), 15)
    result = check_law(done.final, done.state.extra["momentum"], baoab_law(0.4, 1.0, 1.0, 1.0, 15))
    assert result.p_value < 1e-9 if fault else result.passed


def test_underdamped_positions_have_no_bias_on_a_gaussian():
    """A6: the stationary law of BAOAB's positions is the target's at any stable step, that of the momenta T (1 - e^2 a / 4)."""
    long = baoab_law(0.8, 1.0, 1.0, 1.0, 300)
    torch.testing.assert_close(long.covariance[:, 0, 0], 1.0 / PRECISION)
    torch.testing.assert_close(long.covariance[:, 1, 1], 1.0 - 0.8**2 * PRECISION / 4.0)
    invariance_test((ef.UnderdampedLangevin(0.8), TARGET), TARGET.sample, num_steps=30, n=20000).check()
    assert invariance_test((ef.Langevin(0.3), TARGET), TARGET.sample, num_steps=30, n=20000).p_value < 1e-9


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """-log of the target's density after a blur by noise of width sigma, up to a constant. # (n, 6), (n,)"""
    return 0.5 * ((x - MEAN.float()).square() / (1.0 / PRECISION.float() + sigma[:, None].square())).sum(1)


@pytest.mark.parametrize("denoise", [False, True])
def test_law_of_annealed_langevin(denoise):
    """A8: s_i = e (sigma_i / sigma_L)^2, T steps a level, and the last step removes the noise that is left."""
    sigmas, e, T = (2.0, 1.0, 0.5), 0.05, 4
    mean, variance = START.double(), torch.zeros(6, dtype=torch.float64)
    for sigma in sigmas:
        s, a = e * (sigma / sigmas[-1]) ** 2, 1.0 / (1.0 / PRECISION + sigma**2)
        for _ in range(T):
            mean, variance = MEAN + (1.0 - s * a) * (mean - MEAN), (1.0 - s * a).square() * variance + 2.0 * s
    if denoise:
        shrink = 1.0 - sigmas[-1] ** 2 / (1.0 / PRECISION + sigmas[-1] ** 2)
        mean, variance = MEAN + shrink * (mean - MEAN), shrink.square() * variance
    sampler = ef.AnnealedLangevin(sigmas, e, steps_per_level=T, denoise=denoise)
    done = ef.sample(blurred, sampler, START.expand(CHAINS, 6), num_steps=sampler.num_steps, seed=0, record=False)
    law = Law(torch.stack([mean, mean], 1), variance[:, None, None].expand(6, 2, 2))
    check_law(done.final, None, law).check()


def test_law_of_simulated_annealing():
    """A9: noise sqrt(2 s / beta_t)."""
    betas, s = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), 0.2
    mean, variance = START.double(), torch.zeros(6, dtype=torch.float64)
    for beta in betas:
        shrink = 1.0 - s * PRECISION
        mean, variance = MEAN + shrink * (mean - MEAN), shrink.square() * variance + 2.0 * s / beta
    law = Law(torch.stack([mean, mean], 1), variance[:, None, None].expand(6, 2, 2))
    check_law(run(ef.SimulatedAnnealing(ef.Langevin(s), betas), len(betas)).final, None, law).check()
