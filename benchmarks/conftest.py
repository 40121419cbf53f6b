"""Options of the benchmarks, and the table of rows at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import pytest

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=6.0, help="time to spend on each race (default: 6)")
    parser.addoption("--commit", default=None, help="commit to name in the rows, where the tree holds no .git")
    parser.addoption(
        "--results", type=Path, default=harness.ROOT / "benchmarks" / "results", help="folder for rows of results"
    )


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    return request.config.getoption("--seconds")


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: Any, device: str) -> Callable[..., None]:
    """Writes one row: our median and spread, the ratio of each peer to it, and whatever else the benchmark knows."""

    def write(
        name: str,
        case: str,
        result: harness.Result,
        calls: Mapping[str, Callable[[], object]],
        *,
        ours: str = "ebm_fast",
        bytes_moved: int | None = None,
        copy_bytes: int | None = None,
        **more: Any,
    ) -> None:
        peers = [peer for peer in result.times if peer not in (ours, *harness.AUXILIARY)]
        row: dict[str, Any] = {
            "name": name,
            "case": case,
            "median": result.median(ours),
            "spread": result.spread(ours),
            "rounds": len(result.times[ours]),
            "ratios": {peer: result.ratio(peer, ours) for peer in peers},
            "medians": {peer: result.median(peer) for peer in result.times},
        }
        if result.cpu:
            row["cpu_ratios"] = {peer: result.ratio(peer, ours, cpu=True) for peer in peers}
        if bytes_moved is not None and copy_bytes is not None:
            row |= {
                "bytes": bytes_moved,
                "copy_gb_s": copy_bytes / result.median("copy") / 1e9,
                "fraction_of_copy": bytes_moved / copy_bytes * result.ratio("copy", ours),
            }
        commit = request.config.getoption("--commit") or harness.present_commit()
        row |= {**more, **harness.facts(device, commit)}
        harness.write_row(request.config.getoption("--results"), name, row)
        request.config.stash.setdefault(ROWS, []).append(row)
        benchmark.extra_info.update({"case": case, "ratios": row["ratios"]})
        # pytest-benchmark's own table, for --benchmark-compare and friends.
        timed = (lambda: harness.timer("cuda")(calls[ours], 1)) if device == "cuda" else calls[ours]
        benchmark.pedantic(timed, rounds=5, iterations=max(1, int(harness.SLICE / result.median(ours))))

    return write


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("ebm_fast beside its peers: our median, and how many times as long each peer takes")
        for line in harness.table(rows):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"rows are in {config.getoption('--results')}")
