"""Schedules, states of other samplers and own loops: what is refused, what is drawn anew, what is the same."""

from __future__ import annotations

import pytest
import torch
from samplers.family import Counting, adaptive, blurred, bowl

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
