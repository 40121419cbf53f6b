"""A score network as energy: Langevin runs on it as on the energy itself, accept-reject samplers refuse it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.energies import from_score


def test_langevin_runs_as_on_the_energy_itself():
    energy, x0 = ef.energies.DoubleWell(dim=2), torch.randn(20, 2, dtype=torch.float64)
    for sampler in (ef.Langevin(0.02), ef.UnderdampedLangevin(0.1, 1.0)):
        runs = [ef.sample(e, sampler, x0, num_steps=30, seed=1) for e in (from_score(lambda x: -energy.grad(x)), energy)]
        torch.testing.assert_close(runs[0].samples, runs[1].samples)
        assert (runs[0].stats.energy == 0).all(), "no energies are known"
    x, y = x0.clone(), x0.clone()
    ef.langevin_(x, from_score(lambda x: -energy.grad(x)), num_steps=10, step_size=0.02, seed=3)
    ef.langevin_(y, energy, num_steps=10, step_size=0.02, seed=3)
    torch.testing.assert_close(x, y)


def test_annealed_langevin_passes_the_level_and_labels_on():
    seen = []

    def score(x, sigma, y):
        seen.append((sigma[0].item(), y))
        return -x / (1 + sigma[:, None] ** 2)

    y = torch.tensor([1, 0, 1])
    sampler = ef.AnnealedLangevin((2.0, 0.5), 0.1, 3, denoise=True)
    run = ef.sample(from_score(score), sampler, torch.zeros(3, 2), num_steps=6, seed=0, condition={"y": y}, record=False)
    assert run.final.isfinite().all()
    assert {s for s, _ in seen} == {2.0, 0.5} and all(torch.equal(labels, y) for _, labels in seen)


def test_no_gradient_is_kept_and_parameters_belong_to_it():
    net = nn.Linear(2, 2)
    energy = from_score(net)
    assert list(energy.parameters()) == list(net.parameters())
    x = torch.randn(3, 2)
    e, g = energy.energy_and_grad(x)
    assert torch.equal(e, torch.zeros(3)) and not g.requires_grad
    torch.testing.assert_close(g, -net(x).detach())


@pytest.mark.parametrize(
    "sampler",
    [
        ef.MALA(0.1), ef.HMC(0.1, 3), ef.GHMC(0.1), ef.RandomWalkMetropolis(0.1),
        ef.ReplicaExchange(ef.Langevin(0.1), (1.0, 0.5)), ef.ReplicaExchange(ef.MALA(0.1), (1.0, 0.5)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)  # fmt: skip
def test_samplers_that_compare_energies_refuse_it(sampler):
    with pytest.raises(TypeError, match="compares energies, and a score network has none"):
        ef.sample(from_score(lambda x: -x), sampler, torch.zeros(3, 2), num_steps=2, seed=0)


def test_errors():
    with pytest.raises(TypeError, match="no energy"):
        from_score(lambda x: -x)(torch.zeros(3, 2))
    for bad in (None, 1.0, nn.Linear):
        with pytest.raises(TypeError, match="score must be callable"):
            from_score(bad)
    with pytest.raises(ValueError, match=r"score: expected scores \(3, 2\)"):
        ef.sample(from_score(lambda x: x.sum(1)), ef.Langevin(0.1), torch.zeros(3, 2), num_steps=1, seed=0)
