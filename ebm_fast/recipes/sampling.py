"""Samples from noise by a trained energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

import ebm_fast as ef

RECORDED = 8  # chains whose way from noise to sample is kept
_MOMENTS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


def from_noise(
    energy: Callable[[torch.Tensor], torch.Tensor],
    sampler: ef.Langevin,
    start: torch.Tensor,
    *,
    num_steps: int,
    denoising_steps: int,
    seed: int,
    first_step: int,
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """num_steps of ``sampler``, then denoising_steps with noise that falls linearly to 0.

    Args:
        sampler: with a constant temperature, or a constant noise_std: numbers, or tensors () or (n,).
        start: (n, *event), overwritten.
        first_step: where in the random stream of ``seed`` the chains begin.

    Returns:
        The samples (n, *event); states (T, min(n, RECORDED), *event) of the first chains at T moments; and
        the steps at which they were taken, 0 first.

    Raises ValueError for a sampler with a schedule.
    """
    if sampler.has_schedule():
        raise ValueError("sampler: expected constant step_size, noise_std and temperature, got a schedule")
    moments = [0, *(moment for moment in _MOMENTS if moment < num_steps), num_steps]
    frames = [start[:RECORDED].clone()]
    x = start
    for begin, end in pairwise(moments):
        ef.engine.run_(energy, sampler, x, end - begin, seed=seed, step=first_step + begin)
        frames.append(x[:RECORDED].clone())
    if not denoising_steps:
        return x, torch.stack(frames), moments
    falling = [1.0 - (i + 1) / denoising_steps for i in range(denoising_steps)]
    loud: Any = sampler.temperature if sampler.noise_std is None else sampler.noise_std
    if sampler.noise_std is None:
        quieter = replace(sampler, temperature=lambda age: loud * falling[age] ** 2)
    else:
        quieter = replace(sampler, noise_std=lambda age: loud * falling[age])
    ef.engine.run_(energy, quieter, x, denoising_steps, seed=seed, step=first_step + num_steps)
    frames.append(x[:RECORDED].clone())
    return x, torch.stack(frames), [*moments, num_steps + denoising_steps]
