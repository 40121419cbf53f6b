"""What a step costs: launches, synchronisation, memory."""

from __future__ import annotations

import ctypes
import gc
import importlib
import re
import sys
from collections import Counter
from pathlib import Path

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


class Leaking:
    """An energy that keeps a number of every call, as a list of past states would."""

    def __init__(self):
        self.kept = []

    def __call__(self, x):
        self.kept.append(torch.zeros(1))
        return bowl(x)


def memory(field: str) -> int:
    """KiB, of this process: VmRSS at present, VmHWM at the highest since the last reset."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def growth(energy, sampler, steps: int, **options) -> int:
    """KiB by which the peak of the process moves while steps are taken, nothing recorded."""
    options = {"record": False, "moments": True, **options}
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed would take in a leak
    state = ef.sample(energy, sampler, torch.randn(16, 3), num_steps=400, seed=1, **options).state
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    except OSError as error:
        pytest.skip(f"the peak cannot be reset: {error}")
    before = memory("VmRSS")
    ef.sample(energy, sampler, resume=state, num_steps=steps, **options)
    return memory("VmHWM") - before


MOVES = {
    "random walk": ef.RandomWalkMetropolis(0.3), "underdamped": ef.UnderdampedLangevin(0.05), "hmc": ef.HMC(0.1, 1),
    "langevin": ef.Langevin(0.05),
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
class TestMemory:
    @pytest.mark.parametrize("name", MOVES)
    def test_step_by_step_it_does_not_grow(self, name):
        """A leaked tensor a step would be 1,300 KiB."""
        assert growth(bowl, MOVES[name], 2_000, strategy="step") < 700

    @pytest.mark.parametrize("thin", [1, 20_000])
    @pytest.mark.parametrize("name", MOVES)
    def test_in_native_chains_it_does_not_grow(self, name, thin):
        """Energies of 16 chains and their Hamiltonians would be 3,700 KiB."""
        energy = ef.energies.Gaussian(torch.zeros(3), variance=torch.ones(3))
        assert growth(energy, MOVES[name], 20_000, strategy="fused", thin=thin) < 700

    def test_a_leak_would_be_seen(self):
        assert growth(Leaking(), MOVES["random walk"], 2_000, strategy="step") > 1_000
        recorded = {"strategy": "fused", "record_energy": True}
        assert growth(ef.energies.Gaussian(torch.zeros(3)), MOVES["hmc"], 20_000, **recorded) > 2_000


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
