"""A run from its settings to its pictures."""

from __future__ import annotations

import contextlib
import csv
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_fast.plotting import density_2d, grids_side_by_side, metric_curves
from ebm_fast.training import distributed, latest_checkpoint
from ebm_fast.training.distributed import Rank

from .build import Task, build_trainer, device, training_data
from .config import FILE, Config, save_config

_PACKAGES = ("matplotlib", "safetensors", "sklearn", "tqdm")
_SHOWN = 100  # images in the picture


def run(config: Config, out: Path, *, resume: bool = False, progress: bool = True) -> Tensor | None:
    """Train as the settings say, sample, and leave config.json, checkpoint/, samples.png and curves.png in `out`.

    A run that was stopped at any moment goes on with `resume` to the bits of one that was not: from its last checkpoint, or from
    the beginning where it has none yet. torch's generators are seeded. Under torchrun every process has its share of batch and
    buffer, and the first one writes. Returns the samples # (n, *event), None in the other processes.

    Raises:
        ValueError, OSError: a setting, a data file or a checkpoint is not as expected; `out` holds a run already.
        FloatingPointError: the training ran away.
        ModuleNotFoundError: a package of the extra `train` is missing.
    """
    if missing := [package for package in _PACKAGES if find_spec(package) is None]:
        raise ModuleNotFoundError(f"ebm-fast train needs {', '.join(missing)}: pip install 'ebm_fast[train]'")
    config = config.resolved()
    rank = distributed.start(device(config))
    try:
        return _run(config, out, resume, progress, rank)
    finally:
        if rank.world > 1:
            distributed.stop()


def _run(config: Config, out: Path, resume: bool, progress: bool, rank: Rank) -> Tensor | None:
    if not resume and rank.index == 0 and (out / FILE).exists():
        raise FileExistsError(f"out: {out} holds a run; go on with --resume {out}, or choose another --out")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    trainer, task = build_trainer(config, training_data(config), out / "checkpoint", rank, progress=progress)
    assert trainer.ema is not None and trainer.directory is not None
    if resume and not (out / FILE).is_file():
        raise FileNotFoundError(f"resume: {out} holds no run")
    if resume and not trainer.resume():
        folders = [out / "checkpoint", *(out / "checkpoint").glob("rank-*")]
        if any(latest_checkpoint(folder) for folder in folders):  # of another number of processes, or not of all of them
            raise FileNotFoundError(
                f"resume: {out} holds no checkpoint of all of {rank.world} process{'es' * (rank.world > 1)}; go on with as many "
                f"as before, or remove {out / 'checkpoint'} to begin again"
            )
    begins = not resume and rank.index == 0
    missing = [path for path in (out / "checkpoint", out, *out.parents) if not path.exists()]
    if begins:
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, out / FILE)
    try:
        trainer.fit(config.iterations)
    except ValueError:  # of a setting that only an iteration can judge, such as the name of a metric
        if begins and trainer.iteration < (1 if trainer.monitor is None else trainer.monitor.check_every):
            (out / FILE).unlink()
            if missing[:1] == [out / "checkpoint"]:
                shutil.rmtree(missing.pop(0), ignore_errors=True)
            for path in missing:
                with contextlib.suppress(OSError):  # somebody else's files are in it by now
                    path.rmdir()
        raise
    except KeyboardInterrupt:
        print(f"\nStopped; ebm-fast train --resume {out} goes on from the last checkpoint.", flush=True)
        raise
    if rank.index:
        return None
    with trainer.ema.applied_to():
        samples = task.draw()
        _picture(task, samples).savefig(out / "samples.png")
    with (trainer.directory / "log.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    metric_curves(rows).savefig(out / "curves.png")
    return samples


def _picture(task: Task, samples: Tensor) -> Any:  # a matplotlib Figure
    if task.on_plane:
        return density_2d(task.density, samples, title=f"{task.config.objective} on {task.config.data}")
    return grids_side_by_side(samples[:_SHOWN].cpu(), task.real[:_SHOWN].cpu(), ("samples, from noise", "real images"))
