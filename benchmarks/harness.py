"""What the benchmarks share: facts of the machine, paired timing, and rows of results.

Contestants are timed in turn, at random order within each round, in one process, so that load which comes and goes falls on
all of them alike; the ratio to a peer is the median of the ratios within each round. Processor time stands beside the clock's:
neighbours on the machine lengthen it less.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import ebm_fast as ef
from ebm_fast import doctor

ROOT = Path(__file__).resolve().parents[1]
SLICE = 2e-3  # seconds: a shorter slice would measure the clock
LONG = 0.05  # seconds: after so long a call caches and threads are as warm as they get
FEWEST, MOST = 5, 101  # rounds
SETTLE = 0.02  # seconds between contestants
CONFIDENCE = 0.95
AUXILIARY = ("copy", "half")  # timed for what they tell, not as peers
DOCUMENTED, DOCUMENTED_GPU = "amd-epyc", "nvidia-h200"  # the machines of the tables and pictures in docs/


@dataclass(frozen=True)
class Result:
    """Seconds per call of each contestant, one number per round: by the clock, and of the processor where it was looked at."""

    times: dict[str, list[float]]
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def scaled(self, factors: Mapping[str, float]) -> Result:
        """The same rounds with each contestant's seconds times its factor."""

        def by(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
            return {name: [factors.get(name, 1.0) * t for t in each] for name, each in seconds.items()}

        return Result(by(self.times), by(self.cpu))

    def spread(self, name: str) -> float:
        """Half the distance between the quartiles over the median."""
        low, _, high = statistics.quantiles(self.times[name], n=4)
        return (high - low) / 2 / self.median(name)

    def ratio(self, peer: str, to: str, *, cpu: bool = False) -> float:
        """How many times as long the peer takes, median over the rounds; with `cpu` in processor time."""
        return statistics.median(self._ratios(peer, to, cpu))

    def interval(self, peer: str, to: str, *, cpu: bool = False) -> tuple[float, float]:
        """Of that median, by order statistics: ends that hold it with probability CONFIDENCE, whatever the law of the times."""
        ratios = sorted(self._ratios(peer, to, cpu))
        n, below, rank = len(ratios), 0.0, 0
        while 2.0 * (below + math.comb(n, rank) / 2.0**n) <= 1.0 - CONFIDENCE:
            below, rank = below + math.comb(n, rank) / 2.0**n, rank + 1
        return (ratios[rank - 1], ratios[n - rank]) if rank else (-math.inf, math.inf)

    def _ratios(self, peer: str, to: str, cpu: bool) -> list[float]:
        seconds = self.cpu if cpu else self.times
        return [p / t for p, t in zip(seconds[peer], seconds[to], strict=True)]


def timer(device: str) -> Callable[[Callable[[], object], int], tuple[float, float]]:
    """Seconds per call over `count` calls, by the host's clock or events on the device; and of the processor, all threads."""
    if device == "cpu":

        def on_host(call: Callable[[], object], count: int) -> tuple[float, float]:
            busy, start = time.process_time(), time.perf_counter()
            for _ in range(count):
                call()
            taken = time.perf_counter() - start
            return taken / count, (time.process_time() - busy) / count

        return on_host

    def on_device(call: Callable[[], object], count: int) -> tuple[float, float]:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        busy = time.process_time()
        before.record()
        for _ in range(count):
            call()
        after.record()
        busy = time.process_time() - busy  # of the calls, not of waiting for them
        torch.cuda.synchronize()
        return before.elapsed_time(after) / 1e3 / count, busy / count

    return on_device


def race(
    contestants: Mapping[str, Callable[[], object]], *, seconds: float, device: str, fewest: int = FEWEST
) -> Result:
    """Time all contestants in turn for about `seconds` in all, after two calls each to warm up (and to compile)."""
    measure, order, shuffle = timer(device), list(contestants), random.Random(0).shuffle
    counts = {}
    for name, call in contestants.items():
        call()
        once = measure(call, 1)[0]
        counts[name] = 0 if once >= LONG else max(1, int(SLICE / max(min(once, measure(call, 1)[0]), 1e-9)))
    result = Result({name: [] for name in contestants}, {name: [] for name in contestants})
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < fewest or (time.perf_counter() < end and rounds < MOST):
        shuffle(order)
        for name in order:
            # JAX and compiled code bring thread pools of their own, which go on for milliseconds after their call returned. A GPU
            # would lower its clocks meanwhile.
            if device == "cpu":
                time.sleep(SETTLE)
            if counts[name]:
                contestants[name]()
            taken, busy = measure(contestants[name], counts[name] or 1)
            result.times[name].append(taken)
            result.cpu[name].append(busy)
        rounds += 1
    return result


def copy_of(numel: int, device: str) -> tuple[Callable[[], object], int]:
    """A device copy with the footprint of `numel` floats read and written, and the bytes it moves."""
    source, target = torch.randn(numel, device=device), torch.empty(numel, device=device)
    return lambda: target.copy_(source), 8 * numel


@contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products and convolutions of float32 in float32, for checks: by default torch rounds convolutions to tf32 on a GPU,
    and two orders of the same sum then differ in the fourth digit. What is timed keeps torch's defaults, everybody alike."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = False
        yield
    finally:
        for part, allowed in zip(parts, before, strict=True):
            part.allow_tf32 = allowed


def graphed(call: Callable[[], object], times: int = 1) -> Callable[[], object]:
    """`times` calls in one CUDA graph, which replays them without the host."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # By thread: JAX, if it is here, has threads of its own, whose calls are no part of this.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(times):
            call()
    return graph.replay


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
