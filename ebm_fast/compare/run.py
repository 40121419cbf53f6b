"""Every objective on toys whose density is known, for the same time each, to one page."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import ebm_fast as ef
from ebm_fast.demo.machine import machine
from ebm_fast.training.toys import TOYS, make_toy

from .measure import CELLS, HALF_WIDTH, Truth
from .methods import METHODS, Method, Setting
from .pages import PICTURE, write_pages
from .train import Result, train

FEW = ("pcd", "ssm_vr", "dsm", "nce", "adance")
"""Objectives that the toys other than the first are learned by, unless objectives are named."""
_PACKAGES = ("matplotlib", "safetensors", "tqdm")
_QUICK = 0.03
_PIXELS = 160


def run(
    *,
    data: str = "2d",
    toys: Sequence[str] | None = None,
    objectives: Sequence[str] | None = None,
    seconds: float = 12.0,
    out: Path = Path("runs/compare"),
    seed: int = 0,
    quick: bool = False,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a network of one size with each objective for ``seconds``, measure KL to the truth, and write one page.

    Args:
        data: "2d", the toys of `ebm_fast.training.toys`.
        toys: their names; by default all, the first with every objective and the others with a few.
        objectives: names of `ebm_fast.compare.METHODS`, for every toy; by default as said above.
        seconds: of training for each; turned into a number of iterations by timing a few of them.
        out: in the end it holds report.html, report.md, a picture for each toy and results.json, which are replaced.
        seed: governs everything random; the number of iterations hangs on the machine.
        quick: 3 % of the time and a coarse grid, to see that everything works; the numbers then mean nothing.
        threads: CPU threads; None leaves the number as it is.

    Returns:
        What results.json holds.

    Raises:
        ValueError, OSError: an argument is not as expected.
        ModuleNotFoundError: a package is missing.
    """
    plan = _plan(data, toys, objectives, seconds, seed, threads)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} exists and is not a folder")
    if threads is not None:
        torch.set_num_threads(threads)
    from tqdm.auto import tqdm

    setting, seconds = Setting(), seconds * (_QUICK if quick else 1.0)
    cells = CELLS // 4 if quick else CELLS
    results: dict[str, list[Result]] = {}
    truths = {name: Truth.of(make_toy(name), HALF_WIDTH, cells) for name in dict.fromkeys(name for name, _ in plan)}
    window = PICTURE.points(_PIXELS)
    form = "{desc:<40} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=seconds * len(plan), disable=not progress, bar_format=form) as bar:
        for number, (name, method) in enumerate(plan):
            bar.set_description_str(f"{name}, {method.title}")
            points = truths[name].toy.sample(setting.num_data, seed=seed)
            result = train(
                name, method, truths[name], points, setting, seconds=seconds, seed=seed, window=window, progress=bar.update
            )
            results.setdefault(name, []).append(result)
            bar.update((number + 1) * seconds - bar.n)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "data": data, "seed": seed, "seconds": seconds, "quick": quick, "setting": asdict(setting), "machine": machine(),
        "results": [_plain(result) for rows in results.values() for result in rows],
    }  # fmt: skip
    tables = write_pages(out, content, truths, results)
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"\n{tables}\n\nThe whole page: {out / 'report.html'}", flush=True)
    return content
