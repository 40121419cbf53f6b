"""Schedules, states of other samplers and own loops: what is refused, what is drawn anew, what is the same."""

from __future__ import annotations

import pytest
import torch
from samplers.family import NAMES, Counting, adaptive, blurred, bowl, family

import ebm_fast as ef

ADAPTIVE = pytest.mark.parametrize("name", tuple(adaptive()))


def start(n: int = 5, event: tuple[int, ...] = (3,)) -> torch.Tensor:
    return ef.ops.normal_(torch.empty((n, *event)), seed=11)


@pytest.mark.parametrize(
    ("sampler", "energy"),
    [
        (ef.HMC((0.1,) * 30, 2), bowl), (ef.MALA(0.1, temperature=(1.0,) * 30), bowl),
        (ef.AnnealedLangevin((1.0, 0.5, 0.2), 0.01, 10), blurred),
        (ef.SimulatedAnnealing.geometric(ef.MALA(0.1), 30, 1.0, 9.0), bowl),
        (ef.ReplicaExchange(ef.HMC((0.1,) * 30, 2), (1.0, 0.5)), bowl),
    ],
    ids=["step sizes", "temperatures", "ladder", "annealing", "replicas"],
)  # fmt: skip
def test_a_schedule_that_is_too_short_is_noticed_before_the_run(sampler, energy):
    counted = Counting(energy)
    assert ef.sample(counted, sampler, start(), warmup=10, num_steps=20, seed=1).num_steps == 20
    calls, counted.calls = counted.calls, 0
    with pytest.raises(ValueError, match=r"(is a schedule of|the ladder has) 30 steps.*warm-up"):
        ef.sample(counted, sampler, start(), warmup=10, num_steps=21, seed=1)
    assert counted.calls == 0 < calls


def test_callable_schedules_are_looked_at():
    for sampler, message in (
        (ef.HMC(lambda age: -0.1, 2), "step_size must be finite and at least 0"),
        (ef.MALA(lambda age: float("nan")), "step_size"),
        (ef.SimulatedAnnealing(ef.MALA(0.1), lambda age: 0.0), "the callable returned 0 at step 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ef.sample(bowl, sampler, start(), num_steps=2)
    ring = ef.energies.Ring()
    for strategy in ("step", "fused"):
        for change, message in (({"step_size": lambda age: -0.1}, "step_size must be finite and at least 0, got -0.1"),
                                ({"noise_std": lambda age: float("nan")}, "noise_std must be finite")):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                ef.langevin_(start(), ring, num_steps=3, strategy=strategy, **{"step_size": 0.1} | change)
    with pytest.raises(TypeError, match="step_size must be a number, got str"):
        ef.sample(bowl, ef.RandomWalkMetropolis(lambda age: "0.1"), start(), num_steps=2)


def test_momentum_of_another_sampler_is_drawn_anew():
    """GHMC's momentum has variance 1, that of underdamped dynamics at T = 4 has 4, and without friction would stay at 1."""
    first = ef.sample(bowl, ef.GHMC(0.01), start(4000), num_steps=2, seed=1)
    run = ef.sample(bowl, ef.UnderdampedLangevin(0.001, friction=0.0, temperature=4.0), resume=first.state, num_steps=1)
    assert abs(float(run.state.extra["momentum"].var()) - 4.0) < 0.25


def test_replicas_and_single_chains_do_not_continue_each_other():
    replicas, alone = ef.ReplicaExchange(ef.HMC(0.1, 2), (1.0, 0.7, 0.5)), ef.HMC(0.1, 2)
    held = ef.sample(bowl, replicas, start(), num_steps=2, seed=1)
    with pytest.raises(ValueError, match=r"holds replicas of a ReplicaExchange, \(5, 3, 3\).*x0=run.final"):
        ef.sample(bowl, alone, resume=held.state, num_steps=2)
    single = ef.sample(bowl, alone, start(5, (3, 2)), num_steps=2, seed=1)
    with pytest.raises(ValueError, match=r"a sampler without replicas.*x0=run.final"):
        ef.sample(bowl, replicas, resume=single.state, num_steps=2)
    with pytest.raises(ValueError, match="holds 3 replicas a chain, the sampler has 2 betas"):
        ef.sample(bowl, ef.ReplicaExchange(ef.HMC(0.1, 2), (1.0, 0.5)), resume=held.state, num_steps=2)


@ADAPTIVE
def test_an_own_loop_adapts_as_a_run_does(name):
    sampler = adaptive()[name]
    run = ef.sample(bowl, sampler, start(8), num_steps=4, warmup=30, seed=3)
    state = sampler.init(bowl, start(8), seed=3, warmup=30)
    for _ in range(34):
        state, info = sampler.step(bowl, state)
    assert torch.equal(state.x, run.state.x)
    assert info.acceptance.shape == (8,)


@pytest.mark.parametrize("sampler", [ef.Langevin(0.05), ef.HMC(0.2, 2), ef.ReplicaExchange(ef.MALA(0.1), (1.0, 0.5)),
                                     ef.SimulatedAnnealing(ef.GHMC(0.1), lambda age: 1.0 + age)],
                         ids=lambda sampler: type(sampler).__name__)  # fmt: skip
def test_an_own_loop_takes_offset_step_and_condition(sampler):
    def energy(x, centre):
        return 0.5 * (x - centre).square().sum(1)

    condition = {"centre": start(8) + 1.0}
    run = ef.sample(energy, sampler, start(8), num_steps=12, seed=3, step=2**33, chain_offset=70, condition=condition)
    state = sampler.init(energy, start(8), seed=3, step=2**33, chain_offset=70)
    for _ in range(12):
        state, _ = sampler.step(energy, state, condition=condition)
    assert torch.equal(state.x, run.state.x)
    assert (state.step, state.age, state.chain_offset) == (2**33 + 12, 12, 70)
    with pytest.raises(ValueError, match="chain_offset must be in"):
        sampler.init(energy, start(8), seed=3, chain_offset=-1)
    with pytest.raises(TypeError, match="condition must be a dict"):
        sampler.step(energy, state, condition=[1.0])


def test_equality_and_hash_are_by_value():
    for name in NAMES:
        one, same, other = family((3,))[name][0], family((3,))[name][0], family((4,))[name][0]
        plain = name not in ("hmc, schedule", "simulated annealing, hmc", "independence")  # which hold functions of their own
        assert (one == same) is plain, name
        assert one != "a sampler", name
        assert (hash(one) == hash(same)) is plain, name
        assert (one == other) is (plain and not any(w in name for w in ("scaled", "diagonal", "dense", "preconditioned"))), name
    mass = torch.tensor([1.0, 2.0])
    assert ef.HMC(0.1, inverse_mass=mass) == ef.HMC(0.1, inverse_mass=mass.clone())
    for unlike in (mass + 1.0, mass.double(), mass[:1], None):
        assert ef.HMC(0.1, inverse_mass=mass) != ef.HMC(0.1, inverse_mass=unlike)
    assert ef.MALA(0.1) != ef.HMC(0.1)
    assert len({ef.MALA(0.1), ef.MALA(0.1), ef.MALA(torch.tensor(0.1)), ef.MALA((0.1, 0.2))}) == 3


def test_log_q_is_carried():
    """One evaluation of q and one of E a step; a resumed chain, one whose states moved without it, and an old state are right."""
    counts = {"q": 0}

    def log_q(x):
        counts["q"] += 1
        return -0.5 * (x / 1.5).square().sum(1)

    energy, sampler = Counting(), ef.IndependenceMetropolis(lambda noise: 1.5 * noise.normal(), log_q)
    whole = ef.sample(energy, sampler, start(), num_steps=20, seed=3)
    assert (counts["q"], energy.calls) == (21, 21)
    first = ef.sample(energy, sampler, start(), num_steps=7, seed=3).state
    counts["q"] = energy.calls = 0
    rest = ef.sample(energy, sampler, resume=first, num_steps=13)
    assert (counts["q"], energy.calls) == (14, 14)  # one each looks whether they are still what they were
    assert torch.equal(rest.samples, whole.samples[7:])
    old = first.clone()
    del old.extra["log_proposal"]
    assert torch.equal(ef.sample(energy, sampler, resume=old, num_steps=13).samples, whole.samples[7:])
    torch.testing.assert_close(rest.state.extra["log_proposal"].float(), log_q(rest.final))
    moved = ef.sample(energy, ef.RandomWalkMetropolis(0.5), resume=first, num_steps=5).state
    state, _ = sampler.step(energy, moved)
    state, _ = sampler.step(energy, state)
    torch.testing.assert_close(state.extra["log_proposal"].float(), log_q(state.x))
    replicas = ef.sample(energy, ef.ReplicaExchange(sampler, (1.0, 0.3)), start(), num_steps=9, seed=1).state
    assert (replicas.extra["labels"] != torch.arange(2)).any()
    torch.testing.assert_close(replicas.extra["log_proposal"].float(), log_q(replicas.x.view(-1, 3)))


@pytest.mark.parametrize("make", [lambda m: ef.HMC(0.4, 3, inverse_mass=m), lambda m: ef.MALA(0.1, preconditioner=m)],
                         ids=["hmc", "mala"])  # fmt: skip
def test_a_dense_mass_is_a_change_of_coordinates(make):
    """x = R y of M^-1 = R R': the chain of E is that of E(R y) with unit mass, from the same seed, whoever computes it."""
    root = torch.tensor([[1.2, 0.0, 0.0], [-0.7, 0.9, 0.0], [0.3, 0.4, 0.5]], dtype=torch.float64)
    x0 = start(40).double()
    for strategy in ("step", "reference"):
        dense = ef.sample(bowl, make(root @ root.T), x0 @ root.T, num_steps=30, seed=3, strategy=strategy)
        unit = ef.sample(lambda y: bowl(y @ root.T), make(None), x0, num_steps=30, seed=3, strategy=strategy)
        torch.testing.assert_close(dense.samples, unit.samples @ root.T, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(dense.stats.hamiltonian, unit.stats.hamiltonian, rtol=1e-9, atol=1e-9)
        assert 0.3 < float(dense.stats.acceptance.mean()) < 0.98


def test_what_writes_to_the_state_is_refused():
    """A proposal that moves x and returns a copy would be accepted twice; an energy that clamps x moves it behind the sampler."""

    def moves(x: torch.Tensor, noise: object) -> torch.Tensor:
        x += 1.0
        return x.clone()

    def clamps(x: torch.Tensor) -> torch.Tensor:
        return x.clamp_(-1.0, 1.0).square().sum(1)

    with pytest.raises(ValueError, match="propose changed x in place"):
        ef.sample(bowl, ef.MetropolisHastings(moves), start(), num_steps=1, seed=0)
    with pytest.raises(ValueError, match="energy changed x in place"):
        ef.sample(clamps, ef.RandomWalkMetropolis(0.5), start(), num_steps=1, seed=0)


def test_replicas_of_langevin_take_energies_of_another_dtype():
    sampler = ef.ReplicaExchange(ef.Langevin(0.1), (1.0, 0.5))
    runs = [ef.sample(energy, sampler, start(), num_steps=6, seed=0) for energy in (bowl, lambda x: bowl(x.double()))]
    torch.testing.assert_close(runs[0].samples, runs[1].samples)


def test_a_dense_mass_is_learnt_in_any_unit():
    """Deviations of 1000, and of 1000 and 0.001, in float32: the mass can be factored, and the chains spread as they must."""
    for scale in (torch.full((60,), 1e3), torch.cat((torch.full((15,), 1e3), torch.full((15,), 1e-3)))):
        target = ef.energies.Gaussian(torch.zeros(len(scale)), variance=scale.square())
        sampler = ef.HMC(1e-4, 10, leapfrog_jitter=True, adapt=ef.Adaptation(mass="dense"))
        run = ef.sample(target, sampler, target.sample(8, seed=3), num_steps=200, warmup=400, seed=1)
        spread = run.samples.flatten(0, 1).std(0) / scale
        assert run.stats.adapted["step_size"] > 0.1
        assert spread.min() > 0.7
        assert spread.max() < 1.4
