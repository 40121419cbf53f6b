"""A descriptor holds the whole energy: each kind is evaluated from its packed numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_fast import energies as en
from ebm_fast.energies.descriptor import PACKED


class Packed:
    """Reads float32 numbers in the order in which they were packed."""

    def __init__(self, parameters: torch.Tensor) -> None:
        self.numbers = parameters.cpu().numpy().astype(np.float64)
        self.at = 0

    def take(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        self.at += count
        return self.numbers[self.at - count : self.at].reshape(shape)


def native(descriptor: en.Descriptor, x: np.ndarray) -> np.ndarray:
    """E(x) - offset of x (n, dim), as the table of kinds says."""
    d, integers, p = descriptor.dim, descriptor.integers, Packed(descriptor.parameters)
    match descriptor.kind:
        case "gaussian_diagonal":
            mean, precision = p.take(d), p.take(d)
            e = 0.5 * (precision * (x - mean) ** 2).sum(1)
        case "gaussian_dense":
            mean, precision = p.take(d), p.take(d, d)
            e = 0.5 * np.einsum("ni,ij,nj->n", x - mean, precision, x - mean)
        case "mixture":
            c, mean, precision = p.take(*integers), p.take(*integers, d), p.take(*integers, d)
            e = -np.log(np.exp(c - 0.5 * (precision * (x[:, None] - mean) ** 2).sum(2)).sum(1))
        case "gamma":
            k, r = p.take(d), p.take(d)
            e = (-(k - 1) * np.log(x) + r * x).sum(1)
        case "double_well":
            h, b = p.take(2)
            e = h * ((x**2 - b**2) ** 2).sum(1)
        case "rosenbrock":
            a, b = p.take(2)
            e = (x[:, 0] - a) ** 2 + b * ((x[:, 1:] - x[:, :-1] ** 2) ** 2).sum(1)
        case "funnel":
            (s,) = p.take(1)
            e = x[:, 0] ** 2 / (2 * s**2) + 0.5 * np.exp(-x[:, 0]) * (x[:, 1:] ** 2).sum(1) + (d - 1) / 2 * x[:, 0]
        case "ring":
            radius, w = p.take(2)
            e = (np.sqrt((x**2).sum(1)) - radius) ** 2 / (2 * w**2)
        case "phi_four":
            m2, coupling = p.take(2)
            f = x.reshape(-1, *integers)
            links = (np.roll(f, -1, 1) - f) ** 2 + (np.roll(f, -1, 2) - f) ** 2
            e = (0.5 * links + 0.5 * m2 * f**2 + coupling * f**4).sum((1, 2))
        case "logistic_regression":
            (alpha,), rows = p.take(1), p.take(*integers, d)
            e = np.logaddexp(0.0, -x @ rows.T).sum(1) + 0.5 * alpha * (x**2).sum(1)
        case "eight_schools":
            (m, s), y, inverse_sigma = p.take(2), p.take(*integers), p.take(*integers)
            mu, tau, z = x[:, :1], np.exp(x[:, 1:2]), x[:, 2:]
            e = 0.5 * (z**2 + ((y - mu - tau * z) * inverse_sigma) ** 2).sum(1)
            e += (mu**2 / (2 * m**2) + np.log(1 + (tau / s) ** 2) - np.log(tau))[:, 0]
    assert p.at == len(p.numbers)
    return e


def test_the_packed_numbers_are_the_energy(case):
    energy, x = case.energy, case.points
    descriptor = energy.descriptor()
    assert descriptor.dim == energy.dim == x[0].numel()
    value = native(descriptor, x.flatten(1).cpu().numpy()) + descriptor.offset
    np.testing.assert_allclose(value, case.formula(x).cpu().numpy(), rtol=3e-6, atol=3e-6)
    assert descriptor.parameters.device == x.device
    if isinstance(energy, en.LinearRegression):
        assert abs(descriptor.offset) > 0.1
    else:
        assert descriptor.offset == 0.0


def test_descriptors_follow_the_parameters(case):
    energy = case.energy
    descriptor = energy.descriptor()
    assert energy.descriptor() is descriptor  # nothing is packed anew in a loop
    learning = case.make(trainable=True)
    with torch.no_grad():
        for name, p in learning.named_parameters():
            p.mul_(1.25)
            getattr(energy, name).mul_(1.25)
    for changed in (energy, learning):
        later = changed.descriptor().parameters
        assert not torch.equal(later, descriptor.parameters) and not later.requires_grad
        assert torch.equal(later, energy.descriptor().parameters)
    energy.float()
    torch.testing.assert_close(energy.descriptor().parameters, learning.descriptor().parameters)


def test_what_float32_cannot_hold_has_no_descriptor():
    large = en.Gaussian(torch.zeros(2), torch.full((2,), 1e60, dtype=torch.float64))
    with pytest.raises(ValueError, match="Gaussian has parameters that are not finite in float32"):
        large.descriptor()
    learning = en.Gaussian(torch.zeros(2, device="cpu"), trainable=True)  # on a GPU nobody waits for the answer
    with torch.no_grad():
        learning.mean.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite in float32"):
        learning.descriptor()


def test_errors():
    numbers = torch.zeros(4)
    with pytest.raises(ValueError, match=r"kind must be one of gaussian_diagonal, .*got 'gauss'"):
        en.Descriptor("gauss", 2, (), numbers)
    with pytest.raises(ValueError, match=r"of shape \(6,\), got \(4,\)"):
        en.Descriptor("gaussian_dense", 2, (), numbers)
    with pytest.raises(ValueError, match="float32"):
        en.Descriptor("gaussian_diagonal", 2, (), numbers.double())
    with pytest.raises(ValueError, match=r"wrong number of them for kind 'mixture': \(\)"):
        en.Descriptor("mixture", 2, (), numbers)
    assert PACKED["mixture"](2, 3) == 15
