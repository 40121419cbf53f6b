"""Self-adapting noise: the likelihood at interval 1, frozen copies in between, exact fixed points, resume, errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from quadrature import Quadratic, expectation, gradient, grid, log_normal
from torch import Tensor, nn

from ebm_fast import Langevin, engine
from ebm_fast.energies import GaussianMixture
from ebm_fast.objectives import AdaptiveBregman, AdaptiveNCE, PersistentCD, bregman_loss, nce_loss
from ebm_fast.objectives.generators import GENERATORS, Generator, Logistic, Power
from ebm_fast.training import ReplayBuffer

F64 = torch.float64
LANGEVIN = Langevin(step_size=0.1)


class Net(nn.Module):
    """An energy with buffers of two dtypes beside its parameters; counts its evaluations with and without graph."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, classes)).to(F64)
        self.register_buffer("scale", torch.tensor(0.7, dtype=F64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.plain = self.graded = 0

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and not x.requires_grad:
            self.graded += 1
        elif not torch.is_grad_enabled():
            self.plain += 1
        out = self.net(x)
        out = out[:, 0] if y is None else out.gather(1, y.unsqueeze(1)).squeeze(1)
        return self.scale * out + 0.5 * x.square().sum(1)


def buffer(seed: int = 4, **options: object) -> ReplayBuffer:
    return ReplayBuffer(40, (2,), init=("normal", 1.0), rejuvenation=0.2, dtype=F64, seed=seed, **options)


def descend(loss: Tensor, parameters: list[nn.Parameter], rate: float = 0.1) -> None:
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p -= rate * g


@pytest.mark.parametrize("generator", [*GENERATORS.values(), Logistic(3.0), Power(2.0)], ids=repr)
def test_interval_one_is_maximum_likelihood(generator):
    """The gradient is S0'(1) times that of PersistentCD on the same samples, to rounding, in every iteration of a training."""
    net = Net()
    adaptive = AdaptiveBregman(net, LANGEVIN, buffer(), interval=1, generator=generator, num_steps=5, seed=1)
    likelihood = PersistentCD(net, LANGEVIN, buffer(), num_steps=5, seed=1)
    for _ in range(4):
        data = torch.randn(12, 2, dtype=F64)
        (a, metrics), (b, _) = adaptive(data), likelihood(data)
        one, two = gradient(a, adaptive.parameters()), gradient(b, likelihood.parameters())
        torch.testing.assert_close(one, generator.slope * two, rtol=1e-12, atol=1e-15)
        assert two.abs().max() > 0.01 and metrics["log_ratio_std"].item() == 0.0
        descend(b, list(net.parameters()))
    assert torch.equal(adaptive.buffer.samples, likelihood.buffer.samples)
    assert adaptive.frozen is None, "no copy is kept"


def test_adaptive_nce_has_half_the_gradient_of_maximum_likelihood():
    """To the last bits, with energies as large as 1e3, at interval 1 and just after each refresh of longer ones."""
    for interval in (1, 3):
        net = Net()
        with torch.no_grad():
            net.net[2].bias += 1e3
        adaptive = AdaptiveNCE(net, LANGEVIN, buffer(), interval=interval, num_steps=5, seed=1)
        likelihood = PersistentCD(net, LANGEVIN, buffer(), num_steps=5, seed=1)
        data = torch.randn(12, 2, dtype=F64)
        (a, _), (b, _) = adaptive(data), likelihood(data)
        torch.testing.assert_close(
            gradient(a, net.parameters()), 0.5 * gradient(b, net.parameters()), rtol=1e-12, atol=1e-15
        )
        assert a.item() == pytest.approx(2 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("generator", [Logistic(), GENERATORS["kl"], Power(0.5)], ids=repr)
def test_the_noise_is_the_model_of_the_last_refresh(generator):
    """Seven iterations with interval 3, against the algorithm written out: chains and noise energies of a copy."""
    net, twin = Net(), buffer()
    objective = AdaptiveBregman(net, LANGEVIN, buffer(), interval=3, generator=generator, num_steps=5, seed=1)
    for t in range(7):
        data = torch.randn(12, 2, dtype=F64)
        if t % 3 == 0:
            model = copy.deepcopy(net)
        drawn = twin.draw(12)
        engine.run_(model, LANGEVIN, drawn.x, num_steps=5, seed=1, step=5 * t)
        twin.write(drawn.slots, drawn.x)
        r_data, r_noise = (model(x).detach() - net(x) for x in (data, drawn.x))
        wanted = bregman_loss(r_data, r_noise, generator)
        if generator == Logistic():
            torch.testing.assert_close(wanted, nce_loss(r_data, r_noise), rtol=1e-14, atol=0)
        loss, metrics = objective(data)
        torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(loss, net.parameters()), gradient(wanted, net.parameters()), rtol=1e-11, atol=1e-14)
        assert torch.equal(objective.buffer.samples, twin.samples)
        spread = torch.cat([r_data, r_noise]).std(correction=0).item()
        assert metrics["log_ratio_std"].item() == pytest.approx(spread, abs=1e-14) and (spread > 1e-3) == (t % 3 > 0)
        descend(loss, list(net.parameters()))
        with torch.no_grad():
            net.count += 1
            net.scale *= 1.01


def test_nothing_is_evaluated_twice():
    """One evaluation with a graph an iteration; one of the copy, but where the copy is the model itself."""
    net = Net()
    objective = AdaptiveNCE(net, LANGEVIN, buffer(), interval=2, num_steps=5, seed=1)
    for t in range(4):
        objective(torch.randn(12, 2, dtype=F64))
        assert net.graded == t + 1 and net.plain == 0
        assert objective.frozen.graded == 0 and objective.frozen.plain == t // 2 + t % 2


def test_the_copy_is_frozen_and_follows_the_model():
    net = Net()
    objective = AdaptiveNCE(net, LANGEVIN, buffer(), interval=2, num_steps=2, seed=1)
    data = torch.randn(6, 2, dtype=F64)
    descend(objective(data)[0], list(net.parameters()))
    frozen = objective.frozen
    assert not any(p.requires_grad for p in frozen.parameters()) and not frozen.training and net.training
    assert [id(p) for p in objective.parameters()] == [id(p) for p in net.parameters()]
    held = {name: t.clone() for name, t in frozen.state_dict().items()}
    with torch.no_grad():
        net.count += 5
    objective(data)
    assert all(torch.equal(t, held[name]) for name, t in frozen.state_dict().items())
    objective(data)
    assert objective.frozen is frozen
    assert all(torch.equal(t, frozen.state_dict()[name]) for name, t in net.state_dict().items())
    still = ("scale", "net.2.bias")  # the gradient in a constant is 0 where the copy is the model
    assert not any(torch.equal(t, held[name]) for name, t in frozen.state_dict().items() if name not in still)
    net.float()
    objective.refresh()
    assert objective.frozen.net[0].weight.dtype == torch.float32, "a model that has moved is copied anew"


def test_the_copy_of_an_energy_with_a_descriptor():
    """Fused chains see the copy's parameters, which are written in place."""
    energy = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.5, trainable=True)
    store, twin = (ReplayBuffer(64, (2,), init=("normal", 1.0), rejuvenation=0.0, seed=2) for _ in range(2))
    objective = AdaptiveNCE(energy, LANGEVIN, store, interval=2, num_steps=3, seed=5)
    for t in range(5):
        if t % 2 == 0:
            model = copy.deepcopy(energy)
        drawn = twin.draw(32)
        engine.run_(model, LANGEVIN, drawn.x, num_steps=3, seed=5, step=3 * t)
        twin.write(drawn.slots, drawn.x)
        loss, _ = objective(torch.randn(32, 2))
        torch.testing.assert_close(store.samples, twin.samples)
        descend(loss, list(energy.parameters()))


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=repr)
def test_fixed_points_are_exact(generator):
    """For any copy m the gradient vanishes, in expectation, where e^-E_theta = p_data Z_m, and not at the copy itself."""
    x = grid(0.0, 9.0, 2001)
    model = Quadratic(-0.2, 0.8, c=0.4)
    energy = Quadratic(0.3, 1.4, c=0.0)
    with torch.no_grad():
        energy.c.fill_(0.5 * math.log(2 * math.pi / 1.4) - model.log_z())
    data, rest = log_normal(x, 0.3, 1.4**-0.5), log_normal(x, -0.2, 0.8**-0.5)

    def found(e: nn.Module) -> float:
        r = model(x).detach() - e(x)
        loss = expectation(generator.s0(r), rest, x) - expectation(generator.s1(r), data, x)
        return gradient(loss, e.parameters()).abs().max().item()

    assert found(energy) < 1e-11
    assert found(Quadratic(-0.2, 0.8, c=0.4)) > 0.05


@pytest.mark.parametrize("interval", [1, 4])
def test_training_finds_the_density(interval):
    """A Gaussian's mean and precision, averaged over the end of a training; the fixed point is the discretised chain's law."""
    data = 0.8 * torch.randn(2048, 1, dtype=F64) - 1.5
    energy = Quadratic(0.0, 1.0, c=0.0)
    store = ReplayBuffer(2048, (1,), init=("normal", 1.0), rejuvenation=0.0, dtype=F64, seed=2)
    objective = AdaptiveNCE(energy, LANGEVIN, store, interval=interval, num_steps=5, seed=2)
    found = torch.zeros(200, 2)
    for i in range(300):
        loss, _ = objective(data)
        descend(loss, list(energy.parameters()), 1.0)
        if i >= 100:
            found[i - 100] = torch.stack([energy.m.detach(), energy.p.detach()])
    m, p = found.mean(0).tolist()
    truth = (1 - math.sqrt(1 - 2 * 0.1 / data.var(correction=0).item())) / 0.1
    assert m == pytest.approx(data.mean().item(), abs=0.02)
    assert p == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resume_is_exact_anywhere_in_the_interval(stop):
    def train(net: nn.Module, objective: AdaptiveNCE, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, _ = objective(data)
            descend(loss, list(net.parameters()))
            losses.append(loss.item())
        return losses

    data, net = torch.randn(8, 2, dtype=F64), Net()
    options = {"interval": 3, "num_steps": 3, "data_noise": 0.1, "energy_l2": 0.01}
    objective = AdaptiveNCE(net, LANGEVIN, buffer(), seed=3, **options)
    train(net, objective, stop)
    state = copy.deepcopy(objective.state_dict())
    other_net = Net()
    other_net.load_state_dict(net.state_dict())
    other = AdaptiveNCE(other_net, LANGEVIN, buffer(seed=9), **options)
    other.load_state_dict(state)
    expected = train(net, objective, 4)
    assert train(other_net, other, 4) == expected
    with torch.no_grad():
        other_net.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match=r"interval=1, as here, got .*interval=3"):
        AdaptiveNCE(net, LANGEVIN, buffer(), num_steps=3).load_state_dict(state)
    fresh = AdaptiveNCE(net, LANGEVIN, buffer(), seed=3, **options)
    other.load_state_dict(fresh.state_dict())
    assert other.frozen is None and other.iteration == 0


def test_added_terms_and_labels():
    net, data, y = Net(classes=3), torch.randn(6, 2, dtype=F64), torch.tensor([0, 2, 1, 1, 2, 0])
    store = ReplayBuffer(30, (2,), init=("normal", 1.0), rejuvenation=0.0, num_classes=3, dtype=F64, seed=1)
    objective = AdaptiveNCE(net, LANGEVIN, store, interval=2, num_steps=2, seed=1)
    for _ in range(2):
        loss, metrics = objective((data, y))
        descend(loss, list(net.parameters()))
    assert set(metrics) == {"energy_data", "energy_samples", "gap", "grad_norm", "log_ratio_std"}
    plain, added = (
        AdaptiveNCE(Net(), LANGEVIN, buffer(), num_steps=2, seed=1, energy_l2=w)(data) for w in (0.0, 0.5)
    )
    assert added[0].item() > plain[0].item() + 0.01


def test_errors():
    net = Net()
    for options in ({"kl_weight": 0.1}, {"entropy_weight": 0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            AdaptiveNCE(net, LANGEVIN, buffer(), num_steps=1, **options)
    for error, value in ((ValueError, 0), (TypeError, 2.0)):
        with pytest.raises(error, match="interval"):
            AdaptiveNCE(net, LANGEVIN, buffer(), num_steps=1, interval=value)
    with pytest.raises(TypeError, match="interval=2 needs a torch module"):
        AdaptiveNCE(lambda x: x.sum(1), LANGEVIN, buffer(), num_steps=1, interval=2)
    AdaptiveNCE(lambda x: x.square().sum(1), LANGEVIN, buffer(), num_steps=1)(torch.randn(4, 2, dtype=F64))
    with pytest.raises(TypeError, match="use AdaptiveBregman"):
        AdaptiveNCE(net, LANGEVIN, buffer(), num_steps=1, generator="kl")
    with pytest.raises(ValueError, match="generator: expected one of"):
        AdaptiveBregman(net, LANGEVIN, buffer(), num_steps=1, generator="hellinger")
    objective = AdaptiveNCE(net, LANGEVIN, buffer(), num_steps=1, interval=2)
    objective(torch.randn(4, 2, dtype=F64))
    with torch.no_grad():
        objective.frozen.net[2].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="log_ratio"):
        objective(torch.randn(4, 2, dtype=F64))


def test_generators_have_the_protocol():
    assert all(isinstance(g.slope, float) for g in GENERATORS.values())
    assert {g.slope for g in GENERATORS.values()} == {0.5, 1.0, 1.5}
    assert callable(Generator)


@pytest.mark.cuda
@pytest.mark.parametrize("strategy", ["step", "graph"])
def test_an_iteration_does_not_wait_for_the_device(strategy):
    net = Net().float().cuda()
    store = ReplayBuffer(40, (2,), init=("normal", 1.0), device="cuda")
    objective = AdaptiveNCE(net, LANGEVIN, store, interval=2, num_steps=4, strategy=strategy, seed=0)
    data = torch.randn(10, 2, device="cuda")
    for _ in range(3):
        objective(data)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            objective(data)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    objective.finish_checks()
