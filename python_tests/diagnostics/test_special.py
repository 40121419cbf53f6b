"""Tails of distributions against SciPy's, to the far ends that a false-alarm rate of 1e-6 needs."""

from __future__ import annotations

import math

import pytest
import torch

from ebm_fast.diagnostics import special

stats = pytest.importorskip("scipy.stats")
functions = pytest.importorskip("scipy.special")


def test_incomplete_beta():
    a = torch.logspace(-1, 5, 13, dtype=torch.float64)[:, None, None]
    b = torch.logspace(-1, 5, 13, dtype=torch.float64)[None, :, None]
    x = torch.tensor([0.0, 1e-9, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-9, 1.0], dtype=torch.float64)
    wanted = torch.tensor(functions.betainc(a.numpy(), b.numpy(), x.numpy()))
    torch.testing.assert_close(special.betainc(a, b, x), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.1586553, 0.8413447, 0.01])
def test_quantiles_of_beta(p):
    a = torch.logspace(0, 5, 21, dtype=torch.float64)[:, None]
    b = torch.logspace(0, 5, 21, dtype=torch.float64)[None, :]
    wanted = torch.tensor(stats.beta.ppf(p, a.numpy(), b.numpy()))
    torch.testing.assert_close(special.beta_quantile(a, b, p), wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.5, 2.0, 4.9, 12.0])
def test_two_sided_tails(t):
    assert special.normal_two_sided(-t) == pytest.approx(2 * stats.norm.sf(t), rel=1e-12)
    for freedom in (1, 5, 99, 4000):
        assert special.student_two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
        wanted = stats.chi2.sf(t * t * freedom, freedom)
        assert special.chi_square_tail(t * t * freedom, freedom) == pytest.approx(wanted, rel=1e-9, abs=1e-300)
    assert special.kolmogorov_tail(t) == pytest.approx(stats.kstwobign.sf(t), rel=1e-9, abs=1e-300)


def test_quantiles_undo_tails():
    for alpha in (1e-9, 1e-6, 0.01, 0.5):
        for freedom in (1, 7, 1000):
            assert special.student_two_sided(special.student_quantile(alpha, freedom), freedom) == pytest.approx(alpha, rel=1e-6)
            assert special.chi_square_tail(special.chi_square_quantile(alpha, freedom), freedom) == pytest.approx(alpha, rel=1e-6)
    assert special.normal_quantile(0.99) == pytest.approx(2.3263478740408408)
    assert math.isnan(special.normal_two_sided(math.nan))
