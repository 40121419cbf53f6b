"""Strategy `graph`: one CUDA graph of K steps; every test needs a GPU, but for the refusals."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from samplers.family import bowl, family
from torch import nn

import ebm_fast as ef
from ebm_fast.engine import graph, run


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


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


class Replays:
    """`graph.Recorder` on the CPU: a capture leaves all tensors as they were; a replay runs with the host's numbers as they
    were captured, and leaves those alone."""

    captures = 0

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cpu"

    def warm(self, work) -> None:
        work()

    def begin(self) -> None: ...
    def end(self) -> None: ...

    def capture(self, work):
        type(self).captures += 1
        inner = work.__self__.inner
        tensors, host = self.tensors(inner), self.host(inner)
        before = [t.clone() for t in tensors]
        work()
        for t, old in zip(tensors, before):
            t.copy_(old)

        def replay() -> None:
            now = self.host(inner)
            self.set_host(inner, host)
            work()
            self.set_host(inner, now)

        return replay

    @staticmethod
    def tensors(inner) -> list[torch.Tensor]:
        held = [*vars(inner).values(), *vars(inner.state).values(), *inner.state.extra.values()]
        return [t for t in held if isinstance(t, torch.Tensor)]

    @staticmethod
    def host(inner) -> list[dict]:
        return [{k: v for k, v in vars(o).items() if type(v) is int} for o in (inner, inner.state)]

    @staticmethod
    def set_host(inner, numbers: list[dict]) -> None:
        for o, kept in zip((inner, inner.state), numbers):
            vars(o).update(kept)


@pytest.fixture
def replayed(monkeypatch):
    monkeypatch.setattr(graph, "Recorder", Replays)
    monkeypatch.setattr(graph, "_captured", weakref.WeakKeyDictionary())
    monkeypatch.setattr(Replays, "captures", 0)


class Module(nn.Module):
    def __init__(self, energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.energy(x)


GRADIENT_FREE = ("random walk", "random walk, scaled", "metropolis-hastings", "independence")
MOVES = {name: s for name, (s, _) in family((3,)).items() if not graph.why_not(s)}


@pytest.mark.parametrize("name", ["hmc, jitter", "replicas of hmc", "replicas of langevin", "annealed"])
def test_what_reads_the_host_is_not_replayed(name, monkeypatch):
    """Its counters would stand still: every replay would draw the same numbers."""
    sampler = family((3,))[name][0]
    reason = graph.why_not(sampler)
    assert reason
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for strategy, wanted in (("graph", None), ("auto", "step")):
        with pytest.raises(ValueError, match=reason) if wanted is None else contextlib.nullcontext():
            assert run.pick_strategy(strategy, None, Module(bowl), sampler, torch.zeros(2, 3), None)[0] == wanted


def test_a_transition_that_ignores_rng_is_refused(replayed):
    class Careless(ef.Langevin):
        def transition(self, energy, state, *, rng, **options):
            return super().transition(energy, state, rng=None, **options)

    with pytest.raises(TypeError, match=r"draws from rng.*Careless"):
        graph.run(Module(bowl), Careless(0.1), ef.ChainState(torch.zeros(2, 3), 0), 2, None, None, False, True)


@pytest.mark.parametrize("name", MOVES)
def test_every_replay_begins_a_chain_of_its_own(name, replayed):
    """The bookkeeping around the graph, with a capture and replays emulated: energy, gradient and momentum of the first state."""
    net, sampler = Module(bowl), MOVES[name]
    for t in range(4):  # warms up, captures, replays twice; a chain of another state, seed and step each time
        x0 = torch.randn(16, 3, generator=torch.Generator().manual_seed(t))
        stepped, x = x0.clone(), x0.clone()
        options = {"seed": 5 + t, "step": 100 * t, "grad_norm": True}
        norm = ef.engine.run_(net, sampler, stepped, 4, strategy="step", **options)
        state = ef.ChainState(x, options["seed"], options["step"])
        other = graph.run(net, sampler, state, 4, None, None, True, True)
        assert torch.equal(x, stepped)
        assert (norm is None) == (other is None) == (name in GRADIENT_FREE)
        if norm is not None:
            torch.testing.assert_close(other, norm)
    assert Replays.captures == 1


@pytest.mark.parametrize("name", [name for name, s in MOVES.items() if not s.has_schedule()])
def test_sample_replays_chunks(name, replayed, monkeypatch):
    net, sampler, x0 = Module(bowl), MOVES[name], normal(16, 3)
    options = {"num_steps": 23, "thin": 5, "warmup": 7, "seed": 4}
    step = ef.sample(net, sampler, x0, strategy="step", **options)
    monkeypatch.setattr(run, "pick_strategy", lambda strategy, backend, *args: (strategy, backend, None))
    chunks = ef.sample(net, sampler, x0, strategy="graph", **options)
    assert chunks.strategy == "graph"
    assert torch.equal(chunks.samples, step.samples)
    assert (chunks.state.step, chunks.state.age) == (step.state.step, step.state.age)
    for name in ("energy", "grad_norm", "acceptance", "divergences", "hamiltonian", "divergence_step"):
        torch.testing.assert_close(getattr(chunks.stats, name), getattr(step.stats, name))
    assert Replays.captures == 1


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
