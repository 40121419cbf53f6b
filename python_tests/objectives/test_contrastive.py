"""Objectives against the exactly Gaussian law of Langevin chains, buffer semantics, errors, resume."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from samplers.family import family
from torch import Tensor, nn

from ebm_fast import HMC, Langevin, ReplicaExchange, energies, engine
from ebm_fast.engine import ChainState, EnergyFunction
from ebm_fast.models import ConvNetEnergy
from ebm_fast.objectives import ContrastiveDivergence, PersistentCD, ShortRunMLE, contrastive_divergence_loss
from ebm_fast.training import BatchStream, ReplayBuffer

STEP = 0.1
LANGEVIN = Langevin(step_size=STEP)
GRADIENT_FREE = ("random walk", "random walk, scaled", "metropolis-hastings", "independence")


class Gaussian(nn.Module):
    """E(x) = p |x - m|^2 / 2 with learnable m and p."""

    def __init__(self, m: float = 0.0, p: float = 1.0) -> None:
        super().__init__()
        self.m, self.p = nn.Parameter(torch.tensor(m)), nn.Parameter(torch.tensor(p))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.p * (x - self.m).square().sum(1)


def law(steps: int, mean: float, variance: float, m: float, p: float) -> tuple[float, float]:
    """Mean and variance after `steps` of x <- x - s p (x - m) + sqrt(2 s) z from (mean, variance): exact."""
    a = 1 - STEP * p
    stationary = 2 * STEP / (1 - a * a)
    return m + a**steps * (mean - m), stationary + a ** (2 * steps) * (variance - stationary)


def exact_gradient(data: Tensor, mean: float, variance: float, m: float, p: float) -> tuple[float, float]:
    """dL/dm, dL/dp for the data and samples of a given mean and variance (one-dimensional)."""
    moments = variance + (mean - m) ** 2
    return p * (mean - data.mean().item()), 0.5 * ((data - m).square().mean().item() - moments)


N = 100_000


@pytest.mark.parametrize("steps", [1, 5, 100])
@pytest.mark.parametrize("start", ["data", "noise"])
def test_gradient_is_the_exact_one_of_the_k_step_law(steps, start):
    """Within 5 standard errors of the exact gradient, which are less than 5 % of it: a wrong sign or scale fails.

    With 100 steps the law has forgotten its start to 1e-4, and the gradient is that of the likelihood but for the
    chain's discretisation, whose variance 1 / (p (1 - s p / 2)) is 5 % above 1 / p.
    """
    m, p = 1.0, 1.0
    data = torch.randn(N, 1) * 2 + 3
    energy = Gaussian(m, p)
    if start == "data":
        objective: ContrastiveDivergence = ContrastiveDivergence(energy, LANGEVIN, num_steps=steps, seed=1)
        mean, variance = law(steps, data.mean().item(), data.var(correction=0).item(), m, p)
    else:
        objective = ShortRunMLE(energy, LANGEVIN, ("normal", 0.5), num_steps=steps, seed=1)
        mean, variance = law(steps, 0.0, 0.25, m, p)
    loss, metrics = objective(data)
    loss.backward()
    for found, exact, spread in zip(
        (energy.m.grad.item(), energy.p.grad.item()),
        exact_gradient(data, mean, variance, m, p),
        (p * math.sqrt(variance), 0.5 * math.sqrt(2 * variance**2 + 4 * variance * (mean - m) ** 2)),
    ):
        error = 5 * spread / math.sqrt(N)
        if steps == 1 and start == "data":
            # One step from the data: compare in full, although the contrast itself is then within a few errors.
            assert abs(found - exact) < error
            continue
        assert abs(found - exact) < error < 0.05 * abs(exact)
    if steps == 100:
        likelihood = exact_gradient(data, m, 1 / p, m, p)
        assert (energy.m.grad.item(), energy.p.grad.item()) == pytest.approx(likelihood, rel=0.02)
    assert metrics["gap"].item() == pytest.approx(-loss.item(), rel=1e-5)
    assert metrics["gap"].item() == pytest.approx((metrics["energy_samples"] - metrics["energy_data"]).item())


def test_persistent_cd_finds_the_maximum_likelihood():
    """Averaged over the second half of the run; the fixed point is the data's law under the *discretised* chain."""
    data = torch.randn(2048, 1) * 0.8 - 1.5
    energy = Gaussian()
    buffer = ReplayBuffer(2048, (1,), init=("normal", 1.0), rejuvenation=0.0, seed=2)
    objective = PersistentCD(energy, LANGEVIN, buffer, num_steps=5, seed=2)
    optimizer = torch.optim.SGD(energy.parameters(), 0.2)
    found = torch.zeros(400, 2)
    for i in range(800):
        loss, _ = objective(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i >= 400:
            found[i - 400] = torch.stack([energy.m.detach(), energy.p.detach()])
    m, p = found.mean(0).tolist()
    # 1 / (p (1 - s p / 2)) = variance  =>  p = (1 - sqrt(1 - 2 s / variance)) / s
    truth = (1 - math.sqrt(1 - 2 * STEP / data.var(correction=0).item())) / STEP
    assert m == pytest.approx(data.mean().item(), abs=0.02)
    assert p == pytest.approx(truth, rel=0.02)
    assert abs(truth * data.var().item() - 1) > 0.05, "power: the limit of small steps would be told apart"


def test_loss_is_its_formula():
    e_data, e_model = (
        torch.tensor([1.0, 2.0, 6.0], requires_grad=True),
        torch.tensor([4.0, -1.0], requires_grad=True),
    )
    loss = contrastive_divergence_loss(e_data, e_model, energy_l2=0.1)
    assert loss.item() == pytest.approx(3.0 - 1.5 + 0.1 * (41 / 3 + 17 / 2))
    loss.backward()
    torch.testing.assert_close(e_data.grad, (1 + 0.2 * e_data.detach()) / 3)
    torch.testing.assert_close(e_model.grad, (-1 + 0.2 * e_model.detach()) / 2)
    for bad in (torch.tensor(1.0), torch.ones(2, 1), torch.ones(0)):
        with pytest.raises(ValueError, match="e_data"):
            contrastive_divergence_loss(bad, e_model)
        with pytest.raises(ValueError, match="e_model"):
            contrastive_divergence_loss(e_data, bad)


def test_energy_l2_enters_the_objective():
    data = torch.randn(50, 1)
    losses = {}
    for weight in (0.0, 0.5):
        losses[weight], _ = ContrastiveDivergence(
            Gaussian(), LANGEVIN, num_steps=3, energy_l2=weight, seed=0
        )(data)
    energy, samples = Gaussian(), data.clone()
    engine.run_(energy, LANGEVIN, samples, num_steps=3, seed=0)
    added = 0.5 * (energy(data).square().mean() + energy(samples).square().mean())
    torch.testing.assert_close(losses[0.5] - losses[0.0], added)


def small_net(**options: object) -> ConvNetEnergy:
    torch.manual_seed(0)
    return ConvNetEnergy(1, 8, (4, 8), (6,), **options)


MAKERS: dict[str, Callable[..., ContrastiveDivergence]] = {
    "cd": lambda net, **o: ContrastiveDivergence(net, LANGEVIN, num_steps=4, **o),
    "pcd": lambda net, **o: PersistentCD(
        net,
        LANGEVIN,
        ReplayBuffer(40, (1, 8, 8), init=("uniform", -1.0, 1.0), rejuvenation=0.2),
        num_steps=4,
        **o,
    ),
    "short": lambda net, **o: ShortRunMLE(net, LANGEVIN, num_steps=4, **o),
}
IMPROVED = {"kl_weight": 0.5, "entropy_weight": 0.1}


@pytest.mark.parametrize("options", [{}, {"data_noise": 0.1, "energy_l2": 0.1}, IMPROVED])
@pytest.mark.parametrize("maker", list(MAKERS))
def test_loss_is_differentiable_and_sampling_leaves_no_trace(maker, options):
    net, data = small_net(), torch.rand(10, 1, 8, 8)
    before = data.clone()
    objective = MAKERS[maker](net, **options)
    loss, metrics = objective(data)
    assert loss.shape == () and loss.requires_grad
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(data, before)
    assert all(
        value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values()
    )
    assert metrics["grad_norm"] > 0
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert sum(p.grad.abs().sum() for p in net.parameters()) > 0


@pytest.mark.parametrize("options", [{}, IMPROVED])
def test_iteration_t_is_the_engine_s_chain_at_step_t_k(options):
    net, data = small_net(), torch.rand(6, 1, 8, 8)
    seen: list[Tensor] = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    objective = ContrastiveDivergence(net, LANGEVIN, num_steps=4, seed=9, chain_offset=5, **options)
    for t in range(3):
        seen.clear()
        _, metrics = objective(data)
        found = next(x for x in seen if len(x) == 12)[6:]
        samples = data.clone()
        norm = engine.run_(
            net, LANGEVIN, samples, num_steps=4, seed=9, step=4 * t, chain_offset=5, grad_norm=True
        )
        torch.testing.assert_close(found, samples, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(metrics["grad_norm"], norm.mean(), rtol=1e-5, atol=1e-6)
    other = data.clone()
    engine.run_(net, LANGEVIN, other, num_steps=4, seed=9, step=4, chain_offset=5)
    assert not torch.allclose(other, samples), "iterations have their own noise"


SAMPLERS = {
    name: sampler
    for name, (sampler, _) in family((3,)).items()
    if not name.startswith(("replicas", "annealed"))  # those have states, or energies, of another kind
}


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_any_sampler_moves_the_chains(name):
    """The gradient strength is the mean over the states that the steps end at; samplers without gradients have none."""
    net, sampler, data = Gaussian(0.3, 1.5), SAMPLERS[name], torch.randn(12, 3)
    objective = ContrastiveDivergence(net, sampler, num_steps=3, seed=4)
    loss, metrics = objective(data)
    loss.backward()
    assert net.m.grad.abs() > 0
    assert ("grad_norm" in metrics) == (name not in GRADIENT_FREE)
    x, state = data.clone(), ChainState(data.clone(), 4)
    engine.run_(net, sampler, x, num_steps=3, seed=4)
    torch.testing.assert_close(metrics["energy_samples"], net(x).mean().detach())
    if type(sampler).__name__ in ("HMC", "MALA", "GHMC"):
        transition = sampler.transition(
            EnergyFunction(net), state, backend=None, guard=False, track=False, rng=None
        )
        norms = []
        for _ in range(3):
            transition.advance(1)
            norms.append((1.5 * (state.x - 0.3)).norm(dim=1))
        torch.testing.assert_close(metrics["grad_norm"], torch.stack(norms).mean(), check_dtype=False)


def test_gradient_strength_on_an_energy_with_native_chains():
    energy, x = energies.Gaussian(torch.zeros(3), variance=torch.full((3,), 0.5)), torch.randn(12, 3)
    norms = []
    for strategy in ("fused", "step"):
        norm = engine.run_(energy, HMC(0.3, 3), x.clone(), 5, seed=1, strategy=strategy, grad_norm=True)
        norms.append(norm)
    torch.testing.assert_close(*norms)


@pytest.mark.parametrize(
    "init", [("uniform", -1.0, 1.0), ("normal", 1.0), torch.linspace(-1, 1, 6400).view(100, 1, 8, 8)]
)
def test_short_runs_of_a_split_batch_are_those_of_the_whole(init):
    """Rows 4..7 of a batch of 8 start, and end, where a batch of 4 with chain_offset=4 does."""
    net, data, seen = small_net(), torch.rand(8, 1, 8, 8), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))

    def starts_and_ends(batch: Tensor, chain_offset: int) -> tuple[Tensor, Tensor]:
        seen.clear()
        ShortRunMLE(net, LANGEVIN, init, num_steps=3, seed=2, chain_offset=chain_offset)(batch)
        return seen[0], seen[-1][len(batch) :]

    whole, first, second = (starts_and_ends(*part) for part in ((data, 0), (data[:4], 0), (data[4:], 4)))
    assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
    assert not torch.equal(first[0], second[0])
    torch.testing.assert_close(whole[1], torch.cat([first[1], second[1]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("maker", list(MAKERS))
def test_without_a_seed_torch_s_generator_decides(maker):
    net, data = small_net(), torch.rand(6, 1, 8, 8)

    def losses(torch_seed: int) -> list[float]:
        torch.manual_seed(torch_seed)
        return [MAKERS[maker](net)(data)[0].item() for _ in range(2)]

    assert losses(1) == losses(1)
    assert len({*losses(1), *losses(2)}) == 4


def test_persistent_chains_go_back_to_their_slots():
    net = small_net()
    buffer = ReplayBuffer(20, (1, 8, 8), init=("uniform", -1.0, 1.0), rejuvenation=0.0, seed=4)
    before = buffer.samples.clone()
    twin = ReplayBuffer(20, (1, 8, 8), init=("uniform", -1.0, 1.0), rejuvenation=0.0, seed=4)
    PersistentCD(net, LANGEVIN, buffer, num_steps=4, seed=1)(torch.rand(7, 1, 8, 8))
    drawn = twin.draw(7)
    engine.run_(net, LANGEVIN, drawn.x, num_steps=4, seed=1)
    before[drawn.slots] = drawn.x
    assert torch.equal(buffer.samples, before)


def test_class_conditional_chains_stay_in_their_class():
    net = small_net(num_classes=3)
    labels_seen: list[Tensor] = []
    net.register_forward_hook(
        lambda module, inputs, kwargs, output: labels_seen.append(kwargs["y"]), with_kwargs=True
    )
    buffer = ReplayBuffer(12, (1, 8, 8), init=("normal", 1.0), rejuvenation=0.0, num_classes=3)
    objective = PersistentCD(net, LANGEVIN, buffer, num_steps=2)
    y = torch.tensor([2, 0, 2, 1])
    before = buffer.samples.clone()
    loss, _ = objective((torch.rand(4, 1, 8, 8), y))
    loss.backward()
    changed = (buffer.samples != before).flatten(1).any(1).view(3, 4).sum(1)
    assert changed.tolist() == [1, 1, 2]
    assert [len(labels) for labels in labels_seen] == [4, 4, 8]
    assert all(torch.equal(labels, y.repeat(len(labels) // 4)) for labels in labels_seen)
    with pytest.raises(ValueError, match="the buffer has classes"):
        objective(torch.rand(4, 1, 8, 8))


@pytest.mark.parametrize("maker", list(MAKERS))
def test_resume_is_exact(maker):
    def train(net: nn.Module, objective: ContrastiveDivergence, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, _ = objective(data)
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.1 * p.grad
            losses.append(loss.item())
        return losses

    data = torch.rand(8, 1, 8, 8)
    net = small_net()
    objective = MAKERS[maker](net, seed=3, data_noise=0.1)
    train(net, objective, 3)
    other_net = small_net()
    other_net.load_state_dict(net.state_dict())
    other = MAKERS[maker](other_net, data_noise=0.1)
    other.load_state_dict(objective.state_dict())
    assert train(other_net, other, 3) == train(net, objective, 3)


def test_data_noise_has_its_strength():
    data, seen = torch.zeros(20000, 1), []

    def energy(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().sum(1)

    ContrastiveDivergence(energy, LANGEVIN, num_steps=1, data_noise=0.3, seed=0)(data)
    noised = seen[-1][:20000]
    assert abs(noised.std() - 0.3) < 5 * 0.3 / math.sqrt(40000) and abs(noised.mean()) < 5 * 0.3 / math.sqrt(
        20000
    )


def test_what_is_not_finite_is_named_and_spares_the_buffer():
    energy = Gaussian()
    buffer = ReplayBuffer(10, (1,), init=("normal", 1.0), rejuvenation=0.0)
    objective = PersistentCD(energy, LANGEVIN, buffer, num_steps=2)
    before = buffer.samples.clone()
    with pytest.raises(FloatingPointError, match=r"not finite: batch, energy_data$"):
        objective(torch.tensor([[1.0], [math.nan]]))
    with torch.no_grad():
        energy.p.fill_(math.inf)
    with pytest.raises(FloatingPointError, match=r"samples.*energy_samples"):
        objective(torch.ones(3, 1))
    assert torch.equal(buffer.samples, before)


def test_what_loaders_of_one_tensor_yield_is_a_batch_of_states():
    x = torch.randn(16, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 16)
    stream = BatchStream([x], 16, seed=1)
    for batch in (next(iter(loader)), next(stream)):
        assert len(batch) == 1
        pair = [ContrastiveDivergence(Gaussian(), LANGEVIN, num_steps=2, seed=0)(b)[0] for b in (batch, batch[0])]
        assert torch.equal(*pair)


def test_bad_arguments():
    for error, options in (
        (ValueError, {"num_steps": 0}),
        (TypeError, {"num_steps": 2.5}),
        (ValueError, {"seed": 1 << 64}),
        (ValueError, {"seed": -(1 << 63) - 1}),
        (TypeError, {"seed": "a"}),
        (TypeError, {"seed": 1.0}),
        (ValueError, {"chain_offset": -1}),
        (ValueError, {"strategy": "fast"}),
        (ValueError, {"strategy": None}),
    ):
        with pytest.raises(error, match=next(iter(options))):
            ContrastiveDivergence(Gaussian(), LANGEVIN, **{"num_steps": 1, **options})
    for name in ("energy_l2", "gradient_penalty", "kl_weight", "entropy_weight", "data_noise"):
        for bad in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=name):
                ContrastiveDivergence(Gaussian(), LANGEVIN, num_steps=1, **{name: bad})
        for bad in ("a", None, [0.1]):
            with pytest.raises(TypeError, match=f"{name} must be a number, got"):
                ContrastiveDivergence(Gaussian(), LANGEVIN, num_steps=1, **{name: bad})
    for energy in (None, 3.0, nn.Linear):
        with pytest.raises(TypeError, match="energy: expected a callable"):
            ContrastiveDivergence(energy, LANGEVIN, num_steps=1)
    for sampler in (None, "langevin", Langevin):
        with pytest.raises(TypeError, match="sampler must be a sampler"):
            ContrastiveDivergence(Gaussian(), sampler, num_steps=1)
    with pytest.raises(TypeError, match=r"sampler: expected one that moves states alone, .* got ReplicaExchange"):
        ContrastiveDivergence(Gaussian(), ReplicaExchange(LANGEVIN, (1.0, 0.5)), num_steps=1)
    for buffer in (None, torch.ones(10, 1), ReplayBuffer):
        with pytest.raises(TypeError, match="buffer: expected a ReplayBuffer"):
            PersistentCD(Gaussian(), LANGEVIN, buffer, num_steps=1)
    buffer = ReplayBuffer(10, (1,), init=("normal", 1.0))
    with pytest.raises(ValueError, match=r"n: expected 1\.\.10, because the buffer has 10 slots; got a batch of 11"):
        PersistentCD(Gaussian(), LANGEVIN, buffer, num_steps=1)(torch.ones(11, 1))
    with pytest.raises(TypeError, match=r"energy: .* torch module"):
        ContrastiveDivergence(lambda x: x.sum(1), LANGEVIN, num_steps=1, kl_weight=1.0)
    for sampler in (Langevin(step_size=0.1, momentum=0.5), Langevin(step_size=(0.1, 0.2)), object()):
        with pytest.raises(TypeError, match="without momentum or schedule"):
            ContrastiveDivergence(Gaussian(), sampler, num_steps=1, kl_weight=1.0)
    objective = ContrastiveDivergence(Gaussian(), LANGEVIN, num_steps=1)
    for batch in (torch.ones(3), torch.ones(0, 1), torch.ones(3, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="batch: expected floating-point states"):
            objective(batch)
    x = torch.ones(3, 1)
    for batch, got in (
        (x.cpu().numpy(), "ndarray"),
        ({"x": x}, "dict"),
        (["no tensor", None], r"a list of 2 \(str, NoneType\)"),
        ((x, [0, 1, 2]), r"a tuple of 2 \(Tensor, list\)"),
        ([x, x, x], "a list of 3"),
        ([], "a list of 0"),
        (None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=rf"batch: expected x or \(x, y\).*, got {got}"):
            objective(batch)
    with pytest.raises(ValueError, match="a label for each of 3 states, got a single number"):
        objective((x, torch.tensor(1)))
    with pytest.raises(ValueError, match="a label for each of 3 states, got 2"):
        objective((torch.ones(3, 1), torch.zeros(2)))
    buffer = ReplayBuffer(10, (2,), init=("normal", 1.0))
    with pytest.raises(ValueError, match="states like the buffer's"):
        PersistentCD(Gaussian(), LANGEVIN, buffer, num_steps=1)(torch.ones(3, 1))


@pytest.mark.cuda
def test_an_iteration_does_not_wait_for_the_device_and_notices_nan_later():
    net = small_net().cuda()
    buffer = ReplayBuffer(40, (1, 8, 8), init=("uniform", -1.0, 1.0), device="cuda")
    objective = PersistentCD(net, LANGEVIN, buffer, num_steps=4, strategy="step")
    data = torch.rand(10, 1, 8, 8, device="cuda")
    objective(data)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(data)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    objective.finish_checks()
    objective(data * math.nan)
    with pytest.raises(FloatingPointError, match="batch"):
        objective.finish_checks()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(math.nan)
    objective(data)
    with pytest.raises(FloatingPointError, match="samples"):
        objective.finish_checks()
    assert buffer.samples.isfinite().all(), "chains that are known to be lost only later do not go back"
