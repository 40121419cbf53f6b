"""What the aids against divergence do, measured: the table of docs/stability.md.

    python benchmarks/stability.py            # Markdown, in about seven minutes of processor time on one thread

Persistent contrastive divergence on a density of the plane, with a step of the sampler that it bears and one a fifth larger
that it does not, without and with each aid, from equal seeds. A run has diverged where a number is not finite, or where its
density ends farther from the truth than a Gaussian fitted to the data. KL is by quadrature; the cost is in processor time.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.compare.measure import Truth
from ebm_fast.energies import Gaussian, MLPEnergy
from ebm_fast.training import EMA, BatchStream, DivergenceMonitor, Trainer, make_toy

TOY, WIDTHS, BATCH, CHAINS, PRIOR_STD = "8gaussians", (64, 64), 128, 1024, 3.0
ITERATIONS, NUM_STEPS = 600, 10
STEPS, RATE = (0.05, 0.06), 5e-3
CALM = (0.01, 1e-3)  # step and learning rate of the runs whose cost is taken: none diverges
ROUNDS, SLICE = 25, 20  # of the cost: rounds, and iterations in a slice


@dataclass(frozen=True)
class Aid:
    """What is added to the run."""

    objective: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    spectral: bool = False
    ema: float | None = None
    monitor: Callable[[], DivergenceMonitor] | None = None


AIDS: dict[str, Aid] = {
    "none": Aid(),
    "`energy_l2=0.01`": Aid({"energy_l2": 0.01}),
    "`energy_l2=0.1`": Aid({"energy_l2": 0.1}),
    "`gradient_penalty=0.001`": Aid({"gradient_penalty": 0.001}),
    "`gradient_penalty=0.01`": Aid({"gradient_penalty": 0.01}),
    "`gradient_penalty=0.1`": Aid({"gradient_penalty": 0.1}),
    "`data_noise=0.1`": Aid({"data_noise": 0.1}),
    "spectral norm, every layer": Aid(spectral=True),
    "`EMA(0.99)`": Aid(ema=0.99),
    "`grad_clip=1`": Aid(trainer={"grad_clip": 1.0}),
    "`grad_clip=0.1`": Aid(trainer={"grad_clip": 0.1}),
    "`DivergenceMonitor`": Aid(
        trainer={"checkpoint_every": 50},
        monitor=lambda: DivergenceMonitor(max_rollbacks=10, learning_rate_factor=0.5, bounds={"gap": (-20.0, 20.0)}),
    ),
}


def spectral(net: MLPEnergy) -> None:
    """torch's spectral norm on every layer, in evaluation mode: chains in native code see weights that rest."""
    for layer in net.layers:
        nn.utils.parametrizations.spectral_norm(layer)
    net.eval()


def power_iteration(trainer: Trainer, _: object) -> None:
    """One round of it, after each step of the optimiser."""
    trainer.module.train()
    with torch.no_grad():
        for layer in trainer.module.layers:
            layer.weight  # noqa: B018 (in training mode a look at it is one iteration)
    trainer.module.eval()


def trainer_of(aid: Aid, data: torch.Tensor, step_size: float, rate: float, seed: int) -> Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MLPEnergy(2, WIDTHS, "silu")
        if aid.spectral:
            spectral(net)
    buffer = ef.ReplayBuffer(CHAINS, (2,), init=data, rejuvenation=0.02, seed=seed)
    sampler = ef.Langevin(step_size, prior_precision=PRIOR_STD**-2)
    objective = ef.PersistentCD(net, sampler, buffer, num_steps=NUM_STEPS, seed=seed, **(aid.objective or {}))
    return Trainer(
        net, objective, torch.optim.Adam(objective.parameters(), rate, fused=True), BatchStream(data, BATCH, seed),
        ema=None if aid.ema is None else EMA(net, aid.ema), log_every=10**9, progress=False,
        monitor=None if aid.monitor is None else aid.monitor(), callbacks=[power_iteration] if aid.spectral else [],
        **({"checkpoint_every": 10**9} | (aid.trainer or {})),
    )  # fmt: skip


def distance(trainer: Trainer, truth: Truth) -> float:
    """KL(data || model) of the parameters, or of their average where there is one; infinite where the run failed."""
    energy = trainer.module + Gaussian(torch.zeros(2), precision=PRIOR_STD**-2)
    try:
        if trainer.ema is None:
            return truth.distance(energy).kl
        with trainer.ema.applied_to():
            return truth.distance(energy).kl
    except FloatingPointError:
        return math.inf


def run(aid: Aid, truth: Truth, data: torch.Tensor, step_size: float, rate: float, seed: int) -> float:
    trainer = trainer_of(aid, data, step_size, rate, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the monitor, that it has rolled back
            trainer.fit(ITERATIONS)
    except FloatingPointError:
        return math.inf
    return distance(trainer, truth)


def fitted_gaussian(truth: Truth, data: torch.Tensor) -> float:
    """KL(data || Gaussian of the data's mean and variance): what a network that learned nothing but them would reach."""
    return truth.distance(Gaussian(data.mean(0), variance=data.var(0))).kl


def costs(names: list[str], data: torch.Tensor) -> dict[str, tuple[float, float, float]]:
    """By aid its processor time over that without any, minus 1: median of ratios within rounds, and its 95 % interval."""
    trainers = {name: trainer_of(AIDS[name], data, *CALM, seed=0) for name in dict.fromkeys(["none", *names])}
    busy: dict[str, list[float]] = {name: [] for name in trainers}
    shuffle, order = random.Random(0).shuffle, list(trainers)
    for round_ in range(ROUNDS + 1):
        shuffle(order)
        for name in order:
            started = time.process_time()
            trainers[name].fit((round_ + 1) * SLICE)
            if round_:  # the first warms up
                busy[name].append(time.process_time() - started)
    result = harness.Result({}, busy)
    return {
        name: tuple(r - 1.0 for r in (result.ratio(name, "none", cpu=True), *result.interval(name, "none", cpu=True)))
        for name in names
    }  # fmt: skip


def cell(kls: list[float], bound: float) -> str:
    """How many of the runs diverged, and the median KL of all of them."""
    bad, median = sum(not kl <= bound for kl in kls), statistics.median(kls)
    return f"{bad} of {len(kls)} | {f'{median:.2f}' if median < 10.0 else '> 10'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aids", default="", help="parts of names, with commas between (default: all)")
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in AIDS if any(part in name for part in options.aids.split(","))]
    truth = Truth.of(make_toy(TOY))
    data = truth.toy.sample(20_000, seed=0)
    bound = fitted_gaussian(truth, data)
    started, cost = time.process_time(), costs(names, data)
    heads = "".join(f" diverged, step {step} | KL |" for step in STEPS)
    print(f"{TOY}, learning rate {RATE}, {ITERATIONS} iterations, {options.seeds} seeds; diverged: not finite, or KL above "
          f"{bound:.2f}\n\n| aid |{heads} cost of an iteration |\n|---|{'---:|' * (2 * len(STEPS) + 1)}")  # fmt: skip
    for name in names:
        cells = [
            cell([run(AIDS[name], truth, data, step, RATE, seed) for seed in range(options.seeds)], bound) for step in STEPS
        ]
        middle, low, high = (100.0 * c for c in cost[name])
        print(f"| {name} | {' | '.join(cells)} | {middle:+.0f} % ({low:+.0f} to {high:+.0f}) |", flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
