"""Strategy `fused`: the same chain as `step` and `reference` for every sampler and analytic energy, and what it refuses."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.engine import fused as fused_strategy
from ebm_fast.ops.backend import why_not

pytestmark = pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
E = ef.energies


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def energies() -> dict:
    root = normal(5, 5, seed=1)
    covariance = root @ root.T / 5 + 0.5 * torch.eye(5)
    labels = (normal(20, seed=2) > 0).float()
    schools = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
    return {
        "gaussian": E.Gaussian(normal(5), variance=0.5 + normal(5).square()),
        "dense gaussian": E.Gaussian(normal(5), covariance=covariance),
        "mixture": E.GaussianMixture(normal(4, 3), 0.8, torch.tensor([0.1, 0.2, 0.3, 0.4])),
        "gamma": E.Gamma(torch.tensor([2.0, 5.0]), torch.tensor([1.0, 3.0])),
        "double well": E.DoubleWell(),
        "rosenbrock": E.Rosenbrock(3, 1.0, 5.0),
        "funnel": E.Funnel(4),
        "ring": E.Ring(2, 2.0, 0.5),
        "phi four": E.PhiFour((4, 3), 0.5, 0.3),
        "linear regression": E.LinearRegression(normal(20, 4), normal(20), 0.7, 1.0),
        "logistic regression": E.LogisticRegression(normal(20, 4), labels, 1.0),
        "eight schools": E.EightSchools(*schools),
        "mlp": mlp(),
    }


def mlp() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return E.MLPEnergy((2, 2), (24, 16), "silu")


def start(energy, n: int = 21) -> Tensor:
    x = normal(n, *energy.event_shape, seed=3)
    return x.exp() + 0.5 if isinstance(energy, E.Gamma) else x


def spread(energy) -> Tensor:
    return torch.linspace(0.5, 1.5, energy.dim).view(energy.event_shape)


def samplers(energy) -> dict:
    diagonal, ladder = spread(energy), ef.ReplicaExchange.ladder(3, 0.3)
    return {
        "langevin": ef.Langevin(0.01),
        "noise first": ef.Langevin(0.01, 0.05, order="noise", grad_clip=2.0, clamp=(-3.0, 4.0), clamp_after="both"),
        "heavy ball": ef.Langevin(0.005, momentum=0.5, grad_clip_norm=3.0, prior_precision=0.1, preconditioner=diagonal),
        "schedule": ef.Langevin(lambda age: 0.01 / (1 + age), temperature=tuple(1.0 / (1 + k) for k in range(40))),
        "per chain": ef.Langevin(0.002 + 0.01 * torch.rand(21, generator=torch.Generator().manual_seed(1))),
        "random walk": ef.RandomWalkMetropolis(0.2, temperature=1.5, scale=diagonal),
        "mala": ef.MALA(0.02, preconditioner=diagonal),
        "hmc": ef.HMC(0.08, 4, inverse_mass=diagonal, temperature=2.0),
        "hmc, jitter": ef.HMC(0.08, 5, leapfrog_jitter=True, step_jitter=0.3),
        "ghmc": ef.GHMC(0.05, friction=0.8, num_leapfrog=2),
        "underdamped": ef.UnderdampedLangevin(0.05, inverse_mass=diagonal, temperature=0.7),
        "annealing": ef.SimulatedAnnealing.geometric(ef.HMC(0.05, 2), 40, 0.5, 5.0),
        "replicas": ef.ReplicaExchange(ef.HMC(0.08, 2), ladder),
        "replicas of langevin": ef.ReplicaExchange(ef.Langevin(0.01), ladder, swap_every=3),
    }


KINDS, MOVES = tuple(energies()), tuple(samplers(E.Ring()))


def assert_agree(fused: ef.engine.Run, other: ef.engine.Run, tolerance: float = 1e-5) -> None:
    far = (fused.samples - other.samples).abs() / (1 + other.samples.abs())
    assert far.max().item() <= tolerance
    for name in ("energy", "grad_norm", "acceptance", "divergences", "divergence_step", "hamiltonian", "swap_acceptance"):
        mine, theirs = getattr(fused.stats, name), getattr(other.stats, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert mine.dtype == theirs.dtype, name
            torch.testing.assert_close(mine, theirs, rtol=3e-5, atol=1e-4)
    assert fused.state.extra.keys() == other.state.extra.keys()
    for name, t in fused.state.extra.items():
        torch.testing.assert_close(t, other.state.extra[name], rtol=1e-4, atol=3e-4)
    assert (fused.state.step, fused.state.age) == (other.state.step, other.state.age)


@pytest.mark.parametrize("move", [m for m in MOVES if m != "per chain"])
@pytest.mark.parametrize("kind", ["mixture", "logistic regression", "linear regression", "mlp"])
def test_a_split_batch_is_the_whole_bit_for_bit(kind, move):
    """Torch's own products depend on the batch in the last place; what native code starts from must not."""
    energy = energies()[kind]
    sampler, x = samplers(energy)[move], start(energy, 777)
    options = {"num_steps": 12, "seed": 5, "record": False}
    whole = ef.sample(energy, sampler, x, **options)
    parts = [ef.sample(energy, sampler, x[a:b], chain_offset=a, **options) for a, b in ((0, 1), (1, 50), (50, 777))]
    assert whole.strategy == "fused"
    assert torch.equal(torch.cat([part.final for part in parts]), whole.final)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_on_every_energy_is_the_chain_of_the_other_strategies(kind, move):
    energy = energies()[kind]
    sampler = samplers(energy)[move]
    options = {"num_steps": 20, "warmup": 4, "seed": 5, "chain_offset": 7}
    fused = ef.sample(energy, sampler, start(energy), **options)
    assert fused.strategy == "fused"
    assert_agree(fused, ef.sample(energy, sampler, start(energy), strategy="step", **options))
    if kind in ("mixture", "funnel"):
        assert_agree(fused, ef.sample(energy, sampler, start(energy), strategy="reference", **options))


@pytest.mark.parametrize("move", MOVES)
def test_thinned_resumed_and_averaged_runs_see_the_same_chain(move):
    energy = energies()["dense gaussian"]
    sampler = samplers(energy)[move]
    options = {"seed": 5, "strategy": "fused"}
    whole = ef.sample(energy, sampler, start(energy), num_steps=24, **options)
    assert torch.equal(ef.sample(energy, sampler, start(energy), num_steps=24, thin=5, **options).samples, whole.samples[4::5])
    quiet = ef.sample(energy, sampler, start(energy), num_steps=24, record=False, record_energy=False, moments=True, **options)
    assert torch.equal(quiet.final, whole.final)
    torch.testing.assert_close(quiet.stats.mean, whole.samples.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quiet.stats.variance, whole.samples.var(0), rtol=1e-3, atol=1e-5)
    first = ef.sample(energy, sampler, start(energy), num_steps=9, **options)
    rest = ef.sample(energy, sampler, num_steps=15, resume=first.state, strategy="fused")
    assert torch.equal(torch.cat((first.samples, rest.samples)), whole.samples)
    torch.testing.assert_close(torch.cat((first.stats.energy, rest.stats.energy)), whole.stats.energy, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("adapt", "warmup"),
    [(ef.Adaptation(), 6), (ef.Adaptation(mass="diagonal", step_size=False), 40), (ef.Adaptation(per_chain=True), 6),
     (ef.ChEES(), 8)],
    ids=["step size", "mass", "per chain", "chees"],
)  # fmt: skip
def test_a_warm_up_adapts_as_step_by_step_and_resumes(adapt, warmup):
    """Short: with the large steps that adaptation tries, rounding grows tenfold in some ten proposals."""
    energy = energies()["dense gaussian"]
    sampler = ef.HMC(0.05, 4, adapt=adapt)
    options = {"num_steps": 4, "warmup": warmup, "seed": 5}
    fused = ef.sample(energy, sampler, start(energy), **options)
    assert fused.strategy == "fused"
    step = ef.sample(energy, sampler, start(energy), strategy="step", **options)
    assert fused.stats.adapted.keys() == step.stats.adapted.keys()
    for name, value in fused.stats.adapted.items():
        torch.testing.assert_close(value, step.stats.adapted[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(fused.samples, step.samples, rtol=1e-3, atol=1e-3)
    halfway = ef.sample(energy, sampler, start(energy), num_steps=0, warmup=warmup, seed=5)
    again = ef.sample(energy, sampler, num_steps=4, resume=halfway.state)
    assert torch.equal(again.samples, fused.samples)
    state = sampler.init(energy, start(energy), seed=5, warmup=warmup)
    transition = fused_strategy.transition(ef.engine.EnergyFunction(energy), sampler, state, energy.descriptor(),
                                             backend=None, guard=True, track=True)  # fmt: skip
    transition.advance(warmup // 2)
    assert state.adapting
    again = ef.sample(energy, sampler, num_steps=4, resume=ef.ChainState.from_state_dict(state.state_dict()))
    assert again.strategy == "fused"
    assert torch.equal(again.samples, fused.samples)


def test_drop_in_takes_the_fused_path_and_agrees():
    energy = energies()["mixture"]
    options = {"num_steps": 30, "step_size": 0.05, "seed": 2, "clamp": (-2.0, 2.0)}
    x = ef.langevin_(start(energy), energy, strategy="fused", **options)
    torch.testing.assert_close(x, ef.langevin_(start(energy), energy, strategy="step", **options), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, ef.langevin_(start(energy), energy, **options))


def test_diverging_chains_freeze_stop_or_spread_as_step_by_step():
    energy, x0 = E.DoubleWell(), normal(9, 1, seed=1)
    x0[::3] = 40.0
    sampler = ef.Langevin(0.01)
    for policy in ("freeze", "stop", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fused, step = (
                ef.sample(energy, sampler, x0, num_steps=20, seed=1, on_divergence=policy, strategy=s) for s in ("fused", "step")
            )
        assert fused.num_steps == step.num_steps
        assert torch.equal(fused.stats.divergence_step, step.stats.divergence_step)
        assert torch.equal(fused.stats.diverged[::3], torch.full((3,), policy != "ignore"))
        assert torch.equal(torch.isfinite(fused.final), torch.isfinite(step.final))
        fine = ~fused.stats.diverged & torch.isfinite(fused.final[:, 0])
        torch.testing.assert_close(fused.final[fine], step.final[fine], rtol=1e-5, atol=1e-5)


def test_parameters_are_read_at_every_call():
    energy = E.Gaussian(torch.zeros(2), variance=torch.ones(2), trainable=True)
    sampler, x0 = ef.Langevin(0.5, noise_std=0.0), torch.ones(3, 2)
    before = ef.sample(energy, sampler, x0, num_steps=1, seed=0)
    assert before.strategy == "fused"
    with torch.no_grad():
        energy.mean.add_(10.0)
    after = ef.sample(energy, sampler, x0, num_steps=1, seed=0)
    torch.testing.assert_close(before.final, torch.full((3, 2), 0.5))
    torch.testing.assert_close(after.final, torch.full((3, 2), 5.5))


def test_empty_batches_and_no_steps():
    energy = E.Ring()
    assert ef.sample(energy, ef.HMC(0.1, 2), torch.zeros(0, 2), num_steps=3, seed=1).samples.shape == (3, 0, 2)
    nothing = ef.sample(energy, ef.HMC(0.1, 2), torch.ones(4, 2), num_steps=0, seed=1)
    assert torch.equal(nothing.final, torch.ones(4, 2))
    assert nothing.strategy == "fused"
    adaptive = ef.HMC(0.1, 2, adapt=ef.Adaptation(mass="diagonal"))
    assert ef.sample(energy, adaptive, torch.zeros(0, 2), num_steps=3, warmup=200, seed=1).stats.adapted == {}


class Steeper(E.Ring):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class Doubled(E.DoubleWell):
    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        h, s, f = super()._constants(dtype)
        return 2.0 * h, s, 2.0 * f


def test_what_cannot_be_fused_says_why_and_runs_otherwise():
    ring, x0 = E.Ring(), torch.ones(4, 2)
    hmc = ef.HMC(0.1, 2)
    hooked = E.Ring()
    hooked.register_forward_hook(lambda *args: None)
    scaled = E.MLPEnergy(2, (8,))
    scaled.layers[0].register_full_backward_hook(lambda module, into, out: (2.0 * into[0],))
    patched = E.Ring()
    patched.energy_and_grad = lambda x: (x.sum(1), torch.ones_like(x))
    proposal = ef.MetropolisHastings(lambda x, noise: x + noise.normal())
    cases = [
        (lambda x: x.square().sum(1), hmc, x0, {}, "no descriptor"),
        (Steeper(), hmc, x0, {}, r"Steeper defines forward\(\) anew"),
        (Doubled(), hmc, x0[:, :1], {}, r"Doubled defines _constants\(\) anew"),
        (hooked, hmc, x0, {}, "the energy has hooks"),
        (scaled, hmc, x0, {}, "the energy has hooks"),
        (patched, hmc, x0, {}, r"energy_and_grad\(\) is defined anew on this instance"),
        (ring, hmc, x0.double(), {}, "computes in float32, x has dtype float64"),
        (ring, hmc, x0, {"backend": "reference"}, "no whole-chain code of backend 'reference'"),
        (ring, proposal, x0, {}, "MetropolisHastings has no whole-chain form"),
        (ring, ef.HMC(0.1, 2, inverse_mass=torch.eye(2)), x0, {}, "dense mass"),
        (ring, ef.HMC(0.1, 2, adapt=ef.Adaptation(mass="dense")), x0, {}, "dense mass"),
        (ring, ef.ReplicaExchange(proposal, (1.0, 0.5)), x0, {}, "MetropolisHastings has no whole-chain form"),
    ]
    for energy, sampler, x, options, words in cases:
        with pytest.raises(ValueError, match=f"strategy='fused' cannot run this chain: .*{words}"):
            ef.sample(energy, sampler, x, num_steps=2, seed=1, strategy="fused", **options)
        assert ef.sample(energy, sampler, x, num_steps=2, seed=1, **options).strategy == "step"
    with pytest.raises(ValueError, match="a condition"):
        ef.sample(ring, hmc, x0, num_steps=2, seed=1, strategy="fused", condition={"y": x0})


def test_gradients_cost_nothing_in_python(monkeypatch):
    """Which path ran: the module is asked once, for the start."""
    energy, calls = E.Ring(), []
    original = E.Ring.energy_and_grad

    def counted(self, x):
        calls.append(x.shape)
        return original(self, x)

    monkeypatch.setattr(E.Ring.__mro__[1], "energy_and_grad", counted)
    run = ef.sample(energy, ef.HMC(0.1, 3), torch.ones(4, 2), num_steps=50, warmup=10, seed=1)
    assert run.strategy == "fused"
    assert len(calls) == 1


def test_few_chains_are_stepped_through_large_products_unless_asked_otherwise():
    """Lanes without a chain would multiply too; where a chain has the lanes to itself, whole chains are always taken."""
    product = E.LogisticRegression(normal(3, 1024), torch.tensor([0.0, 1.0, 1.0]))
    large = E.LogisticRegression(normal(2049, 1024), (normal(2049) > 0).float())
    mixture = E.GaussianMixture(normal(65, 1024), 1.0, torch.full((65,), 1 / 65))
    sampler = ef.Langevin(0.001)
    for energy, n, strategy, ran in (
        (product, 3, "auto", "step"), (product, 4, "auto", "fused"), (product, 2, "fused", "fused"), (large, 64, "auto", "step"),
        (mixture, 1, "auto", "step"), (mixture, 2, "auto", "fused"), (E.PhiFour((32, 32)), 1, "auto", "fused"),
    ):  # fmt: skip
        x0 = normal(n, *energy.event_shape)
        assert ef.sample(energy, sampler, x0, num_steps=2, seed=1, strategy=strategy).strategy == ran


def test_streaming_moments_of_a_long_run_keep_the_variance():
    """8 10^7 states, some 2 10^7 of them independent, so the variance has an error of 3 10^-4; sums in float32 alone are off by
    8 10^-3. Blocks are the same however the run was cut."""
    energy, x0 = E.Gaussian(torch.tensor([3.0]), variance=torch.tensor([1.0])), torch.full((16, 1), 3.0)
    run = ef.sample(energy, ef.RandomWalkMetropolis(2.4), x0, num_steps=5_000_000, record=False, moments=True, seed=1)
    assert run.strategy == "fused"
    assert abs(run.stats.mean.mean() - 3.0) < 1.6e-3
    assert abs(run.stats.variance.mean() - 1.0) < 1.6e-3
    short = {"num_steps": 40_000, "seed": 1, "moments": True}
    whole = ef.sample(energy, ef.RandomWalkMetropolis(2.4), x0, **short)
    thinned = ef.sample(energy, ef.RandomWalkMetropolis(2.4), x0, thin=700, **short)
    assert torch.equal(whole.stats.mean, thinned.stats.mean)
    assert torch.equal(whole.stats.variance, thinned.stats.variance)
    torch.testing.assert_close(whole.stats.variance, whole.samples.double().var(0).float(), rtol=1e-5, atol=0)
