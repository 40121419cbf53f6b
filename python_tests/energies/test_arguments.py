"""Constructors: forms that mean the same, dtypes and devices of what is given, and one clear error for each mistake."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ebm_fast import energies as en

F64 = torch.float64


def test_forms_of_a_gaussian_agree():
    root = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=F64)
    covariance = root @ root.T
    x = torch.randn(5, 2, dtype=F64)
    for energy in (
        en.Gaussian(0.0, covariance=covariance),
        en.Gaussian(torch.zeros(2), scale_tril=root),
        en.Gaussian(precision=torch.linalg.inv(covariance)),
        en.Gaussian([0.0, 0.0], np.linalg.inv(covariance.cpu().numpy()), dtype=F64),
    ):
        assert energy.event_shape == (2,)
        torch.testing.assert_close(energy(x), 0.5 * (x @ torch.linalg.inv(covariance) * x).sum(1))
    for energy in (
        en.Gaussian(torch.zeros(2, 3), 4.0), en.Gaussian(torch.zeros(2, 3), variance=0.25),
        en.Gaussian(precision=torch.full((2, 3), 4.0)), en.Gaussian(torch.zeros(2, 3), torch.full((2, 3), 4.0)),
    ):  # fmt: skip
        assert energy.event_shape == (2, 3) and energy.descriptor().kind == "gaussian_diagonal"
        torch.testing.assert_close(energy(torch.ones(1, 2, 3)).item(), 12.0)
    assert en.Gaussian().event_shape == (1,) and en.Gaussian(variance=2.0).precision.item() == 0.5
    assert en.Gaussian(torch.zeros(3)).precision.tolist() == [1.0] * 3


def test_defaults():
    torch.testing.assert_close(en.GaussianMixture([[0.0], [1.0]]).weights, torch.tensor([0.5, 0.5]))
    assert en.Gamma([1.0, 2.0]).event_shape == (2,) and en.Gamma(2.0, [1.0, 2.0, 3.0]).event_shape == (3,)
    assert en.Gamma(2.0).event_shape == (1,)
    assert en.EightSchools().dim == 10 and en.Funnel().scale.item() == 3.0 and en.DoubleWell().dim == 1
    torch.testing.assert_close(en.EightSchools().effects(torch.tensor([[1.0, 0.0, *range(8)]])), torch.arange(8.0)[None] + 1)
    assert "event_shape=(2,), trainable=True" in repr(en.Ring(trainable=True))


def test_dtype_of_the_numbers():
    assert en.Gaussian(np.zeros(2)).mean.dtype is torch.float32  # NumPy's default says nothing about a wish
    assert en.Gaussian(torch.zeros(2, dtype=F64)).precision.dtype is F64
    assert en.Gaussian(torch.zeros(2, dtype=F64), dtype=torch.float32).mean.dtype is torch.float32
    assert en.Gamma(2, 3).rate.dtype is torch.float32
    double = en.Funnel(3).double()
    assert double.scale.dtype is F64 and double(torch.zeros(1, 3)).dtype is F64
    assert en.Funnel(3).to(torch.bfloat16)(torch.ones(2, 3, dtype=torch.bfloat16)).dtype is torch.float32


def test_values_are_copied():
    mean = torch.zeros(2)
    energy = en.Gaussian(mean)
    mean.fill_(5.0)
    assert energy.mean.tolist() == [0.0, 0.0]
    learning = en.Gaussian(torch.zeros(2, requires_grad=True), trainable=True)
    assert learning.mean.is_leaf and {name for name, _ in learning.named_parameters()} == {"mean", "precision"}
    assert not list(energy.parameters())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: en.Gaussian("0"), TypeError, "mean must be a number or an array of numbers, got '0'"),
        (lambda: en.Gaussian([0.0, math.inf]), ValueError, "mean must be finite"),
        (lambda: en.Gaussian([[0.0], [1.0, 2.0]]), TypeError, "mean must be a number or an array"),
        (lambda: en.Gaussian([0.0], 1.0, variance=1.0), ValueError, "one of precision, variance.*; got precision, variance"),
        (lambda: en.Gaussian([0.0, 0.0], [1.0, 2.0, 3.0]), ValueError, r"precision must be one number or of the mean"),
        (lambda: en.Gaussian([0.0, 0.0], variance=[[1.0, 0.0], [0.0, 1.0]]), ValueError, "variance must be one number or of the"),
        (lambda: en.Gaussian([0.0, 0.0], covariance=2.0), ValueError, r"covariance must be of shape \(2, 2\), got shape \(\)"),
        (lambda: en.Gaussian([0.0, 0.0], [1.0, 0.0]), ValueError, "precision must be above 0, got 0"),
        (lambda: en.Gaussian([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]), ValueError, "precision must be symmetric"),
        (lambda: en.Gaussian([0.0, 0.0], covariance=[[1.0, 2.0], [2.0, 1.0]]), ValueError, "covariance must be positive def"),
        (lambda: en.Gaussian([0.0, 0.0], scale_tril=[[1.0, 2.0], [2.0, 1.0]]), ValueError, "scale_tril must be lower triangular"),
        (lambda: en.Gaussian(torch.zeros(0)), ValueError, "mean must have at least one element"),
        (lambda: en.Gaussian([0.0], dtype=torch.int32), TypeError, "dtype must be a floating-point torch.dtype"),
        (lambda: en.Gaussian([0.0], trainable=1), TypeError, "trainable must be a bool, got 1"),
        (lambda: en.Gaussian(torch.zeros(2, dtype=torch.complex64)), TypeError, "mean must be a number or an array"),
        (lambda: en.GaussianMixture([0.0, 1.0]), ValueError, r"means must have shape \(M, \*event\)"),
        (lambda: en.GaussianMixture([[0.0], [1.0]], [1.0, 1.0, 1.0]), ValueError, r"stds must be one number or have shape \(2"),
        (lambda: en.GaussianMixture([[0.0], [1.0]], 1.0, [1.0]), ValueError, r"weights must have shape \(2,\), got \(1,\)"),
        (lambda: en.GaussianMixture([[0.0], [1.0]], 1.0, [1.0, 0.0]), ValueError, "weights must be above 0, got 0"),
        (lambda: en.Gamma([1.0, -1.0]), ValueError, "concentration must be above 0, got -1"),
        (lambda: en.Gamma([1.0, 1.0], [1.0]), ValueError, r"rate must be one number or have the shape \(2,\)"),
        (lambda: en.Gamma(torch.ones(0)), ValueError, "concentration must have at least one element"),
        (lambda: en.DoubleWell(0.0), ValueError, "height must be above 0, got 0"),
        (lambda: en.DoubleWell([1.0]), ValueError, r"height must be one number, got shape \(1,\)"),
        (lambda: en.DoubleWell(dim=0), ValueError, "dim must be at least 1, got 0"),
        (lambda: en.Rosenbrock(2.0), TypeError, "dim must be an int, got float"),
        (lambda: en.Rosenbrock(2, b=-1.0), ValueError, "b must be above 0"),
        (lambda: en.Funnel(1), ValueError, "dim must be at least 2, got 1"),
        (lambda: en.Ring(2, width=0.0), ValueError, "width must be above 0"),
        (lambda: en.PhiFour(8), TypeError, r"shape must be a pair \(H, W\), got 8"),
        (lambda: en.PhiFour((8, 0)), ValueError, r"shape\[1\] must be at least 1, got 0"),
        (lambda: en.PhiFour((8, 8), -1.0, 0.0), ValueError, "coupling must be above 0, or 0 with mass2 above 0"),
        (lambda: en.PhiFour((8, 8), 1.0, -0.1), ValueError, "coupling must be above 0"),
        (lambda: en.LinearRegression(torch.zeros(3), torch.zeros(3)), ValueError, r"X must have shape \(N, d\)"),
        (lambda: en.LinearRegression(torch.ones(3, 2), torch.zeros(2)), ValueError, r"y must have shape \(3,\) as X has rows"),
        (lambda: en.LinearRegression(torch.ones(3, 2), torch.zeros(3), 0.0), ValueError, "noise_std must be above 0"),
        (lambda: en.LogisticRegression(torch.ones(2, 2), [1.0, -1.0]), ValueError, "y must hold 0 and 1 alone, got -1"),
        (lambda: en.LogisticRegression(torch.ones(2, 2), [1.0, 0.0], 0.0), ValueError, "prior_precision must be above 0"),
        (lambda: en.EightSchools([1.0, 2.0]), ValueError, r"sigma must have shape \(2,\) as y, got \(8,\)"),
        (lambda: en.EightSchools([1.0, 2.0], [1.0, 0.0]), ValueError, "sigma must be above 0"),
        (lambda: en.EightSchools(1.0, 1.0), ValueError, r"y must have shape \(J,\), got \(\)"),
    ],
)
def test_errors_of_constructors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("call", ["__call__", "energy_and_grad", "grad"])
def test_errors_of_calls(call):
    energy = en.PhiFour((4, 3))
    for again in range(2):  # before and after constants are kept
        call_it = getattr(energy, call)
        with pytest.raises(ValueError, match=r"x must have shape \(n, 4, 3\) for this PhiFour, got \(2, 3, 4\)"):
            call_it(torch.zeros(2, 3, 4))
        with pytest.raises(ValueError, match=r"x must have shape \(n, 4, 3\) for this PhiFour, got \(\)"):
            call_it(torch.tensor(1.0))
        with pytest.raises(TypeError, match=r"x must be a tensor of shape .*got list"):
            call_it([[0.0] * 12])
        with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch.int64"):
            call_it(torch.zeros(2, 4, 3, dtype=torch.int64))
        other = "meta" if again == 0 else "meta:0"
        with pytest.raises(ValueError, match=r"x must be on .* as the energy is, got meta"):
            call_it(torch.zeros(2, 4, 3, device=other))
        call_it(torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\) for this Ring, got \(5, 3\)"):
        getattr(en.Ring(2), call)(torch.zeros(5, 3))


@pytest.mark.cuda
def test_on_a_gpu_without_waiting(case):
    """Inner-loop calls on the GPU agree with the CPU's and never synchronise."""
    energy, x = case.make(dtype=torch.float32), case.points.float()
    wanted = energy.cpu().energy_and_grad(x.cpu())
    energy.cuda()
    x = x.cuda()
    energy.energy_and_grad(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = energy.energy_and_grad(x)
        gradient, value = energy.grad(x), energy(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip((*got, gradient, value), (*wanted, wanted[1], wanted[0])):
        torch.testing.assert_close(a.cpu(), b, rtol=2e-5, atol=2e-5)
