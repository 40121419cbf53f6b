"""What a warm-up binds once, whose step size moves, does what it does when it is bound at each step."""

from __future__ import annotations

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import Gaussian
from ebm_fast.engine import fused
from ebm_fast.samplers import accept

WARMING = torch.linspace(1.0, 2.0, 16, dtype=torch.float64)


# whether anything stays bound, step by step and in native code
SAMPLERS = {
    "a temperature a chain": (ef.HMC(0.3, 3, temperature=WARMING.float(), adapt=ef.Adaptation()), True, False),
    "float64": (ef.HMC(0.3, 3, temperature=lambda k: WARMING * (1 + 0.1 * k), adapt=ef.Adaptation()), False, False),
    "float32": (ef.HMC(0.3, 3, temperature=lambda k: (WARMING + k).float(), adapt=ef.ChEES(mass="diagonal")), True, False),
    "chees": (ef.HMC(0.3, 3, adapt=ef.ChEES(mass="diagonal")), True, True),
    "per chain": (ef.MALA(0.1, adapt=ef.Adaptation(per_chain=True)), True, False),
    "jitter": (ef.HMC(0.3, 3, step_jitter=0.5, leapfrog_jitter=True, adapt=ef.Adaptation(mass="dense")), True, True),
    "a walk": (ef.RandomWalkMetropolis(0.3, adapt=ef.Adaptation(mass="diagonal")), True, True),
    "scheduled": (ef.RandomWalkMetropolis(0.3, temperature=lambda k: 1.0 + 0.1 * k, adapt=ef.Adaptation()), False, False),
    "ghmc": (ef.GHMC(0.3, adapt=ef.Adaptation()), False, False),
    "replicas": (ef.ReplicaExchange(ef.MALA(0.1, adapt=ef.Adaptation()), (1.0, 0.5)), True, False),
}


@pytest.mark.parametrize("native", [False, True], ids=["step", "auto"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_warm_up_that_binds_its_ops_once_is_one_that_binds_them_at_each_step(name, native, monkeypatch):
    sampler, *stays = SAMPLERS[name]
    energy = Gaussian(precision=torch.diag(torch.tensor([1.0, 4.0, 0.5])))
    x0 = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    options = {"num_steps": 3, "warmup": 40, "seed": 1, "strategy": "auto" if native else "step"}
    kept: list[bool] = []
    for module, function in ((accept, "_refreshed"), (fused, "_same")):
        honest = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *what, honest=honest: kept.append(honest(*what)) or kept[-1])
    run = ef.sample(energy, sampler, x0, **options)
    for module, function in ((accept, "_refreshed"), (fused, "_same")):
        monkeypatch.setattr(module, function, lambda *what: False)
    again = ef.sample(energy, sampler, x0, **options)
    assert torch.equal(run.samples, again.samples)
    assert (sum(kept) >= 30) is stays[native], kept
