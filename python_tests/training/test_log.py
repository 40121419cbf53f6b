"""TensorBoard curves hold what log.csv holds, every iteration once, also after a resume or a roll-back."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.training import BatchStream, DivergenceMonitor, Trainer, make_toy
from ebm_fast.training import log as log_module


class Stop(Exception):
    pass


def trainer(directory: Path | None, **options: object) -> Trainer:
    torch.manual_seed(0)
    net = MLPEnergy(2, (8,))
    objective = ef.NCE(net, ef.noise.Gaussian(torch.zeros(2), 2.0), log_z=0.0, seed=3)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    options = {"checkpoint_every": 4, "log_every": 1, "progress": False} | options
    return Trainer(
        net, objective, optimizer, BatchStream(make_toy("moons").sample(64, seed=0), 32), directory=directory, **options
    )


def stop_at(iteration: int):
    def callback(t: Trainer, _: object) -> None:
        if t.iteration == iteration:
            raise Stop

    return callback


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def rows(directory: Path) -> dict[str, list[tuple[int, float]]]:
    with (directory / "log.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return {
        name: [(int(row["iteration"]), pytest.approx(float(row[name]), rel=1e-6)) for row in table]
        for name in table[0]
        if name != "iteration"
    }


def test_a_resumed_run_draws_every_point_once(tmp_path):
    with pytest.raises(Stop):
        trainer(tmp_path, tensorboard=True, callbacks=[stop_at(7)]).fit(12)
    going_on = trainer(tmp_path, tensorboard=True)
    assert going_on.resume() and going_on.iteration == 4
    going_on.fit(10)
    found = curves(tmp_path / "tensorboard")
    assert found == rows(tmp_path)
    assert {"loss", "energy_data", "accuracy", "log_z"} <= set(found)
    assert [step for step, _ in found["loss"]] == list(range(1, 11))


@pytest.mark.filterwarnings("ignore:iteration 8 diverged:RuntimeWarning")
def test_a_run_that_rolled_back_draws_every_point_once(tmp_path):
    spoilt = []

    def spoil(t: Trainer, _: object) -> None:
        if t.iteration == 7 and not spoilt:
            spoilt.append(next(t.module.parameters()).data.fill_(math.nan))

    run = trainer(tmp_path, tensorboard=True, monitor=DivergenceMonitor(), callbacks=[spoil])
    run.fit(10)
    assert run.monitor.history[0][:2] == (8, 4)
    found = curves(tmp_path / "tensorboard")
    assert found == rows(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(1, 11))


def test_metrics_that_change_after_a_resume_have_columns_of_their_own(tmp_path):
    """Clipping adds a metric, and is left out again; each number stays under its name."""
    trainer(tmp_path).fit(4)
    going_on = trainer(tmp_path, grad_clip=1.0)
    assert going_on.resume()
    going_on.fit(8)
    trainer_without = trainer(tmp_path)
    assert trainer_without.resume()
    trainer_without.fit(9)
    with (tmp_path / "log.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in table] == list(range(1, 10))
    assert all(None not in row and len(row) == len(table[0]) for row in table)
    assert [bool(row["parameter_grad_norm"]) for row in table] == [False] * 4 + [True] * 4 + [False]
    assert all(math.isfinite(float(row[name])) for row in table for name in ("loss", "log_z", "accuracy"))
    assert all(abs(float(row["accuracy"]) * 64 % 1) < 1e-4 for row in table)  # of 32 data and 32 noise samples


def test_a_writer_of_the_users_own():
    class Recorder:
        def __init__(self) -> None:
            self.points: list[tuple[str, int]] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            assert isinstance(value, float)
            self.points.append((tag, step))

    recorder = Recorder()
    trainer(None, tensorboard=recorder, log_every=2).fit(5)
    assert [step for tag, step in recorder.points if tag == "loss"] == [2, 4]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="tensorboard: True writes into directory"):
        trainer(None, tensorboard=True)
    with pytest.raises(TypeError, match="tensorboard: expected True, False or a writer"):
        trainer(None, tensorboard="runs")

    def missing() -> None:
        raise ModuleNotFoundError("tensorboard=True needs the package: pip install 'ebm_fast[tensorboard]'")

    monkeypatch.setattr(log_module, "_summary_writer", missing)
    with pytest.raises(ModuleNotFoundError, match=r"ebm_fast\[tensorboard\]"):
        trainer(Path("unused"), tensorboard=True)
