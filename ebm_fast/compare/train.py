"""One row of the comparison: an objective trained on a toy for a given CPU time, measured against the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.training import EMA, BatchStream, Trainer

from .measure import Distance, Truth, energies_at
from .methods import Method, Problem, Setting

_RISE, _RISE_SHARE = 100, 0.1  # iterations, or part of the training, in which the learning rate rises
_NEVER = 1 << 30  # iterations
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
    """Train until `seconds` of CPU time are spent, from the building of the objective to the last update; judge the average.

    window: points # (m, 2) of the picture. progress: called with the seconds since it was called last.
    """
    problem = Problem(truth.toy, data, setting, seed)
    if method.needs:
        import_module(method.needs)  # a package is not part of the training
    started = last = time.process_time()

    def spent() -> float:
        return time.process_time() - started

    def tell(*_: object) -> None:
        nonlocal last
        now = time.process_time()
        if now - last > 0.2:
            progress(now - last)
            last = now

    trainer = make_trainer(method, problem, lambda _: spent() / seconds, tell)
    assert trainer.ema is not None
    try:
        while trainer.iteration == 0 or spent() < seconds:
            # Half of what is left, by the mean so far: a dozen pieces, and the last one is a single iteration.
            ahead = 0.5 * (seconds / spent() - 1.0) * trainer.iteration
            trainer.fit(trainer.iteration + max(1, int(ahead)))
        taken = spent()
        with trainer.ema.applied_to():
            distance = truth.distance(problem.energy)
            side = math.isqrt(len(window))
            density = (-energies_at(problem.energy, window) - distance.log_z).exp().view(side, side)
            return Result(toy, method.name, trainer.iteration, taken, distance, "", density, from_model(problem))
    except FloatingPointError as error:
        return Result(toy, method.name, trainer.iteration, spent(), None, str(error), None, None)


def make_trainer(
    method: Method, problem: Problem, fraction: Callable[[int], float], callback: Callable[..., None] = lambda *_: None
) -> Trainer:
    """The same optimiser, schedule and average for every objective.

    fraction: of the whole training that is done before an iteration. Equal budgets of time tell it by the clock; for the same
    numbers in every run tell it by the iteration.
    """
    setting, objective = problem.setting, method.build(problem)
    optimizer = torch.optim.Adam(objective.parameters(), setting.learning_rate * method.rate, fused=True)

    def rate(iteration: int) -> float:
        done = min(1.0, fraction(iteration))
        rise = max((iteration + 1) / _RISE, done / _RISE_SHARE)  # whichever ends first
        return min(1.0, rise) * 0.5 * (1.0 + math.cos(math.pi * done))

    return Trainer(
        problem.mlp, objective, optimizer, BatchStream(problem.data, setting.batch_size, problem.seed),
        ema=EMA(problem.mlp, setting.ema_decay), scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        grad_clip=setting.grad_clip, log_every=_NEVER, callbacks=[callback], progress=False,
    )  # fmt: skip


def from_model(problem: Problem) -> Tensor:  # (n, 2)
    """Ends of Langevin chains from the confining Gaussian."""
    x = torch.empty(_SHOWN, 2)
    ef.ops.normal_(x, seed=problem.seed, purpose="init").mul_(problem.setting.prior_std)
    sampler = problem.langevin()
    return ef.langevin_(
        x, problem.mlp, num_steps=_CHAIN, step_size=sampler.step_size, prior_precision=problem.precision, seed=problem.seed
    )

