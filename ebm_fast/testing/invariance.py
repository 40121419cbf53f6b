"""Does a kernel leave its target as it is, and is it reversible? Exact draws go in, and must come out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .functions import Scores, as_functions, directions, evaluate
from .kernels import energy_of, exact_draws, run_kernel, seeded
from .kolmogorov import compare_samples
from .result import (
    Comparison,
    TestResult,
    check_alpha,
    check_size,
    combine,
    compare_means,
    failure,
    not_finite,
)

CALIBRATION = 4096
CHAIN_LAGS = (1, 2, 4)
UNIT = "standard deviations of a test function"


def compare_with_start(
    names: list[str], after: Tensor, before: Tensor, reference: Tensor, alpha: float
) -> list[Comparison]:
    """Mean of f after the kernel against w (mean before) + (1 - w) (mean of independent exact draws), per function.

    All # (n, m), (n, m), (r, m). w is the weight of least variance: near 1 where the kernel hardly moves, so that the noise of
    the start cancels, and n / (n + r) where it forgets.
    """
    n, r = after.shape[0], reference.shape[0]
    spread = reference.std(0)
    variance = spread.square()
    safe = torch.where(variance > 0, variance, 1.0)
    covariance = ((after - after.mean(0)) * (before - before.mean(0))).mean(0)
    w = ((covariance / safe + n / r) / (1.0 + n / r)).clamp(0.0, 1.0)
    expected = w * before.mean(0) + (1.0 - w) * reference.mean(0)
    error = ((after - w * before).var(0) / n + (1.0 - w).square() * variance / r).sqrt()
    return compare_means(names, after.mean(0), expected, error, spread, alpha)


def compare_chains(z: Tensor, centre: Tensor, alpha: float) -> list[Comparison]:
    """Mean over chains of sum_i z_i(chain c) z_i(chain c + lag) against 0: chains that share random numbers move together.

    All # (n, k), (k,).
    """
    d = z - centre
    found = []
    for lag in CHAIN_LAGS:
        product = (d[:-lag] * d[lag:]).sum(1)
        mean, spread = product.mean()[None], product.std()[None]
        error = spread / math.sqrt(product.numel())
        found += compare_means([f"chains c, c + {lag}"], mean, torch.zeros_like(mean), error, spread, alpha)
    return found


def invariance_test(
    kernel: Any,
    sample_exact: Any,
    *,
    num_steps: int = 10,
    n: int = 20000,
    functions: Any = None,
    energy: Any = None,
    alpha: float = 1e-6,
    seed: int = 0,
    reference: int = 4,
    projections: int = 8,
) -> TestResult:
    """x_0 ~ pi exactly; x_k = K^k x_0 must be distributed as pi again: E f(x_k) = E_pi f for every test function f.

    n independent chains make every comparison an ordinary z test of independent draws, without burn-in or autocorrelation. The
    kernel's fault shows in full once the chain has relaxed, so give it as many steps as it needs to forget its start; more steps
    neither hide a fault nor cause a false alarm.

    Args:
        kernel: a function x # (n, *event) -> x'; or (sampler, energy), which `ebm_fast.sample` runs; or (sampler, energy,
            options) with a dict of further arguments of it, such as strategy and backend.
        sample_exact: function n -> (n, *event) or (n, seed=) of exact independent draws, such as `energies.Gaussian(...).sample`.
        num_steps: k.
        n: number of chains.
        functions: a function (n, *event) -> (n,) or (n, j), or a dict of them. None: normal scores of each element (of 64
            at most), their squares, products of elements 1, 2 and 4 apart, sums of these, the energy and its square;
            products of neighbouring chains, which must be independent; two-sample KS tests of random projections of the scores.
        energy: (n, *event) -> (n,), a test function that sees small errors of all elements together; that of (sampler, energy).
        alpha: false-alarm rate of the whole test (Bonferroni).
        seed: of everything: the same seed gives the same result.
        reference: further exact draws to compare with, as a multiple of n.
        projections: number of KS tests; not run with `functions`.

    Returns:
        TestResult; `detectable` is the shift of E f, in standard deviations of f, that is found with probability 0.99.

    Raises:
        TypeError, ValueError: a bad argument, or functions that return wrong shapes.

    A kernel can leave its target invariant and still not reach it (a walk that moves only along a diagonal): see `mcse_z_test`.

    Source: Gandy and Scott 2020, "Unit testing for MCMC and other Monte Carlo methods"; Geweke 2004.
    """
    alpha = check_alpha(alpha)
    for value, name in ((num_steps, "num_steps"), (reference, "reference")):
        check_size(value, name)
    check_size(n, "n", 100)
    check_size(projections, "projections", 0)
    given = None if functions is None else as_functions(functions)
    spare = CALIBRATION if given is None else 0
    with seeded(seed):
        draws = exact_draws(sample_exact, n * (1 + reference) + spare, seed)
        start, other, calibration = draws[:n].contiguous(), draws[n : n * (1 + reference)], draws[n * (1 + reference) :]
        after = run_kernel(kernel, start, num_steps, seed)
    lost = not_finite(after)
    if lost:
        return failure("invariance", f"{lost} of {n} chains end at NaN or infinity", alpha, UNIT)
    if given is not None:
        names, f_after = evaluate(given, after)
        f_start, f_other = (evaluate(given, x)[1] for x in (start, other))
        return combine("invariance", compare_with_start(names, f_after, f_start, f_other, alpha / len(names)), alpha, UNIT)
    scores = Scores(calibration, energy_of(kernel, energy))
    names, f_after = scores.features(after)
    share = alpha / (len(names) + len(CHAIN_LAGS) + projections)
    f_start, f_other = (scores.features(x)[1] for x in (start, other))
    found = compare_with_start(names, f_after, f_start, f_other, share)
    z_after, z_other = scores(after)[0], scores(other)[0]
    along = directions(projections, z_after.shape[1], seed).to(z_after.device)
    projected = [compare_samples(z_after @ a, z_other @ a, share, f"KS of projection {k}") for k, a in enumerate(along)]
    chains = compare_chains(z_after, z_other.mean(0), share)
    return combine("invariance", found, alpha, UNIT, [*chains, *projected])


def reversibility_test(
    kernel: Any,
    sample_exact: Any,
    *,
    num_steps: int = 1,
    n: int = 20000,
    functions: Any = None,
    energy: Any = None,
    alpha: float = 1e-6,
    seed: int = 0,
) -> TestResult:
    """x_0 ~ pi, x_1 = K x_0: (x_0, x_1) and (x_1, x_0) have one law, so E [f(x_0, x_1) - f(x_1, x_0)] = 0 for every f.

    Detailed balance under stationarity. Kernels that are invariant and not reversible fail rightly: Gibbs sweeps in a fixed
    order, GHMC and underdamped dynamics (unless momenta are drawn afresh).

    Args:
        kernel, sample_exact, n, energy, alpha, seed: as `invariance_test`.
        num_steps: a power of a reversible kernel is reversible; more steps show weak currents better, up to relaxation.
        functions: a function f(x_0, x_1) -> (n,) or (n, j), or a dict of them; None: f = a(x_0) b(x_1) for pairs a, b of powers
            of the elements' normal scores, of neighbours, and of the energy with each.

    Returns:
        TestResult; `detectable` in standard deviations of f(x_0, x_1) - f(x_1, x_0).

    Raises:
        TypeError, ValueError: as `invariance_test`.
    """
    alpha = check_alpha(alpha)
    check_size(num_steps, "num_steps")
    check_size(n, "n", 100)
    given = None if functions is None else as_functions(functions)
    unit = "standard deviations of f(x0, x1) - f(x1, x0)"
    with seeded(seed):
        draws = exact_draws(sample_exact, n + CALIBRATION, seed)
        before = draws[:n].contiguous()
        after = run_kernel(kernel, before, num_steps, seed)
    lost = not_finite(after)
    if lost:
        return failure("reversibility", f"{lost} of {n} chains end at NaN or infinity", alpha, unit)
    if given is None:
        names, difference = Scores(draws[n:], energy_of(kernel, energy)).antisymmetric(before, after)
    else:
        names, forth = evaluate(given, before, after)
        difference = forth - evaluate(given, after, before)[1]
    spread = difference.std(0)
    found = compare_means(
        names, difference.mean(0), torch.zeros_like(spread), spread / math.sqrt(n), spread, alpha / len(names)
    )
    return combine("reversibility", found, alpha, unit)
