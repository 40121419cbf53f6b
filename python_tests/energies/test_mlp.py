"""MLPEnergy: an ordinary module, trained in between, whose descriptor is what it computes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.energies.mlp import ACTIVATIONS
from ebm_fast.ops.rounding import round_gradient, rounded
from ebm_fast.reference.chain import energy_function

MODULES = dict(zip(ACTIVATIONS, (nn.Tanh, nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.GELU)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(7,), (5, 9, 4, 6)])
def test_it_is_the_network_and_the_descriptor_describes_it(activation, widths):
    torch.manual_seed(0)
    energy = MLPEnergy((2, 3), widths, activation)
    parts: list[nn.Module] = []
    for layer in energy.layers[:-1]:
        parts += [layer, MODULES[activation]()]
    x = torch.randn(11, 2, 3)
    torch.testing.assert_close(energy(x), nn.Sequential(*parts, energy.layers[-1])(x.flatten(1))[:, 0])
    d = energy.float().descriptor()
    assert (d.kind, d.dim, d.integers[1:]) == ("mlp", 6, (len(widths), *widths))
    packed = energy_function(d.kind, d.dim, d.integers, d.parameters)(x.flatten(1).double())
    torch.testing.assert_close(packed, energy.double()(x.double()), rtol=1e-5, atol=1e-6)


def test_training_between_runs_is_seen():
    """Three steps of an optimiser: the fused chain is the one that autograd's gradient makes of the new weights."""
    torch.manual_seed(0)
    energy, x0 = MLPEnergy(2, (16, 16), "silu"), torch.randn(9, 2)
    optimiser = torch.optim.SGD(energy.parameters(), 0.5)
    seen = []
    for k in range(3):
        run = ef.sample(energy, ef.Langevin(0.1), x0, num_steps=10, seed=k)
        assert run.strategy == "fused"
        other = ef.sample(energy, ef.Langevin(0.1), x0, num_steps=10, seed=k, strategy="step")
        torch.testing.assert_close(run.samples, other.samples, rtol=1e-5, atol=1e-5)
        seen.append(run.stats.energy[-1])
        optimiser.zero_grad()
        (energy(x0).mean() - energy(run.final).mean()).backward()
        optimiser.step()
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)
    assert all(p.grad is not None for p in energy.parameters())


def bf16(a: torch.Tensor) -> torch.Tensor:
    return a.to(torch.bfloat16).double()


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("widths", [(7,), (5, 9, 4)])
def test_bfloat16_products_by_hand(activation, widths):
    """E, its gradient in x and in the weights, layer by layer: matrices, what they multiply and deltas rounded, x and w not."""
    torch.manual_seed(0)
    energy, x = MLPEnergy(3, widths, activation, precision="bfloat16"), torch.randn(11, 3).double().requires_grad_(True)
    energy.double()
    act = MODULES[activation]()
    *hidden, last = energy.layers
    h, factors, slopes = x.detach(), [], []
    for layer in hidden:
        factors.append(bf16(h) if factors else h)
        z = (factors[-1] @ bf16(layer.weight).T + layer.bias).detach().requires_grad_(True)
        h = act(z)
        slopes.append(torch.autograd.grad(h.sum(), z)[0])
    value, delta = (h @ last.weight.T + last.bias)[:, 0].detach(), last.weight.detach()
    weights = []
    for layer, factor, slope in zip(reversed(hidden), reversed(factors), reversed(slopes)):
        delta = bf16(slope * delta)
        weights.insert(0, delta.T @ factor)
        delta = delta @ bf16(layer.weight)
    e = energy(x)
    grads = torch.autograd.grad(e.sum(), [x, *(layer.weight for layer in hidden)])
    torch.testing.assert_close(e, value, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(grads, [delta, *weights]):
        torch.testing.assert_close(got, wanted.detach(), rtol=1e-12, atol=1e-12)
    exact = MLPEnergy(3, widths, activation).double()
    exact.load_state_dict(energy.state_dict())
    error = (exact(x) - e).abs()
    assert 1e-5 < error.max() < 2.0**-8 * max(widths)  # it is rounded, and by no more than its units can lose
    d = energy.float().descriptor()
    assert d.precision == "bfloat16"
    packed = energy_function(d.kind, d.dim, d.integers, d.parameters, d.precision)
    torch.testing.assert_close(packed(x), e, rtol=1e-5, atol=1e-5)


def test_rounding_is_to_nearest_even_and_its_derivatives_are_those_of_the_identity():
    ulp = 2.0**-7
    a = torch.tensor([1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -1 - ulp / 2, 3e38, math.inf, math.nan])
    assert torch.equal(rounded(a)[:4], torch.tensor([1.0, 1 + 2 * ulp, 1 + ulp, -1.0]))
    assert rounded(a)[5:].isinf().tolist() == [True, False]
    assert rounded(a)[6].isnan()
    x = torch.tensor([1.001, -0.3], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((rounded(x) ** 3).sum(), x, create_graph=True)
    torch.testing.assert_close(g, 3 * bf16(x) ** 2)
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], 6 * bf16(x))
    (g,) = torch.autograd.grad((round_gradient(x) ** 3).sum(), x, create_graph=True)
    torch.testing.assert_close(g, bf16(3 * x**2))
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], bf16(6 * x))
    for f in (rounded, round_gradient):
        assert torch.equal(torch.func.jvp(f, (x.detach(),), (torch.ones_like(x),))[1], torch.ones_like(x))
        assert torch.equal(torch.func.vmap(torch.func.grad(lambda v, f=f: f(v) * 0.25))(x.detach()), torch.full_like(x, 0.25))


def test_tf32_is_float32_where_there_are_no_such_units(device):
    torch.manual_seed(0)
    plain, hint = MLPEnergy(2, (16, 16)), MLPEnergy(2, (16, 16), precision="tf32")
    hint.load_state_dict(plain.state_dict())
    x0 = torch.randn(9, 2)
    runs = [ef.sample(e, ef.Langevin(0.1), x0, num_steps=10, seed=1).samples for e in (plain, hint)]
    if device == "cpu":
        assert torch.equal(*runs)
    else:
        torch.testing.assert_close(*runs, rtol=1e-2, atol=1e-2)
        assert not torch.equal(*runs)
    assert "precision='tf32'" in repr(hint)
    assert "precision" not in repr(plain)


def test_bfloat16_chains_are_those_of_every_strategy():
    """From one seed; a sum in another order may round to the next bfloat16, whose distance is 2^-8."""
    torch.manual_seed(0)
    energy, x0 = MLPEnergy(2, (32, 32), "silu", precision="bfloat16"), torch.randn(50, 2)
    runs = {s: ef.sample(energy, ef.Langevin(0.1), x0, num_steps=20, seed=1, strategy=s) for s in ("fused", "step", "reference")}
    for run in runs.values():
        torch.testing.assert_close(run.samples, runs["reference"].samples, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"dim": 2000}, ValueError, "dim must be at most 1024"),
        ({"dim": 2, "widths": 16}, TypeError, r"widths must be those .* such as \(128, 128\), got 16"),
        ({"dim": 2, "widths": ()}, ValueError, "widths must be those of 1 to 4"),
        ({"dim": 2, "widths": (8,) * 5}, ValueError, "widths must be those of 1 to 4"),
        ({"dim": 2, "widths": (513,)}, ValueError, "at most 512"),
        ({"dim": 2, "activation": "sine"}, ValueError, "activation must be one of"),
        ({"dim": 2, "precision": "float16"}, ValueError, "precision must be one of float32, tf32, bfloat16, got 'float16'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        MLPEnergy(**arguments)


def test_a_state_of_another_size_is_refused():
    for dim, words in ((2, r"shape \(n, 2\) for"), ((2, 3), r"shape \(n, 2, 3\) or \(n, 6\) for")):
        with pytest.raises(ValueError, match=f"x must have {words} this MLPEnergy, got .3, 4."):
            MLPEnergy(dim)(torch.zeros(3, 4))


def _spectral(mlp: MLPEnergy) -> None:
    for layer in mlp.layers:
        torch.nn.utils.parametrizations.spectral_norm(layer)


def _older_spectral(mlp: MLPEnergy) -> None:
    torch.nn.utils.spectral_norm(mlp.layers[0])


def _pruned(mlp: MLPEnergy) -> None:
    nn.utils.prune.l1_unstructured(mlp.layers[1], "weight", amount=0.5)


def _replaced(mlp: MLPEnergy) -> None:
    mlp.layers[0] = torch.nn.Sequential(mlp.layers[0], torch.nn.Dropout(0.5))


def _hooked(mlp: MLPEnergy) -> None:
    mlp.layers[1].register_forward_hook(lambda module, given, out: 2.0 * out)


def _patched(mlp: MLPEnergy) -> None:
    mlp.forward = lambda x: x.square().sum(1)


@pytest.mark.parametrize("change", [_spectral, _older_spectral, _pruned, _replaced, _hooked, _patched])
def test_a_network_that_was_altered_is_not_taken_for_the_plain_one(change):
    torch.manual_seed(0)
    mlp, x = MLPEnergy(3, (16, 8)), torch.randn(5, 3)
    change(mlp)
    with pytest.raises(ValueError, match="strategy='fused' cannot run this chain"):
        ef.sample(mlp, ef.Langevin(0.05), x, num_steps=3, seed=1, strategy="fused")
    assert ef.sample(mlp, ef.Langevin(0.05), x, num_steps=3, seed=1).strategy == "step"


def test_weights_of_another_dtype_are_not_rounded_behind_ones_back():
    mlp = MLPEnergy(3, (16, 8)).double()
    with pytest.raises(ValueError, match="layer 0 of the MLPEnergy has weights of dtype float64, not float32"):
        ef.sample(mlp, ef.Langevin(0.05), torch.randn(5, 3), num_steps=3, seed=1, strategy="fused")
    assert ef.sample(mlp, ef.Langevin(0.05), torch.randn(5, 3).double(), num_steps=3, seed=1).strategy == "step"


def test_normalised_weights_are_read_as_the_network_uses_them():
    """In evaluation mode a parametrised weight stays what it is: native chains are those of the module."""
    torch.manual_seed(0)
    mlp, x = MLPEnergy(3, (16, 8)), torch.randn(5, 3)
    _spectral(mlp)
    mlp.eval()
    native, step = (ef.sample(mlp, ef.Langevin(0.05), x, num_steps=9, seed=1, strategy=name) for name in ("fused", "step"))
    torch.testing.assert_close(native.final, step.final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dim", "widths"), [(1, (16,)), (33, (512, 17)), (1024, (64,)), (64, (256, 256, 128, 64)), (2, (128, 128))], ids=str
)
def test_native_chains_of_any_size_are_those_of_the_module(dim, widths):
    torch.manual_seed(0)
    mlp, x = MLPEnergy(dim, widths, "silu"), torch.randn(37, dim)
    native, step = (ef.sample(mlp, ef.MALA(0.01), x, num_steps=10, seed=1, strategy=name) for name in ("fused", "step"))
    torch.testing.assert_close(native.final, step.final, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(native.stats.acceptance, step.stats.acceptance, rtol=1e-4, atol=1e-4)
