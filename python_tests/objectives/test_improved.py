"""Improved CD: the last step equals the engine's, its derivative finite differences, the entropy brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from ebm_fast import Langevin, engine
from ebm_fast.objectives import ContrastiveDivergence
from ebm_fast.objectives.improved import differentiable_last_step, frozen_energy, nearest_neighbour_entropy


class Quartic(nn.Module):
    """E(x) = sum a x^4 + b x y, not quadratic, with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x**4 + self.b * x * x.roll(1, 1)).sum(1)


OPTIONS = [
    {"order": order, "clamp": (-0.5, 1.0), "clamp_after": after, **rest}
    for order, after, rest in itertools.product(
        ["gradient", "noise"],
        ["last", "step", "noise", "both"],
        [
            {},
            {"clamp": None, "noise_std": 0.3, "prior_precision": 0.5},
            {"grad_clip": 0.4, "prior_precision": 0.5},
            {"grad_clip_norm": 0.8, "noise_std": (0.1, 0.5)},
            {"step_size": (0.0, 0.4), "temperature": 0.5},
            {"preconditioner": (0.5, 2.0), "prior_precision": 0.5, "grad_clip_norm": 0.8},
            {"temperature": (0.1, 2.0), "preconditioner": (0.5, 2.0)},
        ],
    )
]


@pytest.mark.parametrize("options", OPTIONS)
def test_last_step_is_the_engine_s(options):
    """A pair in the options stands for a tensor of one value a chain, or a coordinate for the preconditioner."""
    sizes = {"step_size": 64, "noise_std": 64, "temperature": 64, "preconditioner": 3}
    options = {
        k: torch.linspace(*v, sizes[k]) if k in sizes and isinstance(v, tuple) else v for k, v in options.items()
    }
    energy, sampler = Quartic().double(), Langevin(**{"step_size": 0.2, **options})
    x = torch.randn(64, 3, dtype=torch.float64).clamp(-0.5, 1.0)
    last, gradient = differentiable_last_step(energy, sampler, x, {}, 7, 11, 3)
    truth = x.clone()
    norm = engine.run_(energy, sampler, truth, num_steps=1, seed=7, step=11, chain_offset=3, grad_norm=True)
    torch.testing.assert_close(last.detach(), truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.norm(dim=1), norm, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"order": "noise"}, {"clamp": (-0.5, 1.0)}, {"grad_clip_norm": 0.5}, {"preconditioner": torch.tensor([0.5, 1.0, 2.0])}],
    ids=str,
)
def test_kl_gradient_by_finite_differences(options):
    """d/d theta of E_frozen(x_K(theta)): the parameters move in the step alone, not in the outer energy."""
    energy, frozen, sampler = Quartic().double(), Quartic().double(), Langevin(step_size=0.1, **options)
    x = torch.randn(32, 3, dtype=torch.float64)

    def kl() -> Tensor:
        last, _ = differentiable_last_step(energy, sampler, x, {}, 0, 0, 0)
        return frozen_energy(frozen, last, {}).mean()

    found = torch.autograd.grad(kl(), list(energy.parameters()))
    for parameter, gradient in zip(energy.parameters(), found, strict=True):
        values = []
        for shift in (1e-5, -2e-5):
            parameter.data += shift
            values.append(kl().item())
        parameter.data += 1e-5
        assert gradient.item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
        assert abs(gradient.item()) > 1e-3


def test_the_frozen_energy_gives_its_parameters_no_gradient():
    energy, x = Quartic(), torch.randn(4, 3, requires_grad=True)
    value = frozen_energy(energy, x, {})
    assert torch.equal(value, energy(x))
    value.sum().backward()
    assert energy.a.grad is None and x.grad is not None and energy.a.requires_grad


def test_entropy_by_brute_force():
    x = torch.randn(20, 2, 3, dtype=torch.float64, requires_grad=True)
    flat = x.detach().flatten(1)
    distances = torch.stack([torch.stack([(a - b).norm() for b in flat]) for a in flat])
    distances.fill_diagonal_(torch.inf)
    entropy = nearest_neighbour_entropy(x)
    assert entropy.item() == pytest.approx(distances.min(1).values.log().mean().item())
    entropy.backward()
    i, j = 5, int(distances[5].argmin())
    difference = flat[i] - flat[j]
    torch.testing.assert_close(x.grad[i].flatten(), difference / difference.square().sum() / 20)
    with pytest.raises(ValueError, match="at least 2"):
        nearest_neighbour_entropy(x[:1])
    assert nearest_neighbour_entropy(x.bfloat16()).item() == pytest.approx(entropy.item(), abs=0.01)
    same = torch.zeros(3, 2, requires_grad=True)
    nearest_neighbour_entropy(same).backward()
    assert same.grad.isfinite().all()


def test_the_terms_enter_the_loss_with_their_signs():
    data = torch.randn(16, 3)
    sampler = Langevin(step_size=0.05)
    plain, _ = ContrastiveDivergence(Quartic(), sampler, num_steps=3, seed=0)(data)
    full, metrics = ContrastiveDivergence(
        Quartic(), sampler, num_steps=3, kl_weight=0.5, entropy_weight=0.2, seed=0
    )(data)
    torch.testing.assert_close(full, plain + 0.5 * metrics["kl"] - 0.2 * metrics["entropy"])
    torch.testing.assert_close(metrics["kl"], metrics["energy_samples"])
    single, _ = ContrastiveDivergence(Quartic(), sampler, num_steps=1, kl_weight=0.5)(data)
    assert single.isfinite()


def test_a_prior_in_the_sampler_or_in_the_energy_is_one_model():
    """p |x|^2 / 2 as `prior_precision` or within E: the same terms, and the same gradient of the network, in float64."""

    class WithPrior(Quartic):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.35 * x.square().sum(1)

    data, found = torch.randn(32, 3, dtype=torch.float64), []
    for energy, options in ((Quartic(), {"prior_precision": 0.7}), (WithPrior(), {})):
        energy, sampler = energy.double(), Langevin(step_size=0.05, **options)
        objective = ContrastiveDivergence(energy, sampler, num_steps=3, kl_weight=0.5, entropy_weight=0.2, seed=0)
        loss, metrics = objective(data)
        found.append((torch.stack(torch.autograd.grad(loss, [energy.a, energy.b])), metrics))
    (in_sampler, ours), (in_energy, truth) = found
    torch.testing.assert_close(in_sampler, in_energy, rtol=1e-10, atol=1e-12)
    for name in ("kl", "entropy"):
        torch.testing.assert_close(ours[name], truth[name], rtol=1e-10, atol=1e-12)
