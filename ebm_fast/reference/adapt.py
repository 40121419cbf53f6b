"""What a warm-up learns from one proposal, in plain PyTorch: dual averaging, Chan's moments, ChEES."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.metropolis import COUNTERS

_PROBABILITY = COUNTERS - 2
# t0 and kappa of Hoffman and Gelman 2014
_T0, _DECAY = 10.0, 0.75
_LONGEST = 80.0  # of log e, a number of float32
_RATE, _BETA2, _EPS, _FARTHEST = 0.025, 0.95, 1e-8, 0.35  # Adam on log T


def adapt_(
    x: Tensor, counters: Tensor, average: Tensor | None, average_count: Tensor | None, step_size: Tensor | None,
    mean: Tensor | None, squares: Tensor | None, count: Tensor | None, search: Tensor | None, length: Tensor | None,
    before: Tensor | None, space: Tensor | None, proposal: Tensor | None, momentum: Tensor | None, scale: Tensor | None,
    target: float, shrinkage: float, longest: float, least: float, fraction: float,
) -> None:  # fmt: skip
    """Trajectory length, step size and moments, each where its tensors are given: see ops/adapt.py."""
    probability = counters[:, _PROBABILITY]
    if search is not None and length is not None and before is not None and proposal is not None and momentum is not None:
        assert step_size is not None
        slope = _slope(probability, before, proposal, momentum, scale) * fraction * length
        length.copy_(_seek(search, slope, step_size.double().log(), longest))
        before.copy_(x)
    if average is not None and average_count is not None and step_size is not None:
        log = _dual_average(average, average_count, probability, target, shrinkage, least)
        sizes = log.exp().to(x.dtype)
        step_size.copy_(sizes[0] if not step_size.ndim else sizes.repeat(x.shape[0] // sizes.shape[0]))
    if mean is not None and squares is not None and count is not None:
        states, double = x.shape[0], x.double()
        new = double.mean(0)
        apart, share = new - mean, states / (count + states)
        squares += (double - new).square().sum(0) + apart.square() * (count * share)
        mean += apart * share
        count += states


def _dual_average(average: Tensor, count: Tensor, probability: Tensor, target: float, shrinkage: float, least: float) -> Tensor:
    """log e of each group."""
    groups = probability.view(-1, average.shape[1])
    acceptance = 1.0 / (1.0 / groups.clamp(min=least)).mean(0) if least else groups.mean(0)
    log, smooth, error, mu = average
    count += 1.0
    error += (target - acceptance - error) / (count + _T0)
    log.copy_((mu - count.sqrt() / shrinkage * error).clamp(-_LONGEST, _LONGEST))
    smooth += count**-_DECAY * (log - smooth)
    return log


def _slope(probability: Tensor, before: Tensor, proposal: Tensor, momentum: Tensor, scale: Tensor | None) -> Tensor:
    """mean_i w_i (|x' - m'|^2 - |x - m|^2) (x' - m') v, in whitened coordinates x / sigma: else the element of the widest scale
    alone decides. Over all chains: trajectories that blew up would count in full if the few left were weighted to 1."""
    n = before.shape[0]
    sigma = 1.0 if scale is None else scale.view(-1).double()
    old, new, velocity = before.view(n, -1).double() / sigma, proposal.view(n, -1).double() / sigma, momentum.view(n, -1).double()
    fine = torch.isfinite(new).all(1) & torch.isfinite(velocity).all(1) & (probability > 0)
    weight = probability.where(fine, 0.0)
    new, velocity = new.where(fine[:, None], old), velocity.where(fine[:, None], 0.0)
    apart = new - (weight[:, None] * new).sum(0) / weight.sum().clamp(min=1e-10)
    change = apart.square().sum(1) - (old - old.mean(0)).square().sum(1)
    return (weight * change * (apart * velocity).sum(1)).sum() / n


def _seek(search: Tensor, slope: Tensor, log_step: Tensor, longest: float) -> Tensor:
    """T after a step of Adam."""
    log, smooth, second, count = search
    slope = slope.where(torch.isfinite(slope.square()), 0.0)
    count += 1.0
    second += (1.0 - _BETA2) * (slope.square() - second)
    move = _RATE * slope / ((second / (1.0 - _BETA2**count)).sqrt() + _EPS)
    log += move.nan_to_num(0.0, 0.0, 0.0).clamp(-_FARTHEST, _FARTHEST)
    log.clamp_(log_step, log_step + math.log(longest))
    smooth += (log - smooth) * count**-0.5
    return log.exp()
