"""One row of the comparison: an objective trained on a toy for a given time, measured against the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.training import EMA, BatchStream, Trainer

from .measure import Distance, Truth, energies_at
from .methods import Method, Problem, Setting

_WARM, _TIMED = 10, 30  # iterations from which the time of one is told
_LEAST = 20  # iterations of a training, however short its time
_SHOWN = 1000
_CHAIN = 1000


@dataclass(frozen=True)
class Result:
    """What one run ends with."""

    toy: str
    method: str
    iterations: int
    seconds: float
    """Of the training, as CPU time, which other programs on the machine do not lengthen."""
    distance: Distance | None
    failure: str
    """Why there is no distance; empty where there is one."""
    density: Tensor | None  # (cells, cells), q of the picture's window
    samples: Tensor | None  # (n, 2)


def train(
    toy: str, method: Method, truth: Truth, data: Tensor, setting: Setting, *, seconds: float, seed: int, window: Tensor,
    progress: Callable[[float], None],
) -> Result:  # fmt: skip
    """Train for about `seconds` of CPU time, turned into a number of iterations by timing some before; judge the average.

    window: points # (m, 2) of the picture. progress: called with the seconds since it was called last.
    """
    iterations = max(_LEAST, int(seconds / _seconds_an_iteration(method, truth, data, setting, seed)))
    problem = Problem(truth.toy, data, setting, seed)
    last = [time.process_time()]

    def tell(*_: object) -> None:
        now = time.process_time()
        if now - last[0] > 0.2:
            progress(now - last[0])
            last[0] = now

    started = time.process_time()
    done, failure = iterations, ""
    trainer = make_trainer(method, problem, iterations, tell)
    try:
        trainer.fit(iterations)
    except FloatingPointError as error:
        done, failure = trainer.iteration, str(error)
    taken = time.process_time() - started
    if failure:
        return Result(toy, method.name, done, taken, None, failure, None, None)
    assert trainer.ema is not None
    with trainer.ema.applied_to():
        distance = truth.distance(problem.energy)
        side = math.isqrt(len(window))
        density = (-energies_at(problem.energy, window) - distance.log_z).exp().view(side, side)
        samples = from_model(problem)
    return Result(toy, method.name, done, taken, distance, "", density, samples)


def make_trainer(method: Method, problem: Problem, iterations: int, callback: Callable[..., None]) -> Trainer:
    """The same optimiser, schedule and average for every objective."""
    setting, objective = problem.setting, method.build(problem)
    optimizer = torch.optim.Adam(objective.parameters(), setting.learning_rate, fused=True)
    warm = max(1, min(100, iterations // 10))

    def rate(iteration: int) -> float:
        return min(1.0, (iteration + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * iteration / iterations))

    return Trainer(
        problem.mlp, objective, optimizer, BatchStream(problem.data, setting.batch_size, problem.seed),
        ema=EMA(problem.mlp, setting.ema_decay), scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        grad_clip=setting.grad_clip, log_every=iterations, callbacks=[callback], progress=False,
    )  # fmt: skip


def from_model(problem: Problem) -> Tensor:  # (n, 2)
    """Ends of Langevin chains from the confining Gaussian."""
    x = torch.empty(_SHOWN, 2)
    ef.ops.normal_(x, seed=problem.seed, purpose="init").mul_(problem.setting.prior_std)
    sampler = problem.langevin()
    return ef.langevin_(
        x, problem.mlp, num_steps=_CHAIN, step_size=sampler.step_size, prior_precision=problem.precision, seed=problem.seed
    )


def _seconds_an_iteration(method: Method, truth: Truth, data: Tensor, setting: Setting, seed: int) -> float:
    trainer = make_trainer(method, Problem(truth.toy, data, setting, seed), _WARM + _TIMED, lambda *_: None)
    trainer.fit(_WARM)
    started = time.process_time()
    trainer.fit(_WARM + _TIMED)
    return (time.process_time() - started) / _TIMED
