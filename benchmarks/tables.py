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
from typing import Any

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


def build(folder: Path) -> tuple[list[str], Rows]:
    """The whole build, and the files that take longest."""
    rows = harness.read_rows(folder, "build")[-1:]
    return (build_time.table(rows[0]).splitlines() if rows else []), rows


TABLES: dict[str, tuple[str, Callable[[Path], tuple[list[str], Rows]]]] = {
    "cases": ("performance.md", cases),
    "chains": ("performance.md", curve("chains")),
    "dimension": ("performance.md", curve("dimension")),
    "steps": ("performance.md", curve("steps")),
    "library": ("performance.md", library),
    "build": ("cuda_chains.md", build),
}


def text(name: str, folder: Path) -> str:
    lines, rows = TABLES[name][1](folder)
    return "\n".join([*lines, "", source(rows)]) if rows else "Not measured yet."


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
