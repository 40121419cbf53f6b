"""What a warm-up binds once, whose step size moves, does what it does when it is bound at each step."""

from __future__ import annotations

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import Gaussian

WARMING = torch.linspace(1.0, 2.0, 16, dtype=torch.float64)


@pytest.mark.parametrize(
    "sampler",
    [
        ef.HMC(0.3, 3, temperature=lambda k: WARMING * (1 + 0.1 * k), adapt=ef.Adaptation()),
        ef.HMC(0.3, 3, temperature=lambda k: (WARMING + k).float(), adapt=ef.ChEES(mass="diagonal")),
        ef.MALA(0.1, adapt=ef.Adaptation(per_chain=True)),
        ef.HMC(0.3, 3, step_jitter=0.5, leapfrog_jitter=True, adapt=ef.Adaptation(mass="dense")),
        ef.RandomWalkMetropolis(0.3, temperature=lambda k: 1.0 + 0.1 * k, adapt=ef.Adaptation(mass="diagonal")),
        ef.GHMC(0.3, adapt=ef.Adaptation()), ef.ReplicaExchange(ef.MALA(0.1, adapt=ef.Adaptation()), (1.0, 0.5)),
    ],
    ids=["a temperature a chain", "float32", "per chain", "jitter", "scheduled", "ghmc", "replicas"],
)  # fmt: skip
@pytest.mark.parametrize("native", [False, True], ids=["step", "fused"])
def test_a_warm_up_that_binds_its_ops_once_is_one_that_binds_them_at_each_step(sampler, native, monkeypatch):
    energy = Gaussian(precision=torch.diag(torch.tensor([1.0, 4.0, 0.5])))
    x0 = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    options = {"num_steps": 3, "warmup": 40, "seed": 1, "strategy": "auto" if native else "step"}
    run, binds = ef.sample(energy, sampler, x0, **options), []
    monkeypatch.setattr("ebm_fast.samplers.accept._refreshed", lambda *anything: binds.append(1))
    monkeypatch.setattr("ebm_fast.engine.fused._same", lambda *anything: binds.append(1))
    again = ef.sample(energy, sampler, x0, **options)
    assert torch.equal(run.samples, again.samples)
    assert binds or (isinstance(sampler, ef.GHMC) and not native)
