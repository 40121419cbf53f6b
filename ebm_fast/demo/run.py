"""The main job from data to report."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.evaluation import judge_samples, train_classifier
from ebm_fast.recipes import build_trainer, load_data
from ebm_fast.recipes.build import Task
from ebm_fast.recipes.sampling import from_noise
from ebm_fast.training import Images, latest_checkpoint

from .machine import machine
from .pages import write_pages
from .recipe import RECIPES, Recipe
from .speed import measure_speed

_MAX_SAMPLES = 1000
_OURS = re.compile(
    r"(log\.csv|iteration-\d+(/(state\.json|tensors-[0-9a-f]{16}\.safetensors))?)(\.partial)?", re.ASCII
)
"""What a trainer leaves in checkpoint/, a kill in the middle of writing included."""
_SECONDS_OF_TIMING = 15.0
_PACKAGES = ("matplotlib", "safetensors", "sklearn", "tqdm")


def run(
    *,
    data: str = "digits",
    root: Path | None = None,
    out: Path = Path("runs/demo"),
    minutes: float = 3.0,
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
    iterations: int | None = None,
) -> dict[str, Any]:
    """Train with persistent chains, sample from noise, judge, time, and leave pictures and a report in
    ``out``.

    Args:
        data: "digits", "mnist" or "fashion_mnist"; ``root`` is the folder with the files of the latter two.
        out: in the end it holds report.html, report.md, samples.png, chains.png, curves.png, metrics.json,
            config.json, log.csv and checkpoint/. A finished run there is replaced, an unfinished one never.
        minutes: training time on two CPU cores, turned into a fixed number of iterations.
        seed: governs everything random.
        resume: continue from the last checkpoint in ``out``, of a run with the same arguments.
        threads: CPU threads; None leaves the number as it is.
        iterations: the number of training iterations itself, instead of ``minutes``.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError, OSError: an argument, a data file or a checkpoint is not as expected.
        ModuleNotFoundError: a package that only the demo needs is missing.
    """
    _check(minutes, seed, threads, iterations)
    if data not in RECIPES:
        raise ValueError(f"data: expected one of {', '.join(RECIPES)}, got {data!r}")
    split = load_data(data, root)
    recipe = RECIPES[data]
    iterations = iterations or max(1, round(minutes * recipe.iterations_per_minute))
    recipe = replace(recipe, config=replace(recipe.config, iterations=iterations, seed=seed))
    _prepare_folder(out, json.loads(json.dumps(asdict(recipe.config))), resume)
    if threads is not None:
        torch.set_num_threads(threads)

    clock = time.perf_counter
    started = clock()
    task, resumed_at = _train(recipe, split.train, out, resume)
    energy, chains, sampling = task.net, recipe.config.chains, recipe.config.sampling
    assert sampling.num_steps is not None and sampling.denoising_steps is not None and recipe.config.optimizer.batch_size
    assert chains.step_size is not None
    trained = clock()

    held_out = _shuffled(split.held_out.images)[:_MAX_SAMPLES]
    print(f"Sampling {len(held_out):,} images from noise ...", flush=True)
    start = ef.ops.uniform_(torch.empty_like(held_out), seed=seed, step=iterations + 1, purpose="init")
    samples, frames, steps = from_noise(
        energy,
        task.sampler(),
        start.mul_(2).sub_(1),
        num_steps=sampling.num_steps,
        denoising_steps=sampling.denoising_steps,
        seed=seed,
        first_step=iterations * chains.num_steps,
    )
    sampled = clock()

    print("Judging them by a classifier trained on the real images ...", flush=True)
    classifier = train_classifier(*split.train, seed=seed)
    train = _shuffled(split.train.images)
    quality = judge_samples(classifier, samples, train, held_out)
    right = classifier(split.held_out.images).argmax(1) == split.held_out.labels
    judged = clock()

    print("Timing the sampler ...", flush=True)
    speed = measure_speed(
        energy,
        samples[: recipe.config.optimizer.batch_size],
        step_size=chains.step_size,
        noise_std=(2 * chains.step_size) ** 0.5,
        seconds=min(_SECONDS_OF_TIMING, 0.05 * iterations),
    )
    metrics = {
        "data": data,
        "seed": seed,
        "iterations": iterations,
        "resumed_at": resumed_at,
        "quality": asdict(quality) | {"classifier_accuracy": right.float().mean().item()},
        "speed": asdict(speed),
        "seconds": {
            "training": trained - started,
            "sampling": sampled - trained,
            "judging": judged - sampled,
        },
        "machine": machine(),
    }
    with (out / "log.csv").open(newline="") as file:
        log = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    tables = write_pages(out, recipe, metrics, quality, speed, log, samples, train, frames, steps)
    _write_json(out / "metrics.json", metrics)
    print(f"\n{tables}\n\nThe whole report: {out / 'report.html'}", flush=True)
    return metrics


def _train(recipe: Recipe, images: Images, out: Path, resume: bool) -> tuple[Task, int]:
    """The run with its averaged network, frozen, and the iteration at which this call took over."""
    iterations = recipe.config.iterations
    trainer, task = build_trainer(recipe.config, images.images, out / "checkpoint")
    if resume:
        trainer.resume()
    resumed_at = trainer.iteration
    print(
        f"Training on {len(images.images):,} images ({recipe.title}), {iterations:,} iterations of "
        f"{recipe.config.chains.num_steps} Langevin steps" + (f", {resumed_at:,} of them done" if resume else ""),
        flush=True,
    )
    try:
        trainer.fit(iterations)
    except KeyboardInterrupt:
        print("\nStopped; the same command with --resume goes on from the last checkpoint.", flush=True)
        raise
    shutil.copyfile(out / "checkpoint" / "log.csv", out / "log.csv")
    assert trainer.ema is not None
    trainer.ema.swap()
    task.net.eval().requires_grad_(False)
    return task, resumed_at


def _check(minutes: float, seed: int, threads: int | None, iterations: int | None) -> None:
    if not (math.isfinite(minutes) and minutes > 0):
        raise ValueError(f"minutes: expected a number above 0, got {minutes}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected an integer in 0..2**63 - 1, got {seed}")
    for name, value in (("threads", threads), ("iterations", iterations)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"the demo needs {', '.join(missing)}: pip install 'ebm_fast[train]'")


def _prepare_folder(out: Path, config: dict[str, Any], resume: bool) -> None:
    """A folder with config.json and no checkpoints, or on resume one whose config.json says the same.

    Deletes the checkpoints and log of a finished run; refuses where checkpoint/ holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} exists and is not a folder")
    checkpoint = latest_checkpoint(out / "checkpoint")
    if resume:
        if checkpoint is None:
            raise FileNotFoundError(f"resume: {out} holds no checkpoint")
        found = json.loads((out / "config.json").read_text())
        changed = [key for key in config if found.get(key) != config[key]]
        if changed:
            told = "; ".join(f"{key} {found.get(key)} there, {config[key]} here" for key in changed)
            raise ValueError(f"resume: the run in {out} was started otherwise: {told}")
        return
    if checkpoint is not None and not (out / "metrics.json").exists():
        raise FileExistsError(
            f"out: {out} holds an unfinished run ({checkpoint.name}): go on with --resume, or choose another "
            "--out"
        )
    folder = out / "checkpoint"
    foreign = sorted(
        name
        for name in (entry.relative_to(folder).as_posix() for entry in folder.rglob("*"))
        if not _OURS.fullmatch(name)
    )
    if foreign:
        raise FileExistsError(
            f"out: {folder} holds {foreign[0]}, which no demo wrote and a new run would delete: move it, or choose "
            "another --out"
        )
    (out / "metrics.json").unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "config.json", config)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _shuffled(images: Tensor) -> Tensor:
    """Files come sorted by writer or by difficulty; a part of them must stand for the whole."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
