"""Strategy `compiled`: the chain of `step`, with energy and gradient from torch.compile."""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.engine import compiled

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        e = self.net(x).squeeze(1) + 0.5 * x.square().sum(1)
        return e if y is None else e + (x * y).sum(1)


def both(energy, sampler, x, **options):
    runs = [ef.sample(energy, sampler, x, num_steps=12, seed=1, strategy=s, **options) for s in ("compiled", "step")]
    assert [run.strategy for run in runs] == ["compiled", "step"]
    torch.testing.assert_close(runs[0].samples, runs[1].samples, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(runs[0].stats.energy, runs[1].stats.energy, rtol=1e-5, atol=1e-5)
    return runs[0]


def test_chains_are_those_of_step_and_the_compiled_code_outlives_a_run(device):
    torch.manual_seed(0)
    energy, x = Conditional().to(device), torch.randn(16, 3, device=device)
    both(energy, ef.Langevin(0.05), x)
    function = compiled._compiled[energy]
    before = both(energy, ef.HMC(0.1, 3), x)
    with torch.no_grad():
        energy.net[0].weight.mul_(2.0)  # seen without compiling anew
    assert not torch.equal(both(energy, ef.HMC(0.1, 3), x).final, before.final)
    both(energy, ef.ReplicaExchange(ef.MALA(0.05), (1.0, 0.5)), x[:8])  # the same number of states
    assert compiled._compiled[energy] is function
    assert all(p.grad is None and p.requires_grad for p in energy.parameters())
    with torch.inference_mode():
        moved = ef.langevin_(x.clone(), energy, num_steps=4, step_size=0.05, seed=2, strategy="compiled")
    plain = ef.langevin_(x.clone(), energy, num_steps=4, step_size=0.05, seed=2)
    torch.testing.assert_close(moved.clone(), plain, rtol=1e-5, atol=1e-5)
    gone = weakref.ref(energy)
    del energy, before, function
    gc.collect()
    assert gone() is None


def test_conditions_and_energies_with_gradients_of_their_own(device):
    torch.manual_seed(0)
    energy, sampler, x = Conditional().to(device), ef.Langevin(0.05), torch.randn(5, 3, device=device)
    both(energy, sampler, x, condition={"y": torch.ones(5, 1, device=device)})
    both(ef.energies.Ring().to(device), sampler, x[:, :2])
    empty = ef.sample(energy, sampler, x[:0], num_steps=2, seed=1, strategy="compiled")
    assert empty.samples.shape == (2, 0, 3)


def test_what_cannot_be_compiled_says_so(device, monkeypatch):
    x = torch.ones(4, 3, device=device)
    with pytest.raises(ValueError, match="one number per chain"):
        ef.sample(lambda x: x.square().sum(), ef.Langevin(0.05), x, num_steps=2, seed=1, strategy="compiled")

    def broken(function):
        def fail(*args):
            raise NotImplementedError("no such operator\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(RuntimeError, match=r"compile this energy \(NotImplementedError: no such operator\); use strategy='step'"):
        ef.sample(lambda x: x.square().sum(1), ef.Langevin(0.05), x, num_steps=2, seed=1, strategy="compiled")
    assert torch.equal(x, torch.ones(4, 3, device=device))
