"""What the benchmarks share: facts of the machine, paired timing, and rows of results.

Contestants are timed in turn, round after round, in one process, so that load which comes and goes falls on all of them
alike; the ratio to a peer is the median of the ratios within each round.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads that wait for each other spin; beside other jobs on the same cores that can cost peers a hundred times the work itself.
# (Read when torch is loaded: under pytest the Makefile says it.)
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch

import ebm_fast as ef
from ebm_fast import doctor

ROOT = Path(__file__).resolve().parents[1]
SLICE = 2e-3  # seconds: a shorter slice would measure the clock
LONG = 0.05  # seconds: after so long a call caches and threads are as warm as they get
FEWEST, MOST = 5, 101  # rounds
SETTLE = 0.02  # seconds between contestants
AUXILIARY = ("copy", "half")  # timed for what they tell, not as peers
DOCUMENTED = "amd-epyc"  # the machine of the tables and pictures in docs/


@dataclass(frozen=True)
class Result:
    """Seconds per call of each contestant, one number per round."""

    times: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def scaled(self, factors: Mapping[str, float]) -> Result:
        """The same rounds with each contestant's seconds times its factor."""
        return Result({name: [factors.get(name, 1.0) * t for t in times] for name, times in self.times.items()})

    def spread(self, name: str) -> float:
        """Half the distance between the quartiles over the median."""
        low, _, high = statistics.quantiles(self.times[name], n=4)
        return (high - low) / 2 / self.median(name)

    def ratio(self, peer: str, to: str) -> float:
        """How many times as long the peer takes, median over the rounds."""
        return statistics.median(p / t for p, t in zip(self.times[peer], self.times[to], strict=True))


def timer(device: str) -> Callable[[Callable[[], object], int], float]:
    """Seconds per call over `count` calls: the host's clock, or events on the device."""
    if device == "cpu":

        def on_host(call: Callable[[], object], count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                call()
            return (time.perf_counter() - start) / count

        return on_host

    def on_device(call: Callable[[], object], count: int) -> float:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        before.record()
        for _ in range(count):
            call()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after) / 1e3 / count

    return on_device


def race(
    contestants: Mapping[str, Callable[[], object]], *, seconds: float, device: str, fewest: int = FEWEST
) -> Result:
    """Time all contestants in turn for about `seconds` in all, after two calls each to warm up (and to compile)."""
    measure = timer(device)
    counts, warm = {}, {}
    for name, call in contestants.items():
        call()
        first = measure(call, 1)
        counts[name] = max(1, int(SLICE / max(min(first, measure(call, 1)), 1e-9))) if first < LONG else 1
        warm[name] = first < LONG
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < fewest or (
        time.perf_counter() < end and len(next(iter(times.values()))) < MOST
    ):
        for name, call in contestants.items():
            # JAX and compiled code bring thread pools of their own, which go on for milliseconds after their call returned.
            time.sleep(SETTLE)
            if warm[name]:
                call()
            times[name].append(measure(call, counts[name]))
    return Result(times)


def copy_of(numel: int, device: str) -> tuple[Callable[[], object], int]:
    """A device copy with the footprint of `numel` floats read and written, and the bytes it moves."""
    source, target = torch.randn(numel, device=device), torch.empty(numel, device=device)
    return lambda: target.copy_(source), 8 * numel


def present_commit() -> str:
    """The commit of this tree, with + where files differ from it that could change what is measured: not rows, not docs."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs", ":!*.md")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def facts(device: str, commit: str) -> dict[str, Any]:
    """Hardware, versions, commit, date and threads: they stand in every row."""
    build = doctor.build()
    return {
        **doctor.machine(),
        "device": torch.cuda.get_device_name() if device == "cuda" else doctor.cpu_model(),
        "isa": build.get("isa"),
        "cuda_architectures": build.get("cuda_architectures"),
        "torch": torch.__version__,
        "triton": doctor.version("triton"),
        "jax": doctor.version("jax"),
        "torchebm": doctor.version("torchebm"),
        "ebm_fast": ef.__version__,
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
    }


def slug(device_name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def write_row(folder: Path, name: str, row: Mapping[str, Any]) -> Path:
    """Append a row to <name>-<device>.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{slug(row['device'])}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return path


def read_rows(folder: Path, name: str, machine: str = DOCUMENTED) -> list[dict[str, Any]]:
    """The rows of <name>-<machine>.jsonl, oldest first; none where there is no such file."""
    path = folder / f"{name}-{machine}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line per row: what was timed, our time, and each peer's as a multiple of it."""
    lines = []
    for row in rows:
        unit, scale = ("us", 1e6) if row["median"] < 1e-3 else ("ms", 1e3)
        peers = "  ".join(f"{name} {ratio:.2f}x" for name, ratio in row["ratios"].items())
        extra = f"  {row['fraction_of_copy']:.0%} of copy" if "fraction_of_copy" in row else ""
        lines.append(
            f"{row['case']:<44} {row['median'] * scale:9.2f} {unit} +-{row['spread']:4.0%}   {peers}{extra}".rstrip()
        )
    return lines
