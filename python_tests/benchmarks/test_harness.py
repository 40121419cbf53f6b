"""The benchmarks' own arithmetic, and one benchmark from end to end."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_ratio_is_taken_within_rounds():
    """A load that doubles every time of one round leaves the ratio as it is; the median alone is 1.5."""
    result = harness.Result({"ours": [1.0, 2.0, 1.0, 10.0], "peer": [3.0, 6.0, 3.0, 30.0]})
    assert result.ratio("peer", "ours") == pytest.approx(3.0)
    assert result.median("ours") == 1.5
    assert result.spread("ours") > 1.0
    assert harness.Result({"ours": [2.0] * 5}).spread("ours") == 0.0


def test_interval_holds_the_median_as_often_as_it_says():
    """25 rounds: the 8th and 18th of the ratios, which miss a median of 2 in 4.3 % of runs; 5 rounds cannot tell at 95 %."""
    draw = random.Random(0)

    def misses(shift: float) -> int:
        count = 0
        for _ in range(2000):
            peer = [math.exp(draw.gauss(math.log(2.0) + shift, 0.1)) for _ in range(25)]
            low, high = harness.Result({}, {"ours": [1.0] * 25, "peer": peer}).interval("peer", "ours", cpu=True)
            count += not low <= 2.0 <= high
        return count

    # 86 +- 9 expected: z = 4.9 on both sides is one in a million. A bias of 5 % is seen in most runs.
    assert abs(misses(0.0) - 86.6) < 4.9 * 9.1
    assert misses(0.05) > 600
    ordered = harness.Result({"ours": [1.0] * 25, "peer": [float(k) for k in range(1, 26)]})
    assert ordered.interval("peer", "ours") == (8.0, 18.0)
    assert ordered.ratio("peer", "ours") == 13.0
    assert harness.Result({"ours": [1.0] * 5, "peer": [1.0] * 5}).interval("peer", "ours") == (-math.inf, math.inf)


def test_race_times_what_it_is_given(device):
    calls = {"short": 0, "long": 0}

    def sleep(name: str, seconds: float) -> None:
        calls[name] += 1
        time.sleep(seconds)

    contestants = {"short": lambda: sleep("short", 0.004), "long": lambda: sleep("long", 0.012)}
    result = harness.race(contestants, seconds=0.2, device=device)
    assert 2.0 < result.ratio("long", "short") < 4.0
    assert 0.004 <= result.median("short") < 0.012
    rounds = len(result.times["short"])
    assert harness.FEWEST <= rounds == len(result.times["long"]) <= harness.MOST
    assert calls["short"] == calls["long"] == 2 * rounds + 3  # one untimed call at each turn
    assert len(result.cpu["long"]) == rounds
    assert all(0 <= busy < 0.5 * taken for busy, taken in zip(result.cpu["long"], result.times["long"], strict=True))  # asleep


def test_short_calls_are_timed_in_bunches(device):
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    result = harness.race({"nothing": call}, seconds=0.05, device=device)
    assert count / len(result.times["nothing"]) > 100
    assert result.median("nothing") < 1e-4


def test_copy_moves_the_bytes_it_states(device):
    copy, moved = harness.copy_of(1000, device)
    target = copy()
    assert isinstance(target, torch.Tensor)
    assert 2 * target.nbytes == moved


def test_table_has_our_time_and_each_ratio():
    (line,) = harness.table(
        [{"case": "P1", "median": 2e-3, "spread": 0.1, "ratios": {"eager": 6.5}, "fraction_of_copy": 0.9}]
    )
    assert "2.00 ms" in line
    assert "eager 6.50x" in line
    assert "90% of copy" in line
    assert harness.slug("AMD EPYC 9R14 (Zen 4)") == "amd-epyc-9r14-zen-4"


def test_a_benchmark_leaves_a_complete_row(device, tmp_path):
    command = [
        sys.executable, "-m", "pytest", "benchmarks/bench_overhead.py", "-k", "fused_op", "--device", device,
        "--seconds", "0.05", "--results", str(tmp_path), "--commit", "0123abc", "-p", "no:cacheprovider",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "P10 langevin_step_" in run.stdout
    (path,) = tmp_path.glob("overhead-*.jsonl")
    (row,) = map(json.loads, path.read_text().splitlines())
    for key in ("device", "cpu", "cores", "memory_gib", "torch", "ebm_fast", "date", "threads", "rounds", "spread"):
        assert row[key] is not None
    assert row["commit"] == "0123abc"
    assert row["ratios"]["eager"] == pytest.approx(row["medians"]["eager"] / row["median"], rel=1.0)
    assert 0 < row["median"] < 1e-2


def test_only_device_keeps_the_tests_that_depend_on_it():
    command = [sys.executable, "-m", "pytest", "--only-device", "--collect-only", "-p", "no:cacheprovider", __file__]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    kept = {line.rpartition("::")[2] for line in run.stdout.splitlines() if "::" in line}
    assert {"test_race_times_what_it_is_given", "test_copy_moves_the_bytes_it_states"} < kept, run.stdout + run.stderr
    assert "test_ratio_is_taken_within_rounds" not in kept


def test_exact_products_leave_the_switches_as_they_were():
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    with harness.exact_products():
        assert not any(switch.allow_tf32 for switch in switches)
    assert [switch.allow_tf32 for switch in switches] == before


def test_present_commit_is_this_trees():
    if not (ROOT / ".git").exists():
        assert harness.present_commit() == "unknown"
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert head.startswith(harness.present_commit().rstrip("+"))
