"""Runs of several objectives, and one that rolls back, killed at random steps: the same bits as uninterrupted ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.training import Alternating, BatchStream, DivergenceMonitor, Trainer, load_checkpoint
from ebm_fast.training.toys import make_toy

ITERATIONS = 16


class Fragile(ef.PersistentCD):
    """Its loss is not a number in iteration 9, until the run has been returned to an earlier state twice."""

    monitor: DivergenceMonitor

    def __call__(self, batch):
        spoilt = self.iteration == 9 and self.monitor.num_rollbacks < 2
        loss, metrics = super().__call__(batch)
        return (loss * float("nan"), metrics) if spoilt else (loss, metrics)


def buffer() -> ef.ReplayBuffer:
    return ef.ReplayBuffer(64, (2,), init=("normal", 2.0), seed=3)


def two_players(net: MLPEnergy) -> Alternating:
    flow = ef.objectives.players.DiagonalGaussian(torch.zeros(2), 2.0)
    objective = ef.FlowContrastive(net, flow, log_z=0.0, seed=3)
    return Alternating(objective, torch.optim.Adam(objective.generator_parameters(), 1e-2), steps=2, every=3)


CHAINS = {"sampler": ef.Langevin(step_size=0.01), "num_steps": 3, "seed": 3}
NOISE = ef.noise.Gaussian(torch.zeros(2), 2.0)
OBJECTIVES = {
    "cd": lambda net: ef.PersistentCD(net, buffer=buffer(), **CHAINS),
    "nce": lambda net: ef.NCE(net, NOISE, log_z=0.0, seed=3),
    "foreign_nce": lambda net: ef.NCE(net, torch.distributions.Normal(torch.zeros(2), 2.0), seed=3),
    "dsm": lambda net: ef.DenoisingScoreMatching(net, sigma=0.3, seed=3),
    "ssm": lambda net: ef.SlicedScoreMatching(net, seed=3),
    "adance": lambda net: ef.AdaptiveNCE(net, buffer=buffer(), interval=3, **CHAINS),
    "fce": lambda net: two_players(net),
    "rolled_back": lambda net: Fragile(net, buffer=buffer(), **CHAINS),
}


def build(name: str, directory: Path | None, **options: object) -> Trainer:
    torch.manual_seed(0)
    net = MLPEnergy(2, (16,))
    objective = OBJECTIVES[name](net)
    monitor = DivergenceMonitor(learning_rate_factor=0.5) if name == "rolled_back" else None
    if monitor is not None:
        objective.monitor = monitor
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    return Trainer(
        net,
        objective,
        optimizer,
        BatchStream(make_toy("moons").sample(100, seed=0), 32, seed=4),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * ITERATIONS),
        ema=ef.EMA(net, 0.9),
        directory=directory,
        checkpoint_every=4,
        log_every=1,
        monitor=monitor,
        progress=False,
        **options,
    )


def run_until_killed(name: str, directory: Path, steps: int) -> None:
    """Resume, then die by SIGKILL after so many steps of this process."""
    left = steps

    def die(trainer: Trainer, metrics: dict[str, torch.Tensor]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = build(name, directory, callbacks=[die])
    trainer.resume()
    trainer.fit(ITERATIONS)


def run_all(directory: Path) -> None:
    """Every objective, killed twice and then finished, each time in a process of its own; prints how each one ended."""
    torch.set_num_threads(1)
    build("cd", None)  # imports what an optimiser needs once for all of them
    draw = random.Random(0)
    for name in OBJECTIVES:
        for steps in (draw.randint(1, 11), draw.randint(5, 11), -1):
            child = os.fork()
            if child == 0:
                try:
                    run_until_killed(name, directory / name, steps)
                    os._exit(0)
                finally:
                    os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("killed")
    code = f"from test_resume import *; run_all(Path({str(directory)!r}))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    ends = [int(line) for line in done.stdout.split()]
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0] * len(OBJECTIVES), done.stderr
    return directory


@pytest.mark.filterwarnings("ignore:iteration 10 diverged:RuntimeWarning")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_killed_at_random_steps_ends_with_the_same_bits(name, killed, tmp_path):
    trainer = build(name, tmp_path)
    trainer.fit(ITERATIONS)
    last = f"iteration-{ITERATIONS}"
    state = load_checkpoint(tmp_path / last)
    assert same(load_checkpoint(killed / name / last), state)
    assert (killed / name / "log.csv").read_bytes() == (tmp_path / "log.csv").read_bytes()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + ITERATIONS
    # The comparison can fail: one more iteration moves what it compares.
    trainer.fit(ITERATIONS + 1)
    assert not same(state["parts"]["module"], dict(trainer.module.state_dict()))


@pytest.mark.filterwarnings("ignore:iteration 10 diverged:RuntimeWarning")
def test_the_run_that_rolled_back_did_so_as_planned(killed, tmp_path):
    state = load_checkpoint(killed / "rolled_back" / f"iteration-{ITERATIONS}")
    history = state["parts"]["monitor"]["history"]
    assert [entry[:2] for entry in history] == [(10, 8), (10, 4)]  # the second failure went one snapshot further back
    assert "loss is nan" in history[0][2]
    objective = state["parts"]["objective"]
    assert objective["seed"] != 3 and objective["buffer"]["seed"] != 3
    # In memory the same happens as on the disk.
    trainer = build("rolled_back", None)
    trainer.fit(ITERATIONS)
    assert same(state["parts"]["module"], dict(trainer.module.state_dict()))
    assert same(state["parts"]["optimizer"], trainer.optimizer.state_dict())
    assert same(objective, trainer.objective.state_dict())
