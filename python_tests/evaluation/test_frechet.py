from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_fast.evaluation import frechet_distance, gaussian_frechet


def random_covariance(d: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(d, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / rank


def cloud(mean: torch.Tensor, cov: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """n points whose sample mean and sample covariance are exactly the given ones."""
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T.cov()), z.T, upper=False)
    return (torch.linalg.cholesky(cov) @ z).T + mean


@pytest.mark.parametrize(("sd_a", "sd_b"), [(1.0, 3.0), (0.0, 2.0), (1e-6, 1e6)])
def test_one_dimension(sd_a, sd_b):
    mean_a, mean_b, one = torch.tensor([1.0]), torch.tensor([-2.0]), torch.ones(1, 1, dtype=torch.float64)
    distance = gaussian_frechet(mean_a, one * sd_a**2, mean_b, one * sd_b**2)
    assert distance == pytest.approx(9.0 + (sd_a - sd_b) ** 2, rel=1e-12)


def test_covariances_that_commute():
    q = torch.linalg.qr(random_covariance(6, 6, 0))[0]
    sd_a, sd_b = torch.tensor([[1.0, 2, 3, 4, 5, 6], [2, 0, 1, 5, 5, 9]], dtype=torch.float64)
    distance = gaussian_frechet(torch.zeros(6), (q * sd_a**2) @ q.T, torch.ones(6), (q * sd_b**2) @ q.T)
    assert distance == pytest.approx(6.0 + (sd_a - sd_b).square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("rank", [20, 7])
def test_against_the_matrix_root_of_scipy(rank):
    linalg = pytest.importorskip("scipy.linalg")
    cov_a, cov_b = random_covariance(20, 20, 1), random_covariance(20, rank, 2)
    root = np.real(linalg.sqrtm((cov_a @ cov_b).numpy()))
    expected = (cov_a.trace() + cov_b.trace()).item() - 2 * np.trace(root)
    distance = gaussian_frechet(torch.zeros(20), cov_a, torch.zeros(20), cov_b)
    assert distance == pytest.approx(expected, rel=1e-5)


def test_a_metric_is_symmetric_and_zero_on_itself():
    mean, cov_a, cov_b = torch.zeros(9), random_covariance(9, 4, 3), random_covariance(9, 9, 4)
    assert gaussian_frechet(mean, cov_a, mean, cov_a) == pytest.approx(0.0, abs=1e-7)
    forth, back = gaussian_frechet(mean, cov_a, mean, cov_b), gaussian_frechet(mean, cov_b, mean, cov_a)
    assert forth == pytest.approx(back, rel=1e-7)
    assert forth > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clouds_are_judged_by_their_moments(dtype):
    mean_a, mean_b = torch.randn(2, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cov_a, cov_b = random_covariance(5, 9, 6), random_covariance(5, 9, 7)
    a, b = cloud(mean_a, cov_a, 50, 8).to(dtype), cloud(mean_b, cov_b, 80, 9).to(dtype)
    expected = gaussian_frechet(mean_a, cov_a, mean_b, cov_b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)


def test_fewer_points_than_features_and_a_single_feature():
    generator = torch.Generator().manual_seed(10)
    few = torch.randn(3, 64, generator=generator)
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(few, few + 1) == pytest.approx(64.0, rel=1e-5)
    line = torch.tensor([[0.0], [2.0]])
    assert frechet_distance(line, 3 * line + 1) == pytest.approx(3.0**2 + 2 * (3 - 1) ** 2)


@pytest.mark.parametrize(
    ("a", "b", "error", "words"),
    [
        ([[1.0]], torch.zeros(3, 2), TypeError, "features_a.*list"),
        (torch.zeros(3, 2), torch.zeros(3), ValueError, r"features_b.*\(3,\)"),
        (torch.zeros(1, 2), torch.zeros(3, 2), ValueError, "features_a.*n >= 2"),
        (torch.zeros(3, 2), torch.zeros(3, 4), ValueError, "features_b.*2.*4"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 2), ValueError, "mean_a.*finite"),
    ],
)
def test_wrong_features_are_named(a, b, error, words):
    with pytest.raises(error, match=words):
        frechet_distance(a, b)


def test_wrong_moments_are_named():
    with pytest.raises(ValueError, match=r"cov_b.*\(2, 2\).*\(3, 3\)"):
        gaussian_frechet(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))
