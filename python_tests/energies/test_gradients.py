"""Values against formulas, gradients against autograd and differences, in x and in parameters."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_fast import energies as en
from ebm_fast.engine.energy import EnergyFunction

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def test_value_is_the_formula_and_gradients_are_its_derivative(case):
    energy, x = case.energy, case.points
    assert next(energy.buffers()).dtype is torch.float64
    kept = x.clone()
    leaf = x.clone().requires_grad_()
    wanted = case.formula(leaf)
    (slope,) = torch.autograd.grad(wanted.sum(), leaf)
    e, g = energy.energy_and_grad(x)
    torch.testing.assert_close(energy(x), wanted.detach(), **TIGHT)
    torch.testing.assert_close(e, wanted.detach(), **TIGHT)
    torch.testing.assert_close(g, slope, **TIGHT)
    torch.testing.assert_close(energy.grad(x), slope, **TIGHT)
    (through,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    torch.testing.assert_close(through, slope, **TIGHT)
    assert slope.abs().max() > 0.1
    assert torch.equal(x, kept)


def test_gradient_against_central_differences(case):
    energy, x = case.energy, case.points
    direction = torch.randn_like(x)
    h = 1e-4
    slope = (8 * (energy(x + h * direction) - energy(x - h * direction)) - energy(x + 2 * h * direction)
             + energy(x - 2 * h * direction)) / (12 * h)  # fmt: skip
    along = (energy.grad(x) * direction).flatten(1).sum(1)
    torch.testing.assert_close(along, slope, rtol=1e-7, atol=1e-7)


def test_differentiable_twice_in_x_and_once_in_parameters(case):
    """What score matching and maximum likelihood ask of an energy."""
    energy = case.make(trainable=True)
    names = [name for name, _ in energy.named_parameters()]
    assert names
    x = case.points[:2].clone().requires_grad_()

    def value(x, *parameters):
        return functional_call(energy, dict(zip(names, parameters)), (x,))

    arguments = (x, *(p.detach().clone().requires_grad_() for p in energy.parameters()))
    assert torch.autograd.gradcheck(value, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, arguments, fast_mode=True)
    torch.testing.assert_close(energy(x).detach(), case.formula(x).detach(), **TIGHT)
    e, g = energy.energy_and_grad(x)
    assert not e.requires_grad and not g.requires_grad and not energy.grad(x).requires_grad


def test_trained_parameters_take_effect_at_once(case):
    energy = case.make(trainable=True)
    before = energy.grad(case.points)
    for p in energy.parameters():
        p.data.add_(0.01)  # a write that no version counter shows
    after = energy.grad(case.points)
    leaf = case.points.clone().requires_grad_()
    torch.testing.assert_close(after, torch.autograd.grad(energy(leaf).sum(), leaf)[0], **TIGHT)
    assert not torch.equal(before, after)


def test_changed_buffers_take_effect_at_once(case):
    energy, x = case.energy, case.points
    other = case.make(trainable=True)
    for change in ("in place", "replaced", "moved"):
        energy.grad(x)  # constants are kept from here on
        with torch.no_grad():
            for name, p in other.named_parameters():
                p.mul_(1.05)
                if change == "in place":
                    getattr(energy, name).copy_(p)
                else:
                    setattr(energy, name, p.detach().clone())
        if change == "moved":
            energy.float().double()
            other.float().double()
        torch.testing.assert_close(energy.grad(x), other.grad(x), rtol=0, atol=0)
        torch.testing.assert_close(energy(x), other(x).detach(), rtol=0, atol=0)


def test_a_buffer_that_asks_for_a_gradient_gets_it():
    energy = en.Gaussian(torch.zeros(2), torch.ones(2))
    x = torch.ones(3, 2)
    energy(x)
    energy.mean.requires_grad_()
    energy(x).sum().backward()
    torch.testing.assert_close(energy.mean.grad, torch.full((2,), -3.0))


class Calls(TorchDispatchMode):
    """Counts operators and refuses those that read a number back to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function)
        self.count += "aten.view" not in str(function)
        return function(*args, **(kwargs or {}))


def test_no_call_reads_a_number_back(case):
    energy = case.energy
    x = case.points
    with torch.no_grad():
        energy.energy_and_grad(x)
        with Calls() as both:
            energy.energy_and_grad(x)
        with Calls() as gradient:
            energy.grad(x)
    assert 2 <= gradient.count <= both.count <= 45
    learning = case.make(trainable=True)
    with Calls():
        learning.energy_and_grad(x)


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_dtypes_and_strides(case, n, dtype):
    """What the engine asks for, on float32 parameters; 16-bit states are computed in float32."""
    energy = case.make(dtype=torch.float32)
    spread = torch.stack((case.points[:n], case.points[:n] + 1.0), -1).to(dtype)
    x = spread[..., 0]
    value, gradient = EnergyFunction(energy).value_and_grad(x)
    arithmetic = torch.promote_types(dtype, torch.float32)
    assert value.shape == (n,) and value.dtype is arithmetic
    assert gradient.shape == x.shape and gradient.dtype is dtype
    assert energy(x).shape == (n,)
    if n == 0:
        return
    exact = case.formula(x.double())
    leaf = x.double().requires_grad_()
    (slope,) = torch.autograd.grad(case.formula(leaf).sum(), leaf)
    torch.testing.assert_close(value.double(), exact.detach(), rtol=2e-5, atol=2e-5)
    loose = 2**-7 if dtype is torch.bfloat16 else 2e-5
    torch.testing.assert_close(gradient.double(), slope, rtol=loose, atol=2e-4)
    torch.testing.assert_close(energy.grad(x.flatten(1)), gradient.flatten(1), rtol=0, atol=0)


def test_one_dimension_may_be_a_bare_number():
    energy = en.DoubleWell()
    x = torch.tensor([0.5, -2.0])
    e, g = energy.energy_and_grad(x)
    assert g.shape == (2,)
    torch.testing.assert_close(e, energy(x[:, None]))
    image = en.Gaussian(torch.zeros(16))
    assert image.grad(torch.ones(3, 1, 4, 4)).shape == (3, 1, 4, 4)


def test_under_inference_mode_autocast_copy_and_compile(case):
    x = case.points
    wanted = case.energy.grad(x)
    with torch.inference_mode():
        energy = case.make()
        assert torch.equal(energy.grad(x.clone()), wanted)
        energy.to(torch.float64)
    leaf = x.clone().requires_grad_()
    energy(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, wanted, **TIGHT)
    single, narrow = case.make(dtype=torch.float32), x.float()
    plain = single.energy_and_grad(narrow)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        for a, b in zip(plain, single.energy_and_grad(narrow)):
            assert torch.equal(a, b)
        assert single(narrow).dtype is torch.float32
        torch.testing.assert_close(single(narrow), plain[0], rtol=2e-6, atol=2e-5)
        assert torch.equal(single.grad(narrow), single.grad(narrow)) and single.grad(narrow).dtype is torch.float32


def test_copies_and_files_hold_the_numbers_and_nothing_else(case, tmp_path):
    import copy
    import pickle

    energy, x = case.energy, case.points
    wanted = energy.grad(x)
    energy.descriptor()
    for twin in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert torch.equal(twin.grad(x), wanted)
        next(twin.buffers()).mul_(1.5)
        assert torch.equal(energy.grad(x), wanted)
    blank = case.make(trainable=True)
    with torch.no_grad():
        for p in blank.parameters():
            p.mul_(1.1)
    blank.load_state_dict(energy.state_dict())
    assert torch.equal(blank.grad(x), wanted)


@pytest.mark.parametrize("trainable", [False, True])
def test_traced_whole_by_torch_compile(trainable):
    energy = en.GaussianMixture(torch.randn(3, 2), 0.5, trainable=trainable)
    x = torch.randn(4, 2)
    energy(x)
    traced = torch.compile(energy, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x), energy(x))
    with torch.no_grad():
        energy.means.add_(1.0)
    torch.testing.assert_close(traced(x), energy(x))
