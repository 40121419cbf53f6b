"""Strategy `graph`: one CUDA graph of K steps; every test needs a GPU, but for the refusals."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.engine import graph


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        out = self.body(x).squeeze(-1) + 0.5 * x.square().sum(1)
        return out if y is None else out + (x[:, 0] - y).square()


def test_refused_without_a_gpu():
    with pytest.raises(ValueError, match="strategy='graph' needs x on a CUDA device"):
        ef.langevin_(torch.zeros(3, 6), Net(), num_steps=2, step_size=0.1, strategy="graph")


def test_a_graph_is_told_apart_by_all_that_decides_what_it_computes():
    net, sampler, x = Net(), ef.Langevin(0.1), torch.zeros(3, 6)
    state = ef.ChainState(x, 0)

    def key() -> tuple:
        return graph._key(net, sampler, state, 5, {}, None, False)

    first = key()
    assert key() == first
    net.body[1].eval()
    second = key()
    assert second != first
    net.temperature = 0.5
    assert key() != second
    net.body[0].weight.data = net.body[0].weight.data.clone()
    assert key() != second
    with torch.no_grad():
        third = key()
        net.body[0].weight.add_(1.0)
    assert key() == third  # updated in place: the same graph reads it


def test_a_cached_energy_keeps_its_own_gradient():
    class Both(Net):
        def energy_and_grad(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.sum(1), torch.ones_like(x)

    net = Both()
    energy, grad = ef.engine.EnergyFunction(graph._unowned(net)).value_and_grad(torch.zeros(2, 6))
    assert torch.equal(grad, torch.ones(2, 6))
    assert torch.equal(energy, torch.zeros(2))


@pytest.mark.cuda
class TestOnTheDevice:
    @pytest.fixture
    def net(self) -> Net:
        torch.manual_seed(0)
        return Net().cuda()

    @pytest.mark.parametrize("order", ["gradient", "noise"])
    def test_replays_equal_steps(self, net, order):
        x0 = torch.randn(128, 6, device="cuda")
        for t in range(4):  # the first call warms up, the second captures, the rest replay
            options = {"num_steps": 7, "step_size": 0.02, "order": order, "seed": 3, "step": 7 * t, "grad_clip": 1.0}
            replayed = ef.langevin_(x0.clone(), net, strategy="graph", **options)
            stepped = ef.langevin_(x0.clone(), net, strategy="step", **options)
            torch.testing.assert_close(replayed, stepped, atol=1e-5, rtol=1e-5)

    def test_parameters_updated_in_place_are_seen(self, net):
        x0 = torch.randn(64, 6, device="cuda")
        for t in range(4):
            with torch.no_grad():
                for p in net.parameters():
                    p.add_(0.01)
            options = {"num_steps": 5, "step_size": 0.02, "seed": 1, "step": 5 * t}
            torch.testing.assert_close(
                ef.langevin_(x0.clone(), net, strategy="graph", **options),
                ef.langevin_(x0.clone(), net, strategy="step", **options), atol=1e-5, rtol=1e-5,
            )  # fmt: skip

    def test_condition_shapes_and_grad_norm(self, net):
        for n in (32, 64, 32, 32):
            x0, y = torch.randn(n, 6, device="cuda"), torch.randn(n, device="cuda")
            sampler = ef.Langevin(0.02)
            results = []
            for strategy in ("graph", "step"):
                x = x0.clone()
                norm = ef.engine.run_(net, sampler, x, 5, seed=2, condition={"y": y}, strategy=strategy, grad_norm=True)
                results.append((x, norm))
            torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)

    def test_sample_in_chunks(self, net):
        x0 = torch.randn(64, 6, device="cuda")
        options = {"num_steps": 23, "thin": 5, "warmup": 7, "seed": 4}
        runs = [ef.sample(net, ef.Langevin(0.02), x0, strategy=s, **options) for s in ("graph", "step")]
        torch.testing.assert_close(runs[0].samples, runs[1].samples, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(runs[0].stats.energy, runs[1].stats.energy, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(runs[0].stats.grad_norm, runs[1].stats.grad_norm, atol=1e-3, rtol=1e-3)
        assert runs[0].strategy == "graph"
        assert runs[0].state.step == runs[1].state.step

    def test_no_host_synchronisation(self, net):
        x = torch.randn(64, 6, device="cuda")
        for strategy in ("graph", "step"):
            for _ in range(3):
                ef.langevin_(x, net, num_steps=5, step_size=0.02, seed=1, strategy=strategy)
            torch.cuda.set_sync_debug_mode("error")
            try:
                ef.langevin_(x, net, num_steps=5, step_size=0.02, seed=1, strategy=strategy)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def test_an_energy_that_cannot_be_captured_runs_step_by_step(self):
        class Syncs(Net):
            def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
                return super().forward(x) + float(x.sum().item() > 1e30)

        net = Syncs().cuda()
        x = torch.zeros(8, 6, device="cuda")

        def three_times(strategy: str) -> None:
            for _ in range(3):
                ef.langevin_(x, net, num_steps=2, step_size=0.01, seed=0, strategy=strategy)

        with pytest.warns(RuntimeWarning, match="cannot be captured"):
            three_times("auto")
        with pytest.raises(RuntimeError, match="use strategy='step'"):
            three_times("graph")

    def test_a_cached_graph_does_not_keep_its_module_alive(self):
        net = Net().cuda()
        for _ in range(3):
            ef.langevin_(torch.zeros(8, 6, device="cuda"), net, num_steps=2, step_size=0.01, seed=0, strategy="graph")
        assert net in graph._captured
        gone = weakref.ref(net)
        del net
        gc.collect()
        assert gone() is None
