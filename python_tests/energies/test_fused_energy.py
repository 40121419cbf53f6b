"""fused_energy where Triton does not run: the plain form, errors, parameters. With Triton: kernels/test_user_energy_triton.py."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.ops.user_energy import registered

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("here Triton does not run", allow_module_level=True)


def plain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (x[:, 0] - a).square() + b * (x[:, 1] - x[:, 0].square()).square()


def kernel(x, a, b):
    off = x[0] - a
    bend = x[1] - x[0] * x[0]
    return off * off + b * bend * bend, (2.0 * off - 4.0 * b * bend * x[0], 2.0 * b * bend)


def banana(**options) -> ef.energies.FusedEnergy:
    return ef.fused_energy(2, {"b": 5.0, "a": torch.tensor(1.0)}, **{"reference": plain, **options})(kernel)


def x_of(n: int = 7) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(torch.get_default_device())


def test_an_energy_like_any_other():
    energy, same, x = banana(), ef.energies.Rosenbrock(2, 1.0, 5.0), x_of()
    torch.testing.assert_close(energy(x), same(x))
    for ours, true in zip(energy.energy_and_grad(x), same.energy_and_grad(x)):
        torch.testing.assert_close(ours, true)
    assert energy.energy_and_grad(x)[1].requires_grad is False
    torch.testing.assert_close(energy.grad(x.double()), same.grad(x.double()))
    leaf = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(energy(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), leaf)
    torch.testing.assert_close(g.detach(), same.grad(x))
    assert second.abs().max() > 1
    with torch.inference_mode():
        torch.testing.assert_close(energy.grad(x), same.grad(x))
    assert "kernel, event_shape=(2,), parameters=a(), b()" in repr(energy)
    assert energy.__name__ == "kernel"
    assert energy(x[:0]).shape == (0,)
    torch.testing.assert_close((energy + same)(x), 2 * same(x))


def test_chains_run_step_by_step_on_the_plain_form():
    """On the CPU, also where there is a GPU."""
    energy, sampler, x = banana().cpu(), ef.HMC(step_size=0.1, num_leapfrog=4), x_of().cpu()
    run = ef.sample(energy, sampler, x, num_steps=5, seed=2, progress=False)
    same = ef.sample(ef.energies.Rosenbrock(2, 1.0, 5.0).cpu(), sampler, x, num_steps=5, seed=2, progress=False)
    assert run.strategy == "step"
    torch.testing.assert_close(run.samples, same.samples, rtol=1e-5, atol=1e-5)
    chain = x.clone()
    ef.ops.chain_(chain, energy.descriptor(), "hmc", steps=5, step_size=0.1, leapfrogs=4, seed=2)
    torch.testing.assert_close(chain, run.final, rtol=1e-5, atol=1e-5)
    for backend, words in (("cpu", "runs on backend 'triton', got 'cpu'"), (None, "torch sees no GPU|x is on the CPU")):
        with pytest.raises(ValueError, match=f"strategy='fused' cannot run this chain: .*({words})"):
            ef.sample(energy, sampler, x, num_steps=5, strategy="fused", backend=backend)
    with pytest.raises(ef.BackendError, match="backend 'triton', got 'cpu'"):
        ef.ops.chain_(chain, energy.descriptor(), "hmc", steps=5, step_size=0.1, seed=2, backend="cpu")


def test_without_a_plain_form_the_error_says_so():
    energy, x = banana(reference=None).cpu(), x_of().cpu()
    for call in (energy, energy.energy_and_grad):
        with pytest.raises(ef.BackendError, match=r"kernel cannot run here: .*(GPU|CPU).* no reference="):
            call(x)
    with pytest.raises(ef.BackendError, match=r"float64.* no reference="):
        energy(x.double())
    with pytest.raises(ef.BackendError, match="no form in plain PyTorch"):
        ef.ops.chain_(x, energy.descriptor(), "random_walk", steps=1, step_size=0.1, seed=2, backend="reference")
    with pytest.raises(ef.BackendError, match="kernel cannot be checked: "):
        energy.check(x)


def test_parameters_are_read_when_they_are_needed():
    energy, x = banana(), x_of()
    before = energy.descriptor()
    assert before.parameters.tolist() == [1.0, 5.0]  # in the order of the function
    assert energy.descriptor().parameters is before.parameters
    energy.b.fill_(2.0)
    assert energy.descriptor().parameters.tolist() == [1.0, 2.0]
    torch.testing.assert_close(energy(x), plain(x, torch.tensor(1.0), torch.tensor(2.0)))
    other = copy.deepcopy(energy)
    other.a = torch.tensor(0.5)
    assert (energy.descriptor().parameters[0].item(), other.descriptor().parameters[0].item()) == (1.0, 0.5)
    assert other.descriptor().kind == before.kind
    assert set(energy.state_dict()) == {"a", "b"}
    assert energy.double().descriptor().parameters.dtype is torch.float32


@ef.fused_energy(dim=2, parameters={"a": 1.0, "b": 2.0}, reference=plain)
def at_top_level(x, a, b):
    bend = x[1] - x[0] * x[0]
    return (x[0] - a) * (x[0] - a) + b * bend * bend, (2.0 * (x[0] - a) - 4.0 * b * bend * x[0], 2.0 * b * bend)


def test_pickled_by_the_name_of_the_function():
    energy, x = copy.deepcopy(at_top_level).to(torch.get_default_device()), x_of()
    twin = pickle.loads(pickle.dumps(energy))
    assert torch.equal(twin(x), energy(x))
    twin.a.fill_(5.0)  # parameters are its own
    assert not torch.equal(twin(x), energy(x))
    assert twin.descriptor().kind == at_top_level.descriptor().kind
    with pytest.raises(pickle.PicklingError, match="decorate the function at the top level of a module"):
        pickle.dumps(banana())


def test_trainable_parameters_get_gradients():
    energy, x = banana(trainable=True), x_of()
    energy(x).mean().backward()
    true = ef.energies.Rosenbrock(2, 1.0, 5.0, trainable=True)
    true(x).mean().backward()
    torch.testing.assert_close(energy.a.grad, true.a.grad)
    torch.testing.assert_close(energy.b.grad, true.b.grad)
    with torch.no_grad():
        energy.b -= 1.0
    assert energy.descriptor().parameters.tolist() == [1.0, 4.0]
    assert not energy.descriptor().parameters.requires_grad


def test_a_descriptor_keeps_its_function():
    descriptor = banana().descriptor()
    assert registered(descriptor.kind).dim == 2
    kind = descriptor.kind
    del descriptor
    with pytest.raises(ValueError, match="of no fused_energy that is still there"):
        registered(kind)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"dim": (11, 3)}, ValueError, "dim must be 1 to 32 numbers"),
        ({"dim": 2.0}, TypeError, "dim must be an int"),
        ({"parameters": ["a", "b"]}, TypeError, "parameters must be a dict"),
        ({"parameters": {"a": 1.0}}, ValueError, r"must take the event and the parameters .* f\(x, a\); it takes \(x, a, b\)"),
        ({"parameters": {"a": "1", "b": 1.0}}, TypeError, "a must be a number or an array"),
        ({"parameters": {"a": float("nan"), "b": 1.0}}, ValueError, "a must be finite"),
        ({"reference": 3}, TypeError, "reference must be callable"),
        ({"reference": None, "trainable": True}, ValueError, "trainable=True needs reference="),
        ({"trainable": 1}, TypeError, "trainable must be a bool"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        ef.fused_energy(**{"dim": 2, "parameters": {"a": 1.0, "b": 5.0}, "reference": plain, **arguments})(kernel)


def test_what_cannot_be_decorated():
    with pytest.raises(TypeError, match=r"write @fused_energy\(dim=...\)"):
        ef.fused_energy(kernel)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="decorates a function"):
        ef.fused_energy(2)(torch.nn.Identity())
    with pytest.raises(ValueError, match="'dim' is a name that every energy has"):
        ef.fused_energy(2, {"dim": 1.0})(lambda x, dim: (x[0], x))


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[0.0, 0.0]], TypeError, "x must be a floating-point tensor, got list"),
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "x must be a floating-point tensor, got torch.int64"),
        (torch.zeros(3, 3), ValueError, r"x must have shape \(n, 2\) for kernel, got \(3, 3\)"),
        (torch.zeros(3, 2, device="meta"), ValueError, r"x must be on (cpu|cuda:0) as a is, got meta"),
    ],
)
def test_states_that_do_not_fit(x, error, words):
    with pytest.raises(error, match=words):
        banana()(x)


def test_a_descriptor_of_other_events_is_refused():
    with pytest.raises(ValueError, match="x must have events of 2 numbers for this energy, got 3"):
        ef.ops.chain_(torch.zeros(4, 3), banana().descriptor(), "hmc", steps=1, step_size=0.1)
