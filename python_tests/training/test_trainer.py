"""A real training run killed at bad moments ends with the same bits; log, callbacks, pruning, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_fast import Langevin
from ebm_fast.models import ConvNetEnergy
from ebm_fast.objectives import PersistentCD
from ebm_fast.training import (
    EMA,
    BatchStream,
    DivergenceMonitor,
    ReplayBuffer,
    Trainer,
    latest_checkpoint,
    load_checkpoint,
    load_digits,
)
from ebm_fast.training import checkpoint as checkpoint_module

ITERATIONS, NEVER = 12, -1


def build(directory: Path | None, **options: object) -> Trainer:
    torch.manual_seed(0)
    digits = load_digits().train
    net = ConvNetEnergy(1, 8, (8, 8), (8,), num_classes=10)
    net.layers.insert(1, torch.nn.Dropout(0.1))  # draws from torch's own generator, which must resume too
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.999))
    buffer = ReplayBuffer(200, (1, 8, 8), init=("uniform", -1.0, 1.0), num_classes=10, seed=1)
    objective = PersistentCD(
        net, Langevin(step_size=0.01), buffer, num_steps=3, data_noise=0.1, kl_weight=0.1, seed=1
    )
    return Trainer(
        net,
        objective,
        optimizer,
        BatchStream(digits, 16, seed=1),
        **{
            "ema": EMA(net, 0.99),
            "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS),
            "grad_clip": 0.05,
            "directory": directory,
            "checkpoint_every": 4,
            "log_every": 3,
            "progress": False,
            **options,
        },
    )


def run_until_killed(directory: Path, iteration: int, operation: int) -> None:
    """Resume, then die by SIGKILL after iteration `iteration`, or at the `operation`-th renaming of a checkpoint file."""
    torch.set_num_threads(1)
    count = 0

    def replace(old: Path, new: Path, original=os.replace) -> None:
        nonlocal count
        count += "iteration-" in str(new)
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)
        original(old, new)

    checkpoint_module.os.replace = replace

    def die(trainer: Trainer, metrics: dict[str, torch.Tensor]) -> None:
        if trainer.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = build(directory, callbacks=[die])
    trainer.resume()
    trainer.fit(ITERATIONS)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    trainer = build(tmp_path_factory.mktemp("whole"))
    trainer.fit(ITERATIONS)
    return trainer


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


PLANS = ((2, NEVER), (7, NEVER), (NEVER, 2), (NEVER, 1), (NEVER, NEVER))


def run_plans(directory: Path) -> None:
    """Each plan in a process of its own, forked before anything was trained; prints how each one ended."""
    torch.set_num_threads(1)
    build(None)  # imports scikit-learn and what an optimiser needs once for all of them
    for plan in PLANS:
        child = os.fork()
        if child == 0:
            try:
                run_until_killed(directory, *plan)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, latest_checkpoint(directory))


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, uninterrupted):
    """Killed before the first checkpoint, between two, within a save (twice), and then finished."""
    code = f"from test_trainer import *; run_plans(Path({str(tmp_path)!r}))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    ends = [line.split() for line in done.stdout.splitlines()]
    assert [int(end[0]) for end in ends] == [-signal.SIGKILL] * 4 + [0], done.stderr
    assert ends[0][1] == "None"
    assert [Path(end[1]).name for end in ends[1:]] == [f"iteration-{n}" for n in (4, 4, 4, ITERATIONS)]
    name = f"iteration-{ITERATIONS}"
    assert latest_checkpoint(tmp_path).name == name
    assert same(load_checkpoint(tmp_path / name), load_checkpoint(uninterrupted.directory / name))
    assert (tmp_path / "log.csv").read_bytes() == (uninterrupted.directory / "log.csv").read_bytes()


def test_what_a_run_leaves(uninterrupted):
    directory = uninterrupted.directory
    assert sorted(p.name for p in directory.iterdir()) == ["iteration-12", "iteration-8", "log.csv"]
    lines = (directory / "log.csv").read_text().splitlines()
    header = lines[0].split(",")
    assert header[:5] == ["iteration", "loss", "energy_data", "energy_samples", "gap"]
    assert {"grad_norm", "kl", "parameter_grad_norm"} <= set(header)
    assert [int(line.split(",")[0]) for line in lines[1:]] == [3, 6, 9, 12]
    assert all(torch.tensor([float(v) for v in line.split(",")]).isfinite().all() for line in lines[1:])
    state = load_checkpoint(directory / "iteration-12")
    assert set(state["parts"]) == {"module", "objective", "optimizer", "batches", "ema", "scheduler"}
    assert same(state["parts"]["module"], dict(uninterrupted.module.state_dict()))


def test_training_lowers_the_energy_of_data_below_that_of_noise():
    trainer = build(None, scheduler=None, ema=None)
    trainer.fit(60)
    digits = load_digits().held_out.images
    noise = torch.rand(len(digits), 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    trainer.module.eval()
    with torch.no_grad():
        assert trainer.module(digits).mean() < trainer.module(noise).mean()


def test_callbacks_see_every_iteration_and_fit_continues(tmp_path):
    seen = []
    trainer = build(
        tmp_path, callbacks=[lambda t, metrics: seen.append((t.iteration, metrics["loss"].item()))]
    )
    trainer.fit(2)
    trainer.fit(5)
    assert [iteration for iteration, _ in seen] == [1, 2, 3, 4, 5]
    other_seen = []
    build(None, callbacks=[lambda t, metrics: other_seen.append((t.iteration, metrics["loss"].item()))]).fit(
        5
    )
    assert other_seen == seen
    with pytest.raises(ValueError, match="5 are done already, got 3"):
        trainer.fit(3)


def test_schedule_and_clipping_act(uninterrupted):
    assert uninterrupted.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)  # the cosine's end
    norms = [p.grad.norm() for p in uninterrupted.module.parameters()]
    assert torch.stack(norms).norm() == pytest.approx(0.05, rel=1e-3)


def test_the_ema_follows(uninterrupted):
    assert uninterrupted.ema.num_updates == ITERATIONS
    with uninterrupted.ema.applied_to():
        assert same(dict(uninterrupted.module.named_parameters()), uninterrupted.ema.average) is False
    average = load_checkpoint(uninterrupted.directory / "iteration-12")["parts"]["ema"]["average"]
    assert same(average, uninterrupted.ema.average)


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    build(tmp_path).fit(1)
    with pytest.raises(FileExistsError, match="resume"):
        build(tmp_path).fit(1)
    assert build(tmp_path / "empty").resume() is False and build(None).resume() is False
    with pytest.raises(ValueError, match="expected the state of"):
        build(tmp_path, ema=None).resume()


@pytest.mark.parametrize(("spoilt", "told"), [(6, "energy_data"), (8, "parameter layers.* after the callbacks of iteration 8")])
def test_a_trainer_stops_at_nan_and_keeps_its_last_checkpoint(spoilt, told, tmp_path):
    """Also where a callback leaves the NaN in the very iteration whose checkpoint is due."""

    def poison(trainer: Trainer, metrics: dict[str, torch.Tensor]) -> None:
        if trainer.iteration == spoilt:
            with torch.no_grad():
                next(trainer.module.parameters()).fill_(float("nan"))

    trainer = build(tmp_path, callbacks=[poison])
    with pytest.raises(FloatingPointError, match=told):
        trainer.fit(ITERATIONS)
    assert trainer.iteration == spoilt - (spoilt == 8)
    assert latest_checkpoint(tmp_path).name == "iteration-4"
    trainer = build(tmp_path)
    assert trainer.resume() and trainer.iteration == 4
    trainer.fit(5)


def test_errors():
    for name in ("checkpoint_every", "keep", "log_every"):
        with pytest.raises(ValueError, match=name):
            build(None, **{name: 0})
    with pytest.raises(ValueError, match="grad_clip"):
        build(None, grad_clip=0.0)
    other = torch.nn.Linear(1, 1)
    schedule = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(other.parameters(), 0.1), 1)
    for error, match, options in (
        (TypeError, "grad_clip must be a number", {"grad_clip": "a"}),
        (TypeError, "directory: expected a path", {"directory": 3}),
        (TypeError, r"callbacks: expected a list of functions", {"callbacks": [1]}),
        (TypeError, "monitor: expected an object, got the class DivergenceMonitor", {"monitor": DivergenceMonitor}),
        (ValueError, "ema: expected the network that optimizer trains, got a Linear", {"ema": EMA(other)}),
        (ValueError, "scheduler: expected one of the optimizer given here", {"scheduler": schedule}),
    ):
        with pytest.raises(error, match=match):
            build(**{"directory": None, **options})
