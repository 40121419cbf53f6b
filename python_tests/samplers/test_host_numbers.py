"""The random and quasi-random numbers that the host draws: those of the contract, at any step, one by one or many at once."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import Gaussian
from ebm_fast.ops.purposes import purpose_tag
from ebm_fast.reference.philox import words
from ebm_fast.samplers.chees import halton
from ebm_fast.samplers.jitter import uniform_numbers


@pytest.mark.parametrize(("first", "count"), [(0, 5), (250, 12), (2**32 - 3, 7), (2**55 + 255, 300), (17, 1)])
@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_jitter_is_the_stream_of_chain_zero(first, count, seed):
    found = [uniform_numbers(seed, first, count, "jitter", element) for element in range(2)]
    for k in range(count):
        stream = words(1, 2, seed=seed, step=first + k, purpose=purpose_tag("jitter"), chain_offset=0, rng=None,
                       device=torch.device("cpu"))  # fmt: skip
        for element in range(2):
            assert found[element][k] == (int(stream[0, element]) + 0.5) * 2.0**-32


@pytest.mark.parametrize("first", [0, 1, 1020, 10**6])
def test_halton_mirrors_the_digits_of_the_index(first):
    for k, value in enumerate(halton(first, 9)):
        digits = f"{first + k + 1:b}"
        assert value == float(sum(Fraction(int(digit), 2 ** (1 + j)) for j, digit in enumerate(reversed(digits))))
    assert halton(first, 2000) == [halton(first + k)[0] for k in range(2000)]


@pytest.mark.parametrize("size", [0.3, torch.tensor(0.3), torch.tensor([0.1, 0.2, 0.3]), torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("steps", [1, 5])
def test_jittered_steps_are_the_same_one_by_one_and_at_once(size, steps):
    energy, sampler = Gaussian(precision=torch.eye(2)), ef.HMC(size, 3, step_jitter=0.5, leapfrog_jitter=True)
    start = ef.sample(energy, sampler, torch.ones(3, 2), num_steps=254, seed=1).state  # from there across a block of numbers
    bound = sampler.transition(ef.engine.energy.EnergyFunction(energy), start, backend=None, guard=True, track=False, rng=None)
    plan = bound.chain_plan(steps)
    each = torch.stack([torch.as_tensor(bound.coefficients(start.age + k)["drift"], dtype=torch.float32).expand(3)
                        for k in range(steps)])  # fmt: skip
    assert torch.equal(torch.as_tensor(plan["step_size"]).expand(steps, 3), each)
    assert len({float(s) for s in each[:, 0]}) == steps
    lengths = plan["leapfrogs"] if steps > 1 else [plan["leapfrogs"]]
    assert lengths == [bound.num_leapfrog(start.age + k) for k in range(steps)]
    fused, step = (ef.sample(energy, sampler, resume=start, num_steps=steps, strategy=name) for name in ("fused", "step"))
    torch.testing.assert_close(fused.final, step.final)


def test_a_resumed_run_sees_another_energy():
    """Native code evaluates where it starts; a run of no steps, and steps by torch, evaluate what was carried."""
    sampler, one, two = ef.HMC(0.3, 3), Gaussian(precision=torch.eye(2)), Gaussian(precision=9.0 * torch.eye(2))
    state = ef.sample(one, sampler, torch.ones(3, 2), num_steps=4, seed=1).state
    fresh = ef.sample(two, sampler, resume=state.clone().forget_energy(), num_steps=6)
    for steps, strategy in ((0, "auto"), (6, "auto"), (6, "step")):
        resumed = ef.sample(two, sampler, resume=state, num_steps=steps, strategy=strategy)
        torch.testing.assert_close(resumed.state.extra["energy"], two(resumed.state.x))
        if steps:
            torch.testing.assert_close(resumed.final, fresh.final)


def test_a_warm_up_that_goes_on_sees_another_energy():
    """Its proposals are made step by step, from what is carried."""
    sampler, one, two = ef.HMC(0.3, 3, adapt=ef.ChEES()), Gaussian(precision=torch.eye(2)), Gaussian(precision=9.0 * torch.eye(2))
    state = sampler.init(one, torch.ones(8, 2), seed=1, warmup=20)
    for _ in range(10):
        state, _ = sampler.step(one, state)
    resumed = ef.sample(two, sampler, resume=state, num_steps=5)
    fresh = ef.sample(two, sampler, resume=state.clone().forget_energy(), num_steps=5)
    torch.testing.assert_close(resumed.samples, fresh.samples)


def test_an_interrupt_at_once_leaves_no_energies_of_the_old_energy(monkeypatch):
    sampler, one, two = ef.HMC(0.3, 3), Gaussian(precision=torch.eye(2)), Gaussian(precision=9.0 * torch.eye(2))
    state = ef.sample(one, sampler, torch.ones(3, 2), num_steps=4, seed=1).state

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ef.engine.fused, "chain_", interrupted)
    with pytest.raises(ef.Interrupted) as stopped:
        ef.sample(two, sampler, resume=state, num_steps=6)
    left = stopped.value.run.state
    assert left.step == state.step
    assert not {"energy", "grad"} & left.extra.keys()
    after, fresh = (sampler.step(two, s)[0] for s in (left, state.clone().forget_energy()))
    assert torch.equal(after.x, fresh.x)


@pytest.mark.parametrize("make", [
    lambda s, T: ef.Langevin(s, temperature=T), lambda s, T: ef.MALA(s, temperature=T), lambda s, T: ef.HMC(s, 2, temperature=T),
    lambda s, T: ef.UnderdampedLangevin(0.1, temperature=T), lambda s, T: ef.RandomWalkMetropolis(s, temperature=T),
])  # fmt: skip
def test_coefficients_that_repeat_are_those_of_their_steps(make):
    """Ops are bound anew only where a coefficient changes; tensors are read at every step."""
    sizes, temperatures = (0.1, 0.1, 0.1, 0.3, 0.3, 0.1), (1.0, 1.0, 2.0, 2.0, 2.0, 2.0)
    energy, x = Gaussian(precision=torch.eye(2)), torch.ones(5, 2)
    plain = make(sizes, temperatures)
    each = make(lambda age: torch.tensor(sizes[age]), lambda age: torch.tensor(temperatures[age]))
    runs = [ef.sample(energy, sampler, x, num_steps=6, seed=3, strategy="step") for sampler in (plain, each)]
    torch.testing.assert_close(runs[0].samples, runs[1].samples)
    constant = make(0.1, 1.0)
    assert not torch.allclose(ef.sample(energy, constant, x, num_steps=6, seed=3, strategy="step").samples, runs[0].samples)
