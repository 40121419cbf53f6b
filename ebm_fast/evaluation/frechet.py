"""The Fréchet distance between Gaussians and between clouds of features."""

from __future__ import annotations

import torch


def gaussian_frechet(
    mean_a: torch.Tensor, cov_a: torch.Tensor, mean_b: torch.Tensor, cov_b: torch.Tensor
) -> float:
    """d² = |μₐ − μ_b|² + tr Cₐ + tr C_b − 2 tr (Cₐ^½ C_b Cₐ^½)^½, the squared 2-Wasserstein distance.

    Both roots are taken of symmetric matrices with a symmetric eigen-solver in float64, so that singular
    covariances (fewer samples than features) do no harm and no complex number appears.

    Args:
        mean_a, mean_b: (d,).
        cov_a, cov_b: (d, d), symmetric, positive semi-definite.

    Raises:
        ValueError: the shapes do not fit together, or a number is not finite.

    Source: Dowson and Landau 1982, eq. (16); as a score of samples, Heusel et al. 2017.
    """
    d = mean_a.numel()
    for name, value, shape in (
        ("mean_a", mean_a, (d,)),
        ("cov_a", cov_a, (d, d)),
        ("mean_b", mean_b, (d,)),
        ("cov_b", cov_b, (d, d)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    mean_a, cov_a, mean_b, cov_b = (t.detach().double() for t in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, distance.item())


def frechet_distance(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """`gaussian_frechet` of the means and covariances (divided by n − 1) of two clouds of features.

    The value depends on the feature network: compare it only with values from the same network, and, since
    the estimate is biased upwards by about 1/n, only at the same number of samples.

    Args:
        features_a: (n, d), n >= 2.
        features_b: (m, d), m >= 2.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: the shapes do not fit together, or a number is not finite.
    """
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if not isinstance(features, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(features).__name__}")
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name}: expected shape (n, d) with n >= 2, got {tuple(features.shape)}")
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"features_b: expected {features_a.shape[1]} features, got {features_b.shape[1]}")
    a, b = features_a.detach().double(), features_b.detach().double()
    d = a.shape[1]
    return gaussian_frechet(a.mean(0), a.T.cov().reshape(d, d), b.mean(0), b.T.cov().reshape(d, d))
