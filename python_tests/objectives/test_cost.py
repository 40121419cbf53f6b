"""What an iteration costs: evaluations of the energy, and nothing that would wait for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.utils._python_dispatch import TorchDispatchMode

import ebm_fast as ef
from ebm_fast import objectives as obj
from ebm_fast.objectives.finite import FiniteCheck
from ebm_fast.training import ReplayBuffer

STEPS, N, CLASSES = 5, 6, 3
LANGEVIN = ef.Langevin(step_size=0.1)


class Counted(nn.Module):
    """A convolutional energy, conditional on sigma where it is given; counts calls and the states in them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 1))
        self.calls: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.calls.append(len(x))
        return self.net(x).squeeze(1)


def buffer() -> ReplayBuffer:
    return ReplayBuffer(100, (1, 4, 4), init=("uniform", -1.0, 1.0), rejuvenation=0.3, seed=1)


def classes() -> ReplayBuffer:
    return ReplayBuffer(99, (1, 4, 4), init=("normal", 1.0), rejuvenation=0.3, num_classes=CLASSES, seed=1)


def noise() -> Any:
    return ef.noise.Gaussian(torch.zeros(1, 4, 4), 1.0)


MAKE: dict[str, tuple[Callable[[nn.Module], Any], list[int]]] = {
    # name: objective, the states of each evaluation of a later iteration
    "CD": (lambda e: obj.ContrastiveDivergence(e, LANGEVIN, num_steps=STEPS, data_noise=0.1), [N] * STEPS + [2 * N]),
    "PersistentCD": (lambda e: obj.PersistentCD(e, LANGEVIN, buffer(), num_steps=STEPS), [N] * STEPS + [2 * N]),
    "PersistentCD of classes": (lambda e: obj.PersistentCD(e, LANGEVIN, classes(), num_steps=STEPS), [N] * STEPS + [2 * N]),
    "ShortRunMLE": (lambda e: obj.ShortRunMLE(e, LANGEVIN, num_steps=STEPS), [N] * STEPS + [2 * N]),
    "AdaptiveNCE": (lambda e: obj.AdaptiveNCE(e, LANGEVIN, buffer(), num_steps=STEPS), [N] * STEPS + [2 * N]),
    "AdaptiveNCE, interval 9": (  # the chains and the second evaluation are the copy's
        lambda e: obj.AdaptiveNCE(e, LANGEVIN, buffer(), num_steps=STEPS, interval=9), [2 * N]
    ),
    "NCE": (lambda e: obj.NCE(e, noise(), num_noise=2), [3 * N]),
    "RankingNCE": (lambda e: obj.RankingNCE(e, noise(), num_noise=2), [3 * N]),
    "ConditionalNCE": (lambda e: obj.ConditionalNCE(e, 0.3, num_noise=2), [3 * N]),
    "DenoisingScoreMatching": (lambda e: obj.DenoisingScoreMatching(e, 0.3), [N]),
    "NoiseConditionalScoreMatching": (lambda e: obj.NoiseConditionalScoreMatching(e, (1.0, 0.5)), [N]),
    "SlicedScoreMatching": (lambda e: obj.SlicedScoreMatching(e, num_projections=3), [N]),
    "HutchinsonScoreMatching": (lambda e: obj.HutchinsonScoreMatching(e, num_projections=3), [N]),
    "FiniteDifferenceScoreMatching": (lambda e: obj.FiniteDifferenceScoreMatching(e, num_projections=2), [5 * N]),
    "ImplicitScoreMatching": (lambda e: obj.ImplicitScoreMatching(e, chunk=16), [N]),
}


class Told(Independent):
    """A flow's distribution: samples with their own density in one pass, and a count of what is evaluated on how many states."""

    def __init__(self, shift: Tensor, calls: list[tuple[str, int]]) -> None:
        super().__init__(Normal(shift, 1.0), 3)
        self.calls = calls

    def log_prob(self, x: Tensor) -> Tensor:
        self.calls.append(("log_prob", len(x)))
        return super().log_prob(x)

    def rsample(self, shape: torch.Size) -> Tensor:
        self.calls.append(("rsample", shape[0]))
        return super().rsample(shape)

    def sample(self, shape: torch.Size) -> Tensor:
        with torch.no_grad():
            return self.rsample(shape)

    def rsample_and_log_prob(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        self.calls.append(("both", shape[0]))
        x = super().rsample(shape)
        return x, super().log_prob(x)


class Flow(nn.Module):
    """As zuko's flows, a distribution when called."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.calls = nn.Parameter(torch.zeros(1, 4, 4)), []

    def forward(self) -> Told:
        return Told(self.shift, self.calls)


class Pair(Flow):
    """As normflows', samples come as (states, log densities)."""

    log_prob = property(lambda self: Told(self.shift, self.calls).log_prob)

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        return Told(self.shift, self.calls).rsample_and_log_prob((n,))


APART, BOTH, DATA, ALL = ("rsample", 2 * N), ("both", 2 * N), ("log_prob", N), ("log_prob", 3 * N)
DENSITIES: dict[str, tuple[Callable[..., Any], list[list[Any]], list[list[Any]]]] = {
    # name: objective of energy and flow; what the turns of energy and generator evaluate: of a distribution, of pairs
    "FlowContrastive": (lambda e, f: obj.FlowContrastive(e, f, num_noise=2), [[APART, ALL]] * 2, [[BOTH, DATA]] * 2),
    "AdversarialContrastive": (  # 6 of the 12 noise states are the base's
        lambda e, f: obj.AdversarialContrastive(e, f, noise(), num_noise=2), [[("rsample", N), ALL]] * 2,
        [[("both", N), ("log_prob", 2 * N)]] * 2,
    ),
    "VariationalMLE": (lambda e, f: obj.VariationalMLE(e, f, num_noise=2), [[APART], [BOTH]], [[BOTH], [BOTH]]),
    "NCE": (lambda e, f: obj.NCE(e, f, num_noise=2), [[APART, ALL]], [[BOTH, DATA]]),
    "RankingNCE": (lambda e, f: obj.RankingNCE(e, f, num_noise=2), [[APART, ALL]], [[BOTH, DATA]]),
}  # fmt: skip


@pytest.mark.parametrize("flow", [Flow, Pair])
@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_of_a_state_is_evaluated_once(name, flow):
    """And the losses are those of a flow whose samples come without it."""
    make, *expected = DENSITIES[name]
    energy, x = Counted(), torch.rand(N, 1, 4, 4) * 2 - 1
    losses: list[list[float]] = []
    for silent in (False, True):
        noisy = Flow() if silent else flow()
        if silent:
            noisy.forward = lambda f=noisy: Independent(Normal(f.shift, 1.0), 3)
        torch.manual_seed(0)
        objective = make(energy, noisy)
        wanted = expected[flow is Pair]
        losses.append([])
        for turn, calls in zip((objective, getattr(objective, "generator_loss", None)), wanted):
            noisy.calls.clear()
            losses[-1].append(turn(x)[0].item())
            assert silent or noisy.calls == calls
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Waits(TorchDispatchMode):
    """Counts what copies a number to the host or makes a shape that hangs on values: on a GPU, each waits for the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES or (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def batch_of(name: str) -> Any:
    x = torch.rand(N, 1, 4, 4) * 2 - 1
    return (x, torch.arange(N) % CLASSES) if name.endswith("of classes") else x


@pytest.mark.parametrize("name", MAKE)
def test_evaluations_of_an_iteration(name):
    make, expected = MAKE[name]
    energy = Counted()
    objective = make(energy)
    objective(batch_of(name))
    energy.calls.clear()
    copied = getattr(objective, "frozen", None)
    if copied is not None:
        copied.calls.clear()
    loss, _ = objective(batch_of(name))
    loss.backward()
    assert energy.calls == expected
    if copied is not None:
        assert copied.calls == [N] * STEPS + [2 * N]


@pytest.mark.parametrize("name", MAKE)
def test_an_iteration_waits_for_nothing(name, monkeypatch):
    """Without the finiteness check, which reads its answer later on a GPU, and without what reads labels on a CPU alone."""
    monkeypatch.setattr(FiniteCheck, "__call__", lambda self, **tensors: None)
    monkeypatch.setattr(ReplayBuffer, "_check_labels", lambda self, y, n: None)
    objective = MAKE[name][0](Counted())
    batch = batch_of(name)
    objective(batch)
    with Waits() as waits:
        loss, _ = objective(batch)
        loss.backward()
    assert not waits.seen, waits.seen
    with Waits() as waits:  # the mode sees what it should
        float(loss.detach()), torch.arange(3)[torch.arange(3) > 1]
    assert waits.seen == {"_local_scalar_dense": 1, "index": 1}


def gradient(objective: Any, energy: nn.Module, x: Tensor) -> Tensor:
    loss, _ = objective(x)
    found = torch.autograd.grad(loss, list(energy.parameters()))
    return torch.cat([g.flatten() for g in found]).float()


CHAINS = ("CD", "PersistentCD", "AdaptiveNCE", "AdaptiveNCE, interval 9", "ConditionalNCE")


@pytest.mark.parametrize("name", CHAINS)
def test_a_compiled_energy_trains_alike(name):
    """Two iterations, the second with a copy that is not fresh; the compiler's front ends alone, to 1e-5."""
    x = torch.rand(N, 1, 4, 4) * 2 - 1
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    objectives = []
    for energy in (net, torch.compile(net, backend="aot_eager")):
        torch.manual_seed(0)  # of the objectives' own seeds
        objectives.append(MAKE[name][0](energy))
    plain, compiled = objectives
    for _ in range(2):
        torch.testing.assert_close(gradient(compiled, net, x), gradient(plain, net, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHAINS)
def test_autocast(name):
    """A bfloat16 energy under autocast: losses in float32, the gradient within 10 % of float32's."""
    x, net = torch.rand(64, 1, 4, 4) * 2 - 1, Counted()
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        objective = MAKE[name][0](net)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=enabled):
            loss, _ = objective(x)
            assert loss.dtype == torch.float32
            found.append(gradient(objective, net, x))
    assert (found[1] - found[0]).norm() < 0.1 * found[0].norm()


def test_the_finiteness_check_reads_once():
    flags = {"a": torch.ones(3, 2), "b": torch.ones(()), "c": torch.ones(0, 2)}
    FiniteCheck()(**flags)
    for bad in (torch.nan, torch.inf, -torch.inf):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            x = torch.ones(3, 2, dtype=dtype)
            x[1, 1] = bad
            with pytest.raises(FloatingPointError, match="not finite: d"):
                FiniteCheck()(**flags, d=x)
