"""What a step costs: launches and synchronisation."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch
from samplers.family import NAMES, adaptive, bowl, family
from torch.utils._python_dispatch import TorchDispatchMode

import ebm_fast as ef
from ebm_fast.engine import keep


class Launches(TorchDispatchMode):
    """Counts operators that would launch a kernel: neither views nor mere memory, and not those of the energy."""

    MEMORY = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = [r.alias_info for r in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        if not (self.paused or is_view or func.name().startswith(self.MEMORY)):
            self.counts[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


class Free:
    """The bowl |x|^2 / 2, at no cost as far as `launches` counts."""

    def __init__(self, launches: Launches) -> None:
        self.launches = launches

    @contextlib.contextmanager
    def uncounted(self):
        self.launches.paused = True
        yield
        self.launches.paused = False

    def __call__(self, x, **condition):
        with self.uncounted():
            return 0.5 * x.square().sum(1)

    def grad(self, x, **condition):
        with self.uncounted():
            return x.clone()

    def energy_and_grad(self, x, **condition):
        return self(x), self.grad(x)


STEPS = {
    "random walk": (ef.RandomWalkMetropolis(0.3), {"propose_": 1, "metropolis_": 1}),
    "mala": (ef.MALA(0.1), {"propose_": 1, "metropolis_": 1}),
    "hmc": (ef.HMC(0.1, 7), {"propose_": 1, "leapfrog_": 6, "metropolis_": 1}),
    "ghmc": (ef.GHMC(0.1, num_leapfrog=3), {"propose_": 1, "leapfrog_": 3, "metropolis_": 1}),
    "dense hmc": (ef.HMC(0.1, 7, inverse_mass=torch.eye(3) + 0.1),
                  {"propose_": 1, "leapfrog_": 7, "metropolis_": 1, "aten::mm": 8}),
    "dense mala": (ef.MALA(0.1, preconditioner=torch.eye(3) + 0.1),
                   {"propose_": 1, "leapfrog_": 1, "metropolis_": 1, "aten::mm": 2}),
    "independence": (ef.IndependenceMetropolis(lambda noise: noise.normal(), lambda x: x[:, 0]),
                     {"noise_": 1, "metropolis_": 1, "aten::sub": 1}
                     | dict.fromkeys(("aten::_to_copy", "aten::clone", "aten::gt", "aten::where"), 1)),
    "langevin": (ef.Langevin(0.1), {"guard_": 1, "langevin_step_": 1}),
    "noise first": (ef.Langevin(0.1, order="noise", grad_clip=1.0), {"guard_": 1, "langevin_step_": 1}),
    "heavy ball": (ef.Langevin(0.1, momentum=0.9, prior_precision=0.1), {"guard_": 1, "langevin_step_": 1}),
    "annealed": (ef.AnnealedLangevin((2.0, 1.0), 0.01, steps_per_level=500), {"guard_": 1, "langevin_step_": 1}),
    "underdamped": (ef.UnderdampedLangevin(0.1), {"guard_": 1, "baoab_": 1}),
    "replicas of mala": (ef.ReplicaExchange(ef.MALA(0.1), (1.0, 0.5)), {"propose_": 1, "metropolis_": 1, "swap_": 1}),
}
# Of a recorded row: its copies, what a momentum's last half kick and energy cost; of GHMC's 50 steps, copies of x and of p
ROWS = {"ghmc": 100, "underdamped": 9, "noise first": 1, "replicas of mala": 8}


@pytest.mark.parametrize("name", STEPS)
def test_launches_of_a_step(name, monkeypatch):
    """Under the options that everybody uses: the fused passes of a step and no others, and a few more a recorded row."""
    for limit in ("INTERVAL", "TRUSTED"):  # no copy of the state for an interrupt and no length of chunks, which time decides
        monkeypatch.setattr(keep, limit, 1e9)
    sampler, per_step = STEPS[name]
    seen = []
    for rows in (3, 7):
        with Launches() as launches:
            ef.sample(Free(launches), sampler, torch.zeros(4, 3), num_steps=50 * rows, thin=50, seed=1)
        seen.append(launches.counts)
    extra = {op.removeprefix("ebm_fast::"): seen[1][op] - seen[0][op] for op in seen[1] if seen[1][op] != seen[0][op]}
    steps = {op: extra.pop(op, 0) / 200 for op in per_step}
    of_rows = {op: steps[op] - count for op, count in per_step.items()}
    assert all(0.0 <= more < 0.021 for more in of_rows.values()), steps
    assert sum(extra.values()) + 200 * sum(of_rows.values()) <= 4 * (4 + ROWS.get(name, 0)), (extra, steps)


class Reads(TorchDispatchMode):
    """Counts operators by which the host reads from a tensor, which on a GPU wait for it."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().startswith(self.READS)
        return func(*args, **(kwargs or {}))


EVERYTHING = {name: (*pair, 0) for name, pair in family((3,)).items()} | {
    f"adaptive {name}": (sampler, bowl, 4) for name, sampler in adaptive().items()
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_host_reads_nothing_on_the_way(name):
    """What a GPU would have to be waited for, seen on any device; steps after the warm-up, of a whole public call."""
    sampler, energy, warmup = EVERYTHING[name]
    counts = []
    for num_steps in (2, 12):
        with Reads() as reads:
            ef.sample(energy, sampler, torch.randn(8, 3), num_steps=num_steps, warmup=warmup, seed=1, strategy="step")
        counts.append(reads.count)
    assert counts[0] == counts[1]


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
