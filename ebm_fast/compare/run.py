"""Every objective on toys whose density is known, for the same time each, to one page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ebm_fast.demo.machine import machine
from ebm_fast.training.toys import TOYS, make_toy

from .measure import CELLS, HALF_WIDTH, Truth
from .methods import METHODS, NOT_APPLICABLE, Method, Setting
from .pages import picture_points, write_pages
from .train import Result, train

_PACKAGES = ("matplotlib", "safetensors", "tqdm")
_QUICK = 0.03
_PIXELS = 160


def run(
    *,
    data: str = "2d",
    toys: Sequence[str] | None = None,
    objectives: Sequence[str] | None = None,
    seconds: float = 4.0,
    out: Path = Path("runs/compare"),
    seed: int = 0,
    quick: bool = False,
    threads: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a network of one size with each objective for the same time, measure KL to the truth, and write one page.

    Args:
        data: "2d", the toys of `ebm_fast.training.toys`.
        toys: their names; by default all.
        objectives: names of `ebm_fast.compare.METHODS`; by default all but those whose package is missing, which are named in
            one line.
        seconds: of CPU time for each training, from the building of the objective to the last update; the measuring afterwards
            comes on top.
        out: in the end it holds report.html, report.md, a picture for each toy and results.json, which are replaced.
        seed: governs everything random; the number of iterations hangs on the machine, and the result on that number.
        quick: 3 % of the time and a coarse grid, to see that everything works; the numbers then mean nothing.
        threads: CPU threads; networks as small as these gain nothing by a second one.

    Returns:
        What results.json holds.

    Raises:
        ValueError, OSError: an argument is not as expected.
        ModuleNotFoundError: a package is missing.
    """
    plan = _plan(data, toys, objectives, seconds, seed, threads)
    if left_out := _left_out(objectives):
        print(left_out, flush=True)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out: {out} exists and is not a folder")
    seconds, cells = (seconds * _QUICK, CELLS // 4) if quick else (seconds, CELLS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        content, tables = _compare(plan, seconds, cells, seed, out, progress, left_out)
    finally:
        torch.set_num_threads(before)
    print(f"\n{tables}\n\nThe whole page: {out / 'report.html'}", flush=True)
    return content


def _compare(
    plan: list[tuple[str, Method]], seconds: float, cells: int, seed: int, out: Path, progress: bool, left_out: str
) -> tuple[dict[str, Any], str]:
    """What results.json holds, and the tables."""
    from tqdm.auto import tqdm

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what torch imports at its first optimiser is nobody's training
    setting = Setting()
    results: dict[str, list[Result]] = {}
    truths = {name: Truth.of(make_toy(name), HALF_WIDTH, cells) for name in dict.fromkeys(name for name, _ in plan)}
    window = picture_points(_PIXELS)
    form = "{desc:<28} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=seconds * len(plan), disable=not progress, bar_format=form, smoothing=0) as bar:
        for number, (name, method) in enumerate(plan):
            bar.set_description_str(f"{name}, {method.short}")
            end = (number + 1) * seconds

            def tell(passed: float, end: float = end) -> None:
                bar.update(min(passed, end - bar.n))

            points = truths[name].toy.sample(setting.num_data, seed=seed)
            result = train(
                name, method, truths[name], points, setting, seconds=seconds, seed=seed, window=window, progress=tell
            )
            results.setdefault(name, []).append(result)
            tell(seconds)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "seed": seed, "seconds": seconds, "quick": cells < CELLS, "setting": asdict(setting), "machine": machine(),
        "left_out": left_out, "not_applicable": NOT_APPLICABLE,
        "results": [_plain(result) for rows in results.values() for result in rows],
    }  # fmt: skip
    tables = write_pages(out, content, truths, results)
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content, tables


def _plan(
    data: str, toys: Sequence[str] | None, objectives: Sequence[str] | None, seconds: float, seed: int, threads: int
) -> list[tuple[str, Method]]:
    """(toy, objective) in the order in which they run; refuses what cannot be run."""
    if data != "2d":
        raise ValueError(f"data: expected 2d, got {data!r}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, got {seconds}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected an integer in 0..2**63 - 1, got {seed}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    for name, chosen, known in (("toys", toys, TOYS), ("objectives", objectives, METHODS)):
        unknown = [word for word in chosen or () if word not in known]
        if unknown or (chosen is not None and not chosen):
            raise ValueError(f"{name}: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"the comparison needs {', '.join(missing)}: pip install 'ebm_fast[train]'")
    lacking = _lacking()
    if wanted := [name for name in objectives or () if name in lacking]:
        raise ModuleNotFoundError(f"objectives: {', '.join(wanted)} need a flow: pip install 'ebm_fast[flows]'")
    runnable = [name for name in METHODS if name not in lacking]
    return [(toy, METHODS[name]) for toy in dict.fromkeys(toys or TOYS) for name in dict.fromkeys(objectives or runnable)]


def _lacking() -> list[str]:
    """Objectives whose package is not installed."""
    return [name for name, method in METHODS.items() if method.needs and find_spec(method.needs) is None]


def _left_out(objectives: Sequence[str] | None) -> str:
    """What is said of objectives that nobody named and that cannot run here; empty where there are none."""
    lacking = [METHODS[name] for name in _lacking() if objectives is None]
    if not lacking:
        return ""
    needs, titles = ", ".join(dict.fromkeys(m.needs for m in lacking)), ", ".join(m.title for m in lacking)
    return f"Left out, because {needs} is not installed (pip install 'ebm_fast[flows]'): {titles}."


def _plain(result: Result) -> dict[str, Any]:
    """What JSON holds of it."""
    distance = None if result.distance is None else asdict(result.distance)
    return {
        "toy": result.toy, "objective": result.method, "iterations": result.iterations, "seconds": result.seconds,
        "failure": result.failure, "distance": distance,
    }  # fmt: skip
