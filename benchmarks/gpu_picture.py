"""How many times as long each peer takes on a GPU, case by case: docs/images/benchmarks/peers-MACHINE.png, from the newest rows.

python benchmarks/gpu_picture.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import tables

NAME = f"peers-{harness.DOCUMENTED_GPU}.png"
FILES = {"langevin": "P1", "chain": "", "langevin_chain": "", "training": "P8", "ess": "P9"}
STYLES = {  # names in the rows: legend, colour, marker
    ("usual",): ("usual script", "#7f7f7f", "o"),
    ("eager", "mended"): ("eager, mended", "#1f77b4", "s"),
    ("compiled", "mended, compiled"): ("mended, torch.compile", "#ff7f0e", "^"),
    ("graph", "mended, graphed"): ("mended, CUDA graph", "#9467bd", "D"),
    ("jax",): ("JAX jit", "#2ca02c", "v"),
    ("blackjax",): ("BlackJAX", "#d62728", "P"),
    ("torchebm",): ("torchebm", "#8c564b", "X"),
}


def short(case: str) -> str:
    """P1 update plain 1e+08 -> update plain 1e+08; chains in thousands."""
    for long, new in (("mixture M=8 d=2", "mixture"), ("256 chains", ""), (", d=", " d="), ("1000000 chains", "10^6 chains")):
        case = case.replace(long, new)
    return case.removeprefix("20 steps, ").strip(" ,")


def draw(folder: Path, images: Path) -> Path:
    from matplotlib.figure import Figure

    rows = [row for name, only in FILES.items() for row in tables.latest(folder, name, only)]
    figure = Figure(figsize=(10, 0.27 * len(rows) + 1.3), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    handles: dict[str, Any] = {}
    for place, row in enumerate(rows):
        for names, (legend, colour, marker) in STYLES.items():
            for ratio in [row["ratios"][name] for name in names if name in row["ratios"]]:
                (handles[legend],) = axes.plot(ratio, place, marker, color=colour, markersize=6, linestyle="none", alpha=0.9)
    axes.axvline(1.0, color="black", linewidth=1.6)
    axes.set(xscale="log", xlabel="times as long as ebm_fast (1: equally fast)", ylim=(len(rows) - 0.4, -0.6))
    marks = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [short(row["case"]) for row in rows], fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.hlines(range(len(rows)), *axes.get_xlim(), color="black", alpha=0.08, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    wanted = [legend for legend, *_ in STYLES.values() if legend in handles]
    figure.legend([handles[legend] for legend in wanted], wanted, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    images.mkdir(parents=True, exist_ok=True)
    figure.savefig(images / NAME)
    return images / NAME


if __name__ == "__main__":
    print(draw(harness.ROOT / "benchmarks" / "results", harness.ROOT / "docs" / "images" / "benchmarks"))
