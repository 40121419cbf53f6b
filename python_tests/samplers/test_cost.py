"""What a step costs: launches, synchronisation, memory."""

from __future__ import annotations

import gc
import importlib
import resource
from collections import Counter

import pytest
import torch
from samplers.family import NAMES, bowl, family

import ebm_fast as ef
from ebm_fast.ops.backend import MODULES


@pytest.fixture
def launches(monkeypatch):
    """How often each op was handed to a backend."""
    counts: Counter[str] = Counter()
    for module_name in set(MODULES.values()):
        module = importlib.import_module(f"ebm_fast.ops.{module_name}")
        if not hasattr(module, "route"):
            continue
        inner = module.route

        def route(op, x, backend, inner=inner):
            counts[op] += 1
            return inner(op, x, backend)

        monkeypatch.setattr(module, "route", route)
    return counts


@pytest.mark.parametrize(
    ("sampler", "per_step"),
    [
        (ef.RandomWalkMetropolis(0.3), {"propose_": 1, "metropolis_": 1}),
        (ef.MALA(0.1), {"propose_": 1, "metropolis_": 1}),
        (ef.HMC(0.1, 7), {"propose_": 1, "leapfrog_": 6, "metropolis_": 1}),
        (ef.GHMC(0.1, num_leapfrog=2), {"propose_": 1, "leapfrog_": 2, "metropolis_": 1}),
        (ef.Langevin(0.1), {"langevin_step_": 1}),
        (ef.UnderdampedLangevin(0.1), {"baoab_": 1}),
        (ef.ReplicaExchange(ef.MALA(0.1), (1.0, 0.5)), {"propose_": 1, "metropolis_": 1, "swap_": 1}),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, ef.samplers.Sampler) else "",
)
def test_launches_of_a_step(sampler, per_step, launches):
    """The fused passes of a step, and no others, between two records of a long run."""
    x0 = torch.zeros(4, 3)
    options = {"record": False, "record_energy": False, "on_divergence": "ignore", "seed": 1, "strategy": "step"}
    ef.sample(bowl, sampler, x0, num_steps=10, thin=10, **options)
    few = Counter(launches)
    launches.clear()
    ef.sample(bowl, sampler, x0, num_steps=30, thin=30, **options)
    extra = {op: (launches[op] - few[op]) / 20 for op in launches}
    extra.pop("event_norm", None)  # gradient strength of the samplers that track it
    assert {op: count for op, count in extra.items() if count} == per_step


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [ef.RandomWalkMetropolis(0.3), ef.Langevin(0.05)], ids=["random walk", "langevin"])
def test_memory_does_not_grow_with_steps(sampler):
    """10^5 steps without a record: the peak of the process moves by less than ten bytes a step."""
    energy = ef.energies.Gaussian(torch.zeros(3), variance=torch.ones(3))
    options = {"record": False, "record_energy": False, "moments": True, "on_divergence": "ignore"}
    state = ef.sample(energy, sampler, torch.zeros(16, 3), num_steps=3_000, seed=1, **options).state
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ef.sample(energy, sampler, resume=state, num_steps=100_000, thin=100_000, **options)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_000  # KiB; one leaked tensor object of 100 bytes a step would be 10,000


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_no_host_synchronisation_within_a_run(name):
    sampler, energy = family((3,))[name]
    from samplers.test_family import to_device

    x0 = torch.randn(64, 3, device="cuda")
    sampler = to_device(sampler, "cuda")
    ef.sample(energy, sampler, x0, num_steps=4, seed=1, strategy="step")  # compiles and caches
    state = sampler.init(energy, x0, seed=1)
    transition = sampler.transition(
        ef.engine.EnergyFunction(energy), state, backend=None, guard=True, track=True, rng=None
    )
    transition.advance(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        transition.advance(8)
        transition.energy_now()
    finally:
        torch.cuda.set_sync_debug_mode("default")
