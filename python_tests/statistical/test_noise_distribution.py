"""Distributions and correlations of the noise at a false-alarm rate of 1e-6, with planted faults that the same tests catch."""

from __future__ import annotations

import math

import pytest
import torch

import ebm_fast as ef

ALPHA = 1e-6
BINS = 4096


def chi_square_p(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """p-value of Pearson's statistic (the chi-square tail in double precision)."""
    statistic = ((counts - expected).square() / expected).sum()
    half = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(half, statistic.double() / 2).item()


@pytest.fixture(params=[10**6, pytest.param(10**8, marks=pytest.mark.slow)])
def chunks(request):
    """Sizes (chains, dim) whose draws are looked at together, at most 10^7 at a time."""
    total = request.param
    return [(1000, min(total, 10**7) // 1000)] * max(1, total // 10**7)


def test_words_are_uniform_in_every_group_of_bits(chunks):
    counts = torch.zeros(3, BINS, dtype=torch.float64)
    total = 0
    for k, shape in enumerate(chunks):
        words = ef.ops.bits_(torch.empty(shape, dtype=torch.int32), seed=123, step=k)
        total += words.numel()
        for row, shift in enumerate((0, 10, 20)):
            counts[row] += torch.bincount(((words >> shift) & (BINS - 1)).flatten(), minlength=BINS).double()
    expected = torch.full((BINS,), total / BINS, dtype=torch.float64)
    for row in counts:
        assert chi_square_p(row, expected) > ALPHA
    assert chi_square_p(counts[0] * torch.linspace(0.95, 1.05, BINS).double(), expected) < ALPHA


def test_normals_are_normal(chunks):
    """Chi-square over 4096 cells of equal probability, moments, and the two tails."""
    counts = torch.zeros(BINS, dtype=torch.float64)
    wrong = torch.zeros(BINS, dtype=torch.float64)
    moments = torch.zeros(4, dtype=torch.float64)
    beyond = dict.fromkeys((3.0, 4.0, 5.0), 0)
    total, biggest = 0, 0.0
    for k, shape in enumerate(chunks):
        z = ef.ops.normal_(torch.empty(shape), seed=99, step=k)
        counts += torch.histc(torch.special.ndtr(z), BINS, 0.0, 1.0).double()
        wrong += torch.histc(torch.special.ndtr(z * 1.02), BINS, 0.0, 1.0).double()
        d = z.double()
        moments += torch.stack([d.sum(), d.square().sum(), d.pow(3).sum(), d.pow(4).sum()])
        for t in beyond:
            beyond[t] += int((z.abs() > t).sum())
        total += z.numel()
        biggest = max(biggest, z.abs().max().item())
    expected = torch.full((BINS,), total / BINS, dtype=torch.float64)
    assert chi_square_p(counts, expected) > ALPHA
    assert chi_square_p(wrong, expected) < ALPHA  # a 2 % error of scale is seen
    for value, mean, variance in zip(moments / total, (0.0, 1.0, 0.0, 3.0), (1.0, 2.0, 15.0, 96.0)):
        assert abs(value.item() - mean) < 4.9 * math.sqrt(variance / total)
    for t, seen in beyond.items():
        wanted = total * math.erfc(t / math.sqrt(2.0))
        assert abs(seen - wanted) < 4.9 * math.sqrt(wanted) + 5.0
    assert biggest > math.sqrt(2 * math.log(total)) - 1.0


def test_the_tail_reaches_six_and_a_half():
    """The smallest word, 0, gives sqrt(66 ln 2) = 6.76; a generator of 24-bit uniforms would stop at 5.77."""
    from ebm_fast.reference.noise import normal_of

    words = torch.tensor([0, 0, 0xFFFFFFFF, 0x80000000])
    z = normal_of(words)
    assert z[0].item() == pytest.approx(math.sqrt(66 * math.log(2.0)), abs=1e-5)
    assert z[2].abs().item() < 1e-3


def test_elements_of_two_blocks_are_uncorrelated(chunks):
    """Correlations of the normals, and of their squares, within eight elements that lie side by side."""
    products, squared, reused, rows = torch.zeros(8, 8), torch.zeros(8, 8), torch.zeros(8, 8), 0
    for k, shape in enumerate(chunks):
        z = ef.ops.normal_(torch.empty(shape), seed=31, step=k).view(-1, 8)
        squares = (z.square() - 1.0) / math.sqrt(2.0)
        products += z.t() @ z
        squared += squares.t() @ squares
        rows += z.shape[0]
        if k == 0:  # a planted fault: 5 % of a block used twice
            twice = z.clone()
            twice[:, 4:] = 0.05 * z[:, :4] + math.sqrt(1 - 0.05**2) * z[:, 4:]
            reused += twice.t() @ twice / z.shape[0]
    bound, first = 5.6 / math.sqrt(rows), 5.6 / math.sqrt(z.shape[0])  # 1e-6 over 64 pairs
    off = ~torch.eye(8, dtype=torch.bool)
    assert (products / rows)[off].abs().max().item() < bound
    assert (squared / rows)[off].abs().max().item() < 2 * bound  # squares have heavier tails
    assert reused[off].abs().max().item() > first


def test_uniforms_and_signs(chunks):
    counts, wrong, signs, total = torch.zeros(BINS).double(), torch.zeros(BINS).double(), 0.0, 0
    for k, shape in enumerate(chunks):
        u = ef.ops.uniform_(torch.empty(shape), seed=7, step=k)
        assert u.min().item() > 0.0
        assert u.max().item() <= 1.0
        counts += torch.histc(u, BINS, 0.0, 1.0).double()
        wrong += torch.histc(u.pow(1.05), BINS, 0.0, 1.0).double()
        s = ef.ops.rademacher_(torch.empty(shape), seed=7, step=k)
        assert bool((s.abs() == 1.0).all())
        signs += s.double().sum().item()
        total += u.numel()
    expected = torch.full((BINS,), total / BINS, dtype=torch.float64)
    assert chi_square_p(counts, expected) > ALPHA
    assert chi_square_p(wrong, expected) < ALPHA
    assert abs(signs) < 4.9 * math.sqrt(total)
