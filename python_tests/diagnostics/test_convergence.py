"""R-hat, ESS, MCSE, autocorrelation and E-BFMI against ArviZ and against closed forms."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from ebm_fast import diagnostics as D
from ebm_fast.diagnostics import convergence

arviz = pytest.importorskip("arviz")

R_HATS = ("rank", "split", "z_scale", "folded", "identity")
RELATIVE = 1e-8  # the contract is 1e-3


def autoregressive(
    phi: float, draws: int, chains: int, elements: int = 2, *, heavy: bool = False, shift: float = 0.0
) -> torch.Tensor:
    """x_t = phi x_{t-1} + e_t, e normal or Student's t with 2 degrees of freedom, chain k moved by k * shift."""
    rng = np.random.default_rng([draws, chains, round(100 * (phi + 1)), heavy])
    e = rng.standard_t(2, size=(draws, chains, elements)) if heavy else rng.normal(size=(draws, chains, elements))
    x = e.copy()
    for t in range(1, draws):
        x[t] += phi * x[t - 1]
    return torch.tensor(x + shift * np.arange(chains)[:, None])


def of_arviz(function, samples: torch.Tensor, **how) -> np.ndarray:
    values = samples.double().numpy().reshape(*samples.shape[:2], -1)
    logging.disable(logging.CRITICAL)  # it warns of NaN and of short chains, which is what some cases are about
    try:
        flat = [float(function(np.ascontiguousarray(values[:, :, k].T), **how)) for k in range(values.shape[2])]
    finally:
        logging.disable(logging.NOTSET)
    return np.array(flat).reshape(samples.shape[2:])


def assert_all_agree(samples: torch.Tensor) -> None:
    for method in R_HATS:
        np.testing.assert_allclose(D.rhat(samples, method), of_arviz(arviz.rhat, samples, method=method), rtol=RELATIVE)
    for kind in ("bulk", "tail", "mean", "sd"):
        np.testing.assert_allclose(D.ess(samples, kind), of_arviz(arviz.ess, samples, method=kind), rtol=RELATIVE)
    for kind in ("mean", "sd"):
        np.testing.assert_allclose(D.mcse(samples, kind), of_arviz(arviz.mcse, samples, method=kind), rtol=RELATIVE)
    for prob in (0.05, 0.3, 0.5):
        for ours, theirs in ((D.ess, arviz.ess), (D.mcse, arviz.mcse)):
            wanted = of_arviz(theirs, samples, method="quantile", prob=prob)
            np.testing.assert_allclose(ours(samples, "quantile", prob=prob), wanted, rtol=RELATIVE)


@pytest.mark.parametrize(
    ("draws", "chains"), [(4, 2), (5, 2), (6, 3), (7, 2), (8, 4), (9, 2), (64, 4), (101, 3), (1000, 4), (333, 1)]
)
@pytest.mark.parametrize("phi", [0.95, 0.0, -0.7])
def test_agrees_with_arviz_whatever_the_number_of_draws(draws, chains, phi):
    assert_all_agree(autoregressive(phi, draws, chains))


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.3, 5.0])
def test_agrees_with_arviz_on_heavy_tails_and_different_means(heavy, shift):
    assert_all_agree(autoregressive(0.5, 401, 4, heavy=heavy, shift=shift))


def test_agrees_with_arviz_on_ties():
    """Chains with rejections repeat their states; discrete ones have few values."""
    x = autoregressive(0.0, 300, 4)
    stay = torch.rand(300, 4, 1) < 0.7
    for t in range(1, 300):
        x[t] = torch.where(stay[t], x[t - 1], x[t])
    assert_all_agree(x)
    for chains in (3, 4):
        counts = torch.tensor(np.random.default_rng(chains).integers(0, 3, size=(120, chains, 2)))
        for method in R_HATS:
            np.testing.assert_allclose(D.rhat(counts, method).numpy(), of_arviz(arviz.rhat, counts, method=method), rtol=RELATIVE)
        np.testing.assert_allclose(D.ess(counts).numpy(), of_arviz(arviz.ess, counts, method="bulk"), rtol=RELATIVE)


def test_any_event_shape_dtype_and_layout_gives_the_same_numbers():
    x = autoregressive(0.4, 50, 3, 12).float()
    wanted = D.ess(x.double())
    assert torch.equal(D.ess(x), wanted)
    assert torch.equal(D.ess(x.reshape(50, 3, 2, 3, 2)), wanted.reshape(2, 3, 2))
    assert torch.equal(D.ess(x.permute(2, 1, 0).contiguous().permute(2, 1, 0)), wanted)
    assert torch.equal(D.ess(x[:, :, 5]), wanted[5])
    assert D.rhat(x).dtype == torch.float64
    rounded = x.bfloat16()
    assert torch.equal(D.ess(rounded), D.ess(rounded.double()))
    assert torch.equal(D.rhat(x.requires_grad_()), D.rhat(x.detach()))


def test_blocks_of_elements_change_nothing(monkeypatch):
    x = autoregressive(0.4, 50, 3, 11)
    whole = D.rhat(x), D.ess(x), D.autocorrelation(x), D.summary(x)["mcse_sd"]
    monkeypatch.setattr(convergence, "_BLOCK", 50 * 3 * 4)
    parts = D.rhat(x), D.ess(x), D.autocorrelation(x), D.summary(x)["mcse_sd"]
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_what_cannot_be_estimated_is_nan_as_in_arviz():
    x = autoregressive(0.0, 100, 4, 3)
    x[7, 2, 1] = math.nan
    for function in (D.rhat, D.ess, D.mcse):
        assert function(x).isnan().tolist() == [False, True, False]
        assert function(x[:3]).isnan().all()
        assert function(x[:0]).isnan().all()
    assert D.rhat(x[:, :1]).isnan().all()
    assert D.ess(x[:, :1]).isnan().tolist() == [False, False, False]
    assert D.ess(x[:, :, :0]).shape == (0,)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of ArviZ, 0 / 0
def test_stuck_chains():
    x = torch.full((100, 4, 2), 0.1, dtype=torch.float64)
    assert D.ess(x).tolist() == of_arviz(arviz.ess, x).tolist() == [400.0, 400.0]
    assert D.rhat(x).isnan().all()
    assert np.isnan(of_arviz(arviz.rhat, x)).all()
    x[:, 2:] = 0.3
    assert D.rhat(x).isinf().all()
    assert D.rhat(x, "split").isinf().all()
    np.testing.assert_allclose(D.ess(x).numpy(), of_arviz(arviz.ess, x), rtol=RELATIVE)
    assert (D.ess(x) < 5).all()


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.5])
def test_ess_of_an_autoregressive_chain(phi):
    """ESS / N = (1 - phi) / (1 + phi); 160000 draws give tau to 2-3 %, a lag counted once too often would be 10 % and more."""
    x = autoregressive(phi, 20000, 8, 1)
    seen = D.ess(x, "mean").item() / x[..., 0].numel()
    assert seen == pytest.approx((1 - phi) / (1 + phi), rel=0.08)
    exact = phi ** torch.arange(4.0)
    error = 4.9 * math.sqrt(2 / (1 - phi * phi) / 20000)
    assert (D.autocorrelation(x, 3)[:, :, 0].T - exact).abs().max().item() < error


def test_one_chain_in_the_wrong_place_is_seen():
    x = autoregressive(0.3, 1000, 4, 1)
    assert D.rhat(x).item() < 1.01
    assert D.rhat(x + torch.tensor([0.0, 0.0, 0.0, 0.5])[:, None]).item() > 1.02
    scaled = x * torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]
    assert D.rhat(scaled, "z_scale").item() < 1.01  # a wrong scale moves no mean: the folded draws show it
    assert D.rhat(scaled).item() > 1.02


def test_autocorrelation_is_the_normalised_sum_of_products():
    x = autoregressive(0.8, 37, 2, 3)
    d = x - x.mean(0)
    seen = D.autocorrelation(x)
    assert seen.shape == (37, 2, 3)
    for lag in (0, 1, 5, 36):
        torch.testing.assert_close(seen[lag], (d[: 37 - lag] * d[lag:]).sum(0) / d.square().sum(0))
    assert D.autocorrelation(x, 4).shape == (5, 2, 3)
    x[:, 1, 2] = 0.1
    assert D.autocorrelation(x)[:, 1, 2].isnan().all()


def test_bfmi():
    h = autoregressive(0.9, 200, 3, 1)[..., 0]
    np.testing.assert_allclose(D.bfmi(h).numpy(), arviz.bfmi(h.T.numpy()), rtol=RELATIVE)
    long = autoregressive(0.9, 20000, 4, 1)[..., 0]
    assert D.bfmi(long).mean().item() == pytest.approx(2 * (1 - 0.9), rel=0.1)  # E (H_t - H_{t-1})^2 = 2 (1 - phi) var H
    assert D.bfmi(h[:1]).isnan().all()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: D.rhat([1.0, 2.0]), TypeError, "samples must be a tensor of shape (draws, chains, *event), got list"),
        (lambda: D.ess(torch.zeros(5)), ValueError, "samples must have shape (draws, chains, *event), got (5,)"),
        (lambda: D.mcse(torch.zeros(5, 2, dtype=torch.complex64)), TypeError, "real numbers"),
        (lambda: D.rhat(torch.zeros(5, 2), "ranks"), ValueError, "method must be one of 'rank', "),
        (lambda: D.ess(torch.zeros(5, 2), "median"), ValueError, "kind must be one of 'bulk', "),
        (lambda: D.mcse(torch.zeros(5, 2), "quantile", prob=1.0), ValueError, "prob must be between 0 and 1, got 1"),
        (lambda: D.autocorrelation(torch.zeros(5, 2), 5), ValueError, "max_lag must be an int from 0 to draws - 1 = 4, got 5"),
        (lambda: D.bfmi(torch.zeros(5, 2, 2)), ValueError, "hamiltonians must have shape (draws, chains), got (5, 2, 2)"),
    ],
)
def test_errors_name_the_argument(call, error, said):
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)
