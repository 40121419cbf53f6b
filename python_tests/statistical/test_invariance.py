"""Every sampler that accepts and rejects leaves its target as it is; with a fault of 5 % planted, it does not.

Exact draws go in, the law after some steps is compared with further exact draws at a false-alarm rate of 1e-6 (ebm_fast.testing).
`detectable`, the shift of a test function's mean that is found with probability 0.99, is asserted: no test passes blindly.
"""

from __future__ import annotations

import copy

import pytest
import torch
from samplers.test_family import to_device
from statistical import faults

import ebm_fast as ef
from ebm_fast.engine import fused
from ebm_fast.ops.backend import native
from ebm_fast.samplers import hmc, metropolis, replica
from ebm_fast.testing import geweke_test, invariance_test, mcse_z_test, reversibility_test

E = ef.energies
DIM = 8


def correlated(dim: int = DIM) -> E.Gaussian:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))
    return E.Gaussian(torch.linspace(-1, 1, dim), covariance=root @ root.T / dim + 0.5 * torch.eye(dim))


def standard(dim: int) -> E.Gaussian:
    return E.Gaussian(torch.zeros(dim), precision=torch.ones(dim))


LECTURE = E.GaussianMixture([[-2.0], [4.0]], [1.0, 2.0], [0.6, 0.4])  # 3 exp(-(x + 2)^2 / 2) + exp(-(x - 4)^2 / 8)
MODES = E.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.5]], [0.6, 0.8, 0.7], [0.5, 0.3, 0.2])
BANANA = E.Rosenbrock(3, b=5.0)
GAMMA = E.Gamma([3.0, 1.5], [1.0, 2.0])
DIAGONAL = torch.linspace(0.5, 1.5, DIM)
DENSE = torch.eye(DIM) + 0.3 * torch.ones(DIM, DIM)


def multiplicative(x, noise):
    """x' = x exp(0.5 z); the ratio of the proposal densities is prod x' / x."""
    y = 0.5 * noise.normal()
    return x * y.exp(), y.sum(-1)


def leaning(x, noise):
    """A proposal that pulls towards 0, with the ratio of its densities."""
    proposal = 0.8 * x + 0.7 * noise.normal()
    return proposal, ((proposal - 0.8 * x).square() - (x - 0.8 * proposal).square()).sum(-1) / (2 * 0.7**2)


INVARIANT = {
    "random walk": (ef.RandomWalkMetropolis(2.5), LECTURE, 12),
    "random walk, scaled": (ef.RandomWalkMetropolis(0.8, scale=DIAGONAL), correlated(), 12),
    "random walk, funnel": (ef.RandomWalkMetropolis(0.8), E.Funnel(4), 12),
    "metropolis-hastings": (ef.MetropolisHastings(multiplicative), GAMMA, 8),
    "metropolis-hastings, leaning": (ef.MetropolisHastings(leaning), MODES, 8),
    "independence": (ef.IndependenceMetropolis.gaussian(0.0, 2.5), MODES, 4),
    "independence, wells": (ef.IndependenceMetropolis.gaussian(0.0, 1.2), E.DoubleWell(1.5, 1.0, dim=2), 4),
    "mala": (ef.MALA(0.15), MODES, 12),
    "mala, banana": (ef.MALA(0.03), BANANA, 20),
    "mala, diagonal": (ef.MALA(0.3, preconditioner=DIAGONAL), correlated(), 12),
    "mala, dense": (ef.MALA(0.3, preconditioner=DENSE), correlated(), 12),
    "mala, one step size per chain": (ef.MALA(torch.linspace(0.05, 0.4, 6000)), MODES, 12),
    "hmc": (ef.HMC(0.5, 4), correlated(), 4),
    "hmc, ring": (ef.HMC(0.15, 6), E.Ring(3, radius=2.0, width=0.3), 5),
    "hmc, banana": (ef.HMC(0.15, 5), BANANA, 6),
    "hmc, funnel": (ef.HMC(0.5, 3), E.Funnel(5), 6),
    "hmc, wells": (ef.HMC(0.3, 4), E.DoubleWell(2.0, 1.0, dim=3), 5),
    "hmc, edge": (ef.HMC(0.3, 4), GAMMA, 6),  # leapfrog steps beyond x = 0 have infinite energy
    "hmc, diagonal": (ef.HMC(0.5, 3, inverse_mass=DIAGONAL), correlated(), 4),
    "hmc, dense": (ef.HMC(0.5, 3, inverse_mass=DENSE), correlated(), 4),
    "hmc, jitter": (ef.HMC(0.5, 5, leapfrog_jitter=True, step_jitter=0.5), correlated(), 5),
    "hmc, scheduled steps": (ef.HMC(lambda age: 0.2 + 0.2 * (age % 3), 3), MODES, 6),
    "ghmc": (ef.GHMC(0.6, friction=0.5), correlated(), 15),
    "ghmc, diagonal": (ef.GHMC(0.5, num_leapfrog=2, inverse_mass=DIAGONAL), correlated(), 12),
    "ghmc, modes": (ef.GHMC(0.4, friction=1.5), MODES, 15),
}


def run_case(sampler, target, steps, strategy="step", **how):
    """The steps one by one, since faults are planted in their ops."""
    return invariance_test((sampler, target, {"strategy": strategy}), target.sample, num_steps=steps, **how)


def fusible(sampler, target):
    return not fused.why_not(target, sampler, target.sample(6000, seed=0), None, None)


FUSED = [name for name, (sampler, target, _) in INVARIANT.items() if fusible(sampler, target)]


def test_most_chains_run_whole():
    assert native() is None or len(FUSED) > len(INVARIANT) // 2


@pytest.mark.parametrize(
    ("name", "strategy"), [(name, "step") for name in INVARIANT] + [(name, "fused") for name in FUSED]
)
def test_targets_are_invariant(name, strategy):
    sampler, target, steps = INVARIANT[name]
    assert run_case(sampler, target, steps, strategy, n=6000).check().detectable < 0.13


@pytest.mark.parametrize("name", ["random walk, scaled", "metropolis-hastings", "mala, banana", "hmc, ring", "hmc, dense"])
def test_targets_are_invariant_on_the_device(name, device):
    """In the strategy that is taken there."""
    sampler, target, steps = INVARIANT[name]
    sampler, target = to_device(sampler, device), copy.deepcopy(target).to(device)
    invariance_test((sampler, target), target.sample, num_steps=steps, n=6000).check()


@pytest.mark.parametrize("sampler", [ef.RandomWalkMetropolis(0.8, temperature=2.0), ef.MALA(0.3, temperature=2.0),
                                     ef.HMC(0.6, 3, temperature=2.0), ef.GHMC(0.6, temperature=2.0),
                                     ef.SimulatedAnnealing(ef.HMC(0.6, 3), lambda age: 0.5)])  # fmt: skip
def test_temperatures(sampler):
    """exp(-E / 2) of a Gaussian is one of twice the covariance."""
    cold, hot = correlated(), E.Gaussian(correlated().mean, covariance=2.0 * torch.linalg.inv(correlated().precision))
    for strategy in ("auto", "step"):
        kernel = (sampler, cold, {"strategy": strategy})
        assert invariance_test(kernel, hot.sample, num_steps=8, n=6000).check().detectable < 0.13
    assert not invariance_test((sampler, cold), cold.sample, num_steps=8, n=6000).passed


@pytest.mark.parametrize("event", [(3, 4, 4), (1,), (1001,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_and_other_events(event, dtype):
    """1001 elements: several tiles, a last block that is not full."""
    target = standard(torch.Size(event).numel())
    invariance_test(
        (ef.HMC(0.3, 3), target), lambda n, seed: target.sample(n, seed=seed).to(dtype).view(n, *event), num_steps=2, n=600
    ).check()


@pytest.mark.parametrize("inner", [ef.HMC(0.5, 3), ef.RandomWalkMetropolis(0.8), ef.MALA(0.2), ef.GHMC(0.5)])
@pytest.mark.parametrize("strategy", ["step", "auto"])
def test_all_replicas_keep_their_temperatures(inner, strategy):
    """Replica j of a Gaussian starts, and stays, at covariance 1 / beta_j, and independent of the others at each time."""
    betas = (1.0, 0.6, 0.3, 0.15)
    sampler, target = ef.ReplicaExchange(inner, betas), standard(3)
    root = torch.tensor(betas).rsqrt()[:, None]

    def kernel(x):
        state = sampler.init(target, x[:, 0].contiguous(), 77)
        state.x.copy_(x)
        run = ef.sample(target, sampler, resume=state, num_steps=12, record=False, strategy=strategy)
        assert run.stats.swap_acceptance.min() > 0
        return run.state.x

    def energies(x):
        return target(x.reshape(-1, 3)).view(-1, 4).sum(1)

    invariance_test(kernel, lambda n: root * torch.randn(n, 4, 3), num_steps=1, n=6000, energy=energies).check()


@pytest.mark.parametrize("name", ["random walk", "mala, banana", "hmc, ring", "hmc, diagonal", "metropolis-hastings"])
def test_reversible(name):
    sampler, target, _ = INVARIANT[name]
    assert reversibility_test((sampler, target), target.sample, n=6000).check().detectable < 0.12


def test_ghmc_is_not_reversible_with_its_momentum():
    """A momentum that persists makes (x, p) turn one way, as time reversal shows; the joint law is invariant all the same."""
    target = standard(1)
    run = ef.GHMC(0.3, friction=0.01, num_leapfrog=3)

    def phase(state):
        return torch.cat([state.x, state.extra["momentum"]], 1)

    def kernel(z):
        state = run.init(target, z[:, :1].contiguous(), 3)
        state.extra["momentum"] = z[:, 1:].contiguous()
        return phase(ef.sample(target, run, resume=state, num_steps=1, record=False).state)

    draw = standard(2).sample
    invariance_test(kernel, draw, num_steps=1, n=6000).check()
    assert reversibility_test(kernel, draw, n=6000).p_value < 1e-9


def conditional(theta, y):
    """-log of N(theta; 0, 1) prod_j N(y_j; theta_j, 0.5^2)."""
    return 0.5 * theta.square().sum(1) + 2.0 * (y - theta).square().sum(1)


@pytest.mark.parametrize("energy", [conditional, lambda theta, y: conditional(theta, y) - 0.05 * theta.square().sum(1)])
def test_geweke_of_hmc_on_a_conditional_energy(energy):
    """Prior, data and posterior in turn; a prior with 90 % of its precision is caught."""
    turn = iter(range(1000))

    def successive(theta, y):
        run = ef.sample(energy, ef.HMC(0.25, 3), theta, num_steps=1, condition={"y": y}, seed=5, step=next(turn), record=False)
        return run.final, run.final + 0.5 * torch.randn_like(y)

    def joint(n):
        theta = torch.randn(n, 4)
        return theta, theta + 0.5 * torch.randn(n, 4)

    result = geweke_test(joint, successive, num_steps=25, n=6000)
    assert result.passed == (energy is conditional)
    assert energy is conditional or result.p_value < 1e-9


# What follows plants a fault of stated size and asks the kit to find it. n is what the size of the fault needs.

WIDE = standard(20)
BIG_STEPS = {  # many rejections: only there does a wrong ratio matter
    "random walk": ef.RandomWalkMetropolis(0.5),
    "mala": ef.MALA(0.5),
    "hmc": ef.HMC(1.3, 3),
    "ghmc": ef.GHMC(1.2, num_leapfrog=2),
    "hmc, dense": ef.HMC(1.25, 2, inverse_mass=torch.eye(20) + 0.02 * torch.ones(20, 20)),
    "metropolis-hastings": ef.MetropolisHastings(leaning),
    "independence": ef.IndependenceMetropolis.gaussian(0.0, 1.4),
    "annealing": ef.SimulatedAnnealing(ef.RandomWalkMetropolis(0.5), (1.0,) * 20),
}


@pytest.mark.parametrize("name", BIG_STEPS)
@pytest.mark.parametrize("factor", [0.95, 1.0, 1.05])
def test_an_acceptance_ratio_wrong_by_five_percent(name, factor, monkeypatch):
    for module in (hmc, metropolis):
        faults.plant(monkeypatch, module, "metropolis_", faults.accept_ratio(ef.ops.metropolis_, factor))
    n = 20000 if factor == 1.0 else 60000  # the stand-in alone is no fault; p < 1e-14 of the faults
    result = run_case(BIG_STEPS[name], WIDE, 20, n=n, reference=1, functions={"energy": WIDE})
    assert result.passed if factor == 1.0 else result.p_value < 1e-9, str(result)


@pytest.mark.parametrize("name", ["random walk", "mala", "hmc", "ghmc"])
@pytest.mark.parametrize("factor", [0.95, 1.0, 1.05])
def test_a_temperature_wrong_by_five_percent_in_native_code(name, factor, monkeypatch):
    chain = fused.chain_

    def chain_(*args, beta=1.0, **how):
        return chain(*args, beta=factor * beta, **how)

    monkeypatch.setattr(fused, "chain_", chain_)
    if native() is None:
        pytest.skip("no native code in this installation")
    result = run_case(BIG_STEPS[name], WIDE, 20, "fused", n=30000, reference=1, functions={"energy": WIDE})
    assert result.passed if factor == 1.0 else result.p_value < 1e-9, str(result)


@pytest.mark.parametrize("name", ["mala", "hmc", "ghmc"])
@pytest.mark.parametrize(
    ("fault", "worst"),
    [
        ({}, None),
        ({"scale": 1.05}, "sum of squares"),
        ({"scale": 0.95}, "sum of squares"),
        ({"reused": True}, "sum of products of elements 4 apart"),
        ({"shared": True}, "chains c, c + 1"),
        ({"step": 0}, "energy"),
    ],
    ids=str,
)
def test_wrong_momenta(name, fault, worst, monkeypatch):
    """Scale wrong by 5 %, a block used twice in an event, one chain's numbers used by another, one step's in all."""
    faults.plant(monkeypatch, hmc, "propose_", faults.momentum(**fault))
    result = run_case(BIG_STEPS[name], WIDE, 12, n=10000, reference=2)
    if worst is None:
        result.check()
    else:
        assert result.p_value < 1e-9, str(result)
        assert worst in {c.name for c in result.worst(3)}


def test_a_walk_with_a_block_used_twice(monkeypatch):
    """Symmetric still, so the target stays invariant; but the walk moves in a diagonal subspace and never leaves it."""
    target = standard(DIM)
    functions, exact = {"(x0 - x4)^2": lambda x: (x[:, 0] - x[:, 4]).square()}, {"(x0 - x4)^2": 2.0}

    def test():
        run = ef.sample(target, ef.RandomWalkMetropolis(0.8), torch.zeros(200, DIM), num_steps=600, warmup=200, seed=0,
                        strategy="step")  # fmt: skip
        assert run.strategy == "step"
        return mcse_z_test(run, exact, functions)

    assert test().check().detectable < 0.3
    faults.plant(monkeypatch, metropolis, "propose_", faults.momentum(reused=True))
    assert test().p_value < 1e-9
    run_case(ef.RandomWalkMetropolis(0.8), target, 10, n=6000).check()


@pytest.mark.parametrize(
    ("sampler", "target"),
    [
        (ef.MetropolisHastings(lambda x, noise: multiplicative(x, noise)[0]), GAMMA),
        (ef.MetropolisHastings(lambda x, noise: leaning(x, noise)[0]), MODES),
        (ef.IndependenceMetropolis(lambda noise: 2.5 * noise.normal(), lambda x: torch.zeros(x.shape[0])), MODES),
    ],
)
def test_a_missing_hastings_correction(sampler, target):
    assert run_case(sampler, target, 8, n=6000).p_value < 1e-9


def test_momenta_that_are_not_turned_on_rejection(monkeypatch):
    sampler = ef.GHMC(1.2, friction=0.02, num_leapfrog=2)
    run_case(sampler, WIDE, 20, n=6000).check()
    faults.plant(monkeypatch, hmc, "metropolis_", faults.no_flip(ef.ops.metropolis_))
    assert run_case(sampler, WIDE, 20, n=6000).p_value < 1e-9


def test_swaps_with_wrong_temperatures(monkeypatch):
    """Swaps decided with differences of temperatures wrong by 5 %. Steps that hardly move leave the law to the swaps."""
    sampler, target = ef.ReplicaExchange(ef.RandomWalkMetropolis(0.05), (1.0, 0.7)), standard(20)
    root = torch.tensor([1.0, 0.7]).rsqrt()[:, None]

    def draw(n):
        return root * torch.randn(n, 2, 20)

    def kernel(x):
        state = sampler.init(target, x[:, 0].contiguous(), 77)
        state.x.copy_(x)
        return ef.sample(target, sampler, resume=state, num_steps=8, record=False).state.x

    def test():
        above = {"cold above hot": lambda x: (target(x[:, 0]) > target(x[:, 1])).to(x.dtype)}
        return invariance_test(kernel, draw, num_steps=1, n=200000, reference=1, functions=above)

    test().check()
    true = replica.swap_
    monkeypatch.setattr(replica, "swap_", lambda x, e, betas, **how: true(x, e, 0.95 * betas, **how))
    assert test().p_value < 1e-9
