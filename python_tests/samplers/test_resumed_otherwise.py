"""States of a warm-up that are resumed with another adaptation than the one that they come from."""

from __future__ import annotations

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import Gaussian

ENERGY = Gaussian(precision=torch.diag(torch.tensor([400.0, 0.01, 1.0, 1.0, 1.0])))
ADAPTATIONS = {
    "shared": ef.Adaptation(), "per chain": ef.Adaptation(per_chain=True), "diagonal": ef.Adaptation(mass="diagonal"),
    "dense": ef.Adaptation(mass="dense"), "chees": ef.ChEES(), "chees, diagonal": ef.ChEES(mass="diagonal"),
}  # fmt: skip


def sampler(name: str) -> ef.HMC:
    return ef.HMC(0.1, 5, adapt=ADAPTATIONS[name])


def start() -> torch.Tensor:
    return ENERGY.sample(64, seed=1).float()


@pytest.mark.parametrize("strategy", ["auto", "step"])
@pytest.mark.parametrize("then", ADAPTATIONS)
@pytest.mark.parametrize("first", ADAPTATIONS)
def test_any_other_adaptation_takes_over(first, then, strategy):
    """At once, in a warm-up of its own, and in the middle of the first: chains go on, and nothing is left behind that learns."""
    options = {"num_steps": 20, "strategy": strategy, "record": False}
    warm = ef.sample(ENERGY, sampler(first), start(), num_steps=0, warmup=120, seed=2, strategy=strategy).state
    halfway = sampler(first).init(ENERGY, start(), seed=2, warmup=60)
    for _ in range(30):
        halfway, _ = sampler(first).step(ENERGY, halfway)
    for state, warmup in ((warm, 0), (warm, 120), (halfway, 0)):
        run = ef.sample(ENERGY, sampler(then), resume=state, warmup=warmup, **options)
        assert 0.25 < float(run.stats.acceptance.mean()) < 0.999
        assert not {"dual_averaging", "mass_mean", "chees", "chees_before"} & run.state.extra.keys()
        assert len({"scale", "inverse_mass"} & run.state.extra.keys()) < 2


def test_a_dense_mass_in_the_state_is_not_run_natively():
    warm = ef.sample(ENERGY, sampler("dense"), start(), num_steps=0, warmup=120, seed=2).state
    run = ef.sample(ENERGY, sampler("shared"), resume=warm, num_steps=50)
    assert run.strategy == "step" and float(run.stats.acceptance.mean()) > 0.5
    with pytest.raises(ValueError, match="the state brings a dense mass matrix"):
        ef.sample(ENERGY, sampler("shared"), resume=warm, num_steps=50, strategy="fused")


@pytest.mark.parametrize("adapt", ["shared", "chees"])
def test_a_flat_energy_ends_in_finite_steps(adapt):
    run = ef.sample(lambda x: 0.0 * x.sum(1), sampler(adapt), torch.zeros(4, 2), num_steps=2, warmup=1500, seed=1)
    assert bool(torch.isfinite(run.stats.adapted["step_size"]))
