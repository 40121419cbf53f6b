"""The tables of docs/performance.md and docs/cuda_chains.md, made from the newest rows of benchmarks/results.

    python benchmarks/tables.py             writes them into the documents, between <!-- NAME --> and <!-- end of NAME -->
    python benchmarks/tables.py --print     prints them

Nothing in them is typed by hand; below each stand the commits and days of its rows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import build_time
import curves
import harness

Rows = list[dict[str, Any]]
PEERS = {"usual": "usual", "eager": "mended", "compiled": "torch.compile", "jax": "JAX jit", "torchebm": "torchebm"}


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(columns: Iterable[object], align: str = "---:") -> list[str]:
    names = list(columns)
    return [line(*names), f"|---|{'|'.join([align] * (len(names) - 1))}|"]


def short(number: float) -> str:
    """Three digits, or two of small multiples: 1830, 366, 13.5, 2.67."""
    return f"{number:.3g}" if number < 1000 else f"{float(f'{number:.3g}'):.0f}"


def multiple(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.1f}x" if number < 20 else f"{float(f'{number:.3g}'):.0f}x"


def source(rows: Rows) -> str:
    """Where the numbers come from."""
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    days = sorted({row["date"][:10] for row in rows})
    told = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}; {told}."


def cases(folder: Path) -> tuple[list[str], Rows]:
    """P2 and P3 of bench_chain.py, in the order of the last run."""
    found: dict[str, dict[str, Any]] = {}
    for row in harness.read_rows(folder, "chain"):
        if re.match(r"P[23] ", row["case"]):
            found.pop(row["case"], None)
            found[row["case"]] = row
    lines = head(["case", "ebm_fast", *PEERS.values(), "share of the floor's speed"])
    for row in found.values():
        share = f"{row['fraction_of_ceiling']:.0%}" if "fraction_of_ceiling" in row else "-"
        if "bfloat16" in row["case"]:
            share = "-"  # the floor is float32's
        times = [multiple(row["ratios"].get(name)) for name in PEERS]
        lines.append(line(row["case"], f"{short(row['median'] * 1e3)} ms", *times, share))
    return lines, list(found.values())


def curve(kind: str) -> Callable[[Path], tuple[list[str], Rows]]:
    """Mixture and MLP over the axis of a kind of curve, a column a point."""

    def make(folder: Path) -> tuple[list[str], Rows]:
        found, axis = curves.newest(folder), curves.AXES[kind]
        every = {energy: found.get(f"{kind}_{energy}", []) for energy in ("mixture", "mlp")}
        lines = head(["d" if axis == "dim" else axis, *(row[axis] for row in every["mixture"])])
        for energy, rows in every.items():
            name = {"mixture": "mixture", "mlp": "MLP"}[energy]
            lines.append(line(f"{name}: ns", *(short(r["ns_per_chain_step"]["ebm_fast"]) for r in rows)))
            lines.append(line(f"{name}: floor, ns", *(short(r["ceiling_ns"]) for r in rows)))
            lines.append(line(f"{name}: share of the floor's speed", *(f"{r['fraction_of_ceiling']:.0%}" for r in rows)))
            if energy == "mlp":
                share = [r["gflop_s"] / r["sgemm_gflop_s"] if "gflop_s" in r else None for r in rows]
                lines.append(line("MLP: products, of sgemm's rate", *("-" if s is None else f"{s:.0%}" for s in share)))
                half = [r["ns_per_chain_step"]["ebm_fast bfloat16"] for r in rows]
                lines.append(line("MLP, bfloat16: ns", *map(short, half)))
            for peer, told in PEERS.items():
                lines.append(line(f"{name}, {told}: times as long", *(multiple(r["ratios"].get(peer)) for r in rows)))
        return lines, [row for rows in every.values() for row in rows]

    return make


def library(folder: Path) -> tuple[list[str], Rows]:
    """The fastest library of each width and number of rows, beside our whole chain."""
    found = {(row["precision"], row["width"]): row for row in harness.read_rows(folder, "library")}
    rows = list(found.values())
    sizes = list(rows[0]["libraries_gflop_s"]) if rows else []
    lines = head(["GFLOP/s, one thread", *(f"{n} rows" for n in sizes), "our products", "our whole chain", "peak"])
    for row in rows:
        best = [max(row["libraries_gflop_s"][n].items(), key=lambda item: item[1]) for n in sizes]
        peak = f"{row['multiply_add_gflop_s']:.0f}" if row["precision"] == "float32" else "-"
        told = [f"{rate:.0f} ({name})" for name, rate in best]
        lines.append(line(row["case"], *told, f"**{row['products_gflop_s']:.0f}**", f"{row['gflop_s']:.0f}", peak))
    return lines, rows


def latest(folder: Path, name: str, only: str = "") -> Rows:
    """The last row of each case of a GPU's file, in the order of the last run."""
    found: dict[str, dict[str, Any]] = {}
    for row in harness.read_rows(folder, name, harness.DOCUMENTED_GPU):
        if re.match(only, row["case"]):
            found.pop(row["case"], None)
            found[row["case"]] = row
    return list(found.values())


def share(row: dict[str, Any], *names: str) -> str:
    """The first of the fractions that the row holds."""
    found = [row[name] for name in names if name in row]
    return f"{found[0]:.0%}" if found and found[0] >= 0.01 else "< 1%" if found else "-"


def multiples(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    return [multiple(row["ratios"].get(name)) for name in names]


def updates_on_gpu(rows: Rows) -> list[str]:
    lines = head(["update", "ebm_fast, us", "of a copy's bandwidth", "eager", "torch.compile", "JAX jit", "kernel alone, us",
                  "of a copy's bandwidth", "eager, kernels alone"])  # fmt: skip
    for row in rows:
        told = [short(row["median"] * 1e6), share(row, "fraction_of_copy"), *multiples(row, ("eager", "compiled", "jax"))]
        if "graph_seconds" in row:
            took, eager = row["graph_seconds"]["ebm_fast"], row["graph_ratios"]["eager"]
            told += [short(took * 1e6), share(row, "graph_fraction_of_copy"), multiple(eager)]
        else:
            told += ["-"] * 3
        lines.append(line(row["case"].removeprefix("P1 update "), *told))
    return lines


def chains_on_gpu(rows: Rows) -> list[str]:
    peers = {"usual": "usual", "eager": "mended", "compiled": "torch.compile", "graph": "mended, CUDA graph", "jax": "JAX jit",
             "torchebm": "torchebm"}  # fmt: skip
    lines = head(["case", "ebm_fast", *peers.values(), "share of the ceiling"])
    for row in rows:
        told = share(row, "fraction_of_ceiling", "fraction_of_matmul")
        lines.append(line(row["case"], f"{short(row['median'] * 1e3)} ms", *multiples(row, peers), told))
    return lines


def times_on_gpu(*peers: str) -> Callable[[Rows], list[str]]:
    def make(rows: Rows) -> list[str]:
        lines = head(["case", "ebm_fast", "strategy", *peers])
        for row in rows:
            told = [f"{short(row['median'] * 1e3)} ms", row.get("strategy", "-"), *multiples(row, peers)]
            lines.append(line(row["case"], *told))
        return lines

    return make


def effective_on_gpu(rows: Rows) -> list[str]:
    lines = head(["case", "ebm_fast, effective samples a second", "BlackJAX", "NumPyro"])
    for row in rows:
        rate = f"{row['contestants']['ebm_fast']['ess_per_second']:.3g}" if "contestants" in row else "-"
        lines.append(line(row["case"], rate, *multiples(row, ("blackjax", "numpyro"))))
    return lines


def calls_on_gpu(rows: Rows) -> list[str]:
    lines = head(["call, or a step of a run", "us", "eager"])
    for row in rows:
        us = row.get("per_step", row["median"]) * 1e6
        lines.append(line(row["case"], short(us), *multiples(row, ("eager",))))
    return lines


class OnGpu(NamedTuple):
    title: str
    says: str
    name: str  # of the file of rows
    only: str  # cases that begin so
    make: Callable[[Rows], list[str]]


UPDATES = """\
Peers: times as long; JAX waits for its device at each call. "Alone" is without the host, replayed from a CUDA graph of 20 calls:
a call of few numbers waits for it. Up to 10^7 numbers some stay in the second cache, hence more than 100 %."""
CHAINS = """\
The ceiling of a mixture is one Philox block and M exponentials at the pace of the whole device, that of an MLP torch's products
of large matrices in the same precision, in float32 a third of those in tf32. Peers run the float32 energy; JAX rounds the factors
of its products to tf32, its default, but beside our float32."""
TRAINING = """\
Batch 128, the optimiser's step included; "gradients alone" is what it needs of the energy, by autograd. Our chains run in a CUDA
graph or in one kernel, the peers' launch by launch."""
EFFECTIVE = """\
How many times as long the peers take for as many effective samples, all in float32. On the mixture no contestant mixes well:
R-hat is 1.08 for ours, 1.02 for BlackJAX."""
CALLS = "Events of 4 numbers, 4 chains: the host's time more than the device's."

GPU_TABLES = [
    OnGpu("One update (P1)", UPDATES, "langevin", "", updates_on_gpu),
    OnGpu("Whole chains (P2, P3)", CHAINS, "chain", "P[23] ", chains_on_gpu),
    OnGpu("Twenty steps on a convolutional network", "", "langevin_chain", "",
          times_on_gpu("usual", "mended", "mended, compiled", "mended, graphed")),
    OnGpu("A training iteration (P8)", TRAINING, "training", "",
          times_on_gpu("gradients alone", "usual", "mended", "mended, compiled")),
    OnGpu("Effective samples (P9)", EFFECTIVE, "ess", "", effective_on_gpu),
    OnGpu("What a call costs (P10)", CALLS, "overhead", "", calls_on_gpu),
]  # fmt: skip


def gpu(folder: Path) -> str:
    """Every table that has rows, below what they were measured with."""
    parts, every = [], []
    for title, says, name, only, make in GPU_TABLES:
        if rows := latest(folder, name, only):
            parts.append("\n".join([f"### {title}", "", *([says, ""] if says else []), *make(rows), "", source(rows)]))
            every += rows
    if curves.newest(folder, harness.DOCUMENTED_GPU):
        picture = f"images/benchmarks/chains-{harness.DOCUMENTED_GPU}.png"
        parts.append(f"### Over the number of chains\n\n![Nanoseconds per chain and step on the GPU]({picture})")
    if not every:
        return "\n\n".join(parts) or "Not measured yet."
    row = max(every, key=lambda row: row["date"])
    versions = {"PyTorch": "torch", "Triton": "triton", "JAX": "jax", "torchebm": "torchebm"}
    told = ", ".join(f"{name} {row[key]}" for name, key in versions.items() if row.get(key))
    picture = f"![How many times as long each peer takes](images/benchmarks/peers-{harness.DOCUMENTED_GPU}.png)"
    return "\n\n".join([f"**Machine.** {row['device']}, beside {row['cores']} cores of {row['cpu']}; {told}.", picture, *parts])


def build(folder: Path) -> tuple[list[str], Rows]:
    """The whole build, and the files that take longest."""
    rows = harness.read_rows(folder, "build")[-1:]
    return (build_time.table(rows[0]).splitlines() if rows else []), rows


def alone(make: Callable[[Path], tuple[list[str], Rows]]) -> Callable[[Path], str]:
    """One table and its source."""

    def told(folder: Path) -> str:
        lines, rows = make(folder)
        return "\n".join([*lines, "", source(rows)]) if rows else "Not measured yet."

    return told


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "cases": ("performance.md", alone(cases)),
    "chains": ("performance.md", alone(curve("chains"))),
    "dimension": ("performance.md", alone(curve("dimension"))),
    "steps": ("performance.md", alone(curve("steps"))),
    "library": ("performance.md", alone(library)),
    "build": ("cuda_chains.md", alone(build)),
    "gpu": ("performance.md", gpu),
}


def text(name: str, folder: Path) -> str:
    return TABLES[name][1](folder)


def filled(document: str, name: str, table: str) -> str:
    """The document with the table between its marks; ValueError where these are missing."""
    parts = re.split(rf"(<!-- {name} -->\n|<!-- end of {name} -->)", document)
    if len(parts) != 5:
        raise ValueError(f"the document must hold <!-- {name} --> and <!-- end of {name} --> once each")
    return "".join([*parts[:2], table, "\n", *parts[3:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", dest="show", help="print the tables and write nothing")
    parser.add_argument("--results", type=Path, default=harness.ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=harness.ROOT / "docs")
    options = parser.parse_args()
    for name, (page, _) in TABLES.items():
        table = text(name, options.results)
        if options.show:
            print(f"## {name} ({page})\n\n{table}\n")
        else:
            path = options.docs / page
            path.write_text(filled(path.read_text(), name, table))


if __name__ == "__main__":
    main()
