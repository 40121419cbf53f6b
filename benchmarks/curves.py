"""Cost of a Langevin step of a chain, over the number of chains, the dimension and the number of steps, beside everybody else.

    python benchmarks/curves.py [chains_mixture chains_mlp ...]   times these curves (default: all), appends a row a point
    python benchmarks/curves.py --draw                             draws docs/images/benchmarks/*.png from the newest rows
    python benchmarks/curves.py --device cuda chains_mixture chains_mlp             the same on a GPU
    python benchmarks/curves.py --draw --machine nvidia-h200       draws what was timed there

A mixture (M = 8) and an MLP (d-128-128-1, tanh), with the contestants of bench_chain.py, whose checks run first. The floor is
that of ceilings.py, measured beside each point: the necessary arithmetic alone, at the machine's pace; on a GPU that of
ceilings_gpu.py, and of the MLP its products at the pace of torch's. tables.py makes the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import harness

FEWEST, WIDTH = 3, 128
STYLES: dict[str, tuple[str, str, str]] = {  # label, colour, marker
    "ebm_fast": ("ebm_fast", "#0b5fa5", "o"),
    "ebm_fast bfloat16": ("ebm_fast, bfloat16 products", "#e8710a", "s"),
    "usual": ("usual loop", "#7a7a7a", "v"),
    "eager": ("mended loop", "#2a9d3a", "^"),
    "compiled": ("torch.compile", "#c62828", "D"),
    "graph": ("mended loop in a CUDA graph", "#00897b", "h"),
    "jax": ("JAX jit", "#8e44ad", "P"),
    "torchebm": ("torchebm", "#8d6e63", "X"),
}
AXES = {"chains": "chains", "dimension": "dim", "steps": "steps"}  # kind of curve: what varies along it
FLOOR = "floor: arithmetic alone, float32"
TITLES = {"mixture": "Gaussian mixture, M = 8", "mlp": "MLP d-128-128-1"}


@dataclass(frozen=True)
class Point:
    energy: str
    chains: int
    dim: int = 2
    steps: int = 5


def _steps(energy: str, chains: int) -> int:
    """So many that a call of ours takes some milliseconds, and what a call costs by itself does not count."""
    return max(10, min(100, 10**6 // chains)) if energy == "mixture" else max(2, min(100, 2 * 10**5 // chains))


CURVES: dict[str, list[Point]] = {
    f"chains_{e}": [Point(e, 10**k, 2, _steps(e, 10**k)) for k in range(2, 7)] for e in ("mixture", "mlp")
}
CURVES |= {
    f"dimension_{e}": [Point(e, n, d, s) for d in (2, 4, 8, 16, 32, 64)]
    for e, n, s in (("mixture", 10**4, 20), ("mlp", 4096, 5))
}
CURVES |= {f"steps_{e}": [Point(e, n, 2, s) for s in (1, 10, 100, 1000)] for e, n in (("mixture", 1000), ("mlp", 64))}


def measure(point: Point, seconds: float, device: str) -> dict[str, Any]:
    """ns per chain and step of everybody, and of the floor."""
    import ceilings
    import torch
    from bench_chain import COMPONENTS, GEMM, compete, contestants, mixture, network, network_flops

    energy = (mixture(point.dim) if point.energy == "mixture" else network(dim=point.dim, width=WIDTH)).to(device)
    makers = contestants(energy, point.chains, device=device)
    if point.energy == "mlp":
        coarse = network("bfloat16", point.dim, WIDTH).to(device)
        makers["ebm_fast bfloat16"] = contestants(coarse, point.chains, energy, device)["ebm_fast"]
    makers = {name: makers[name] for name in STYLES if name in makers}
    a = torch.randn(GEMM, GEMM, device=device)
    others: dict[str, Callable[[], object]] = {"sgemm": lambda: torch.mm(a, a)}
    if device == "cpu":
        others |= ceilings.calls(point.dim)
    result, _ = compete(makers, point.steps, others, seconds, device, FEWEST)
    ns = {name: result.median(name) / (point.chains * point.steps) * 1e9 for name in makers}
    row: dict[str, Any] = {
        "ns_per_chain_step": ns,
        "spread": {name: result.spread(name) for name in makers},
        "ratios": {name: result.ratio(name, "ebm_fast") for name in makers},
        "rounds": len(result.times["ebm_fast"]),
    }
    if device == "cuda":
        import ceilings_gpu

        products = network_flops(point.dim, WIDTH) / ceilings_gpu.rates()["float32_tflop_s"] / 1e3
        row["ingredients_ns"] = ceilings_gpu.nanoseconds()
        row["ceiling_ns"] = products if point.energy == "mlp" else ceilings_gpu.mixture_floor(COMPONENTS)
        return row | {"fraction_of_ceiling": row["ceiling_ns"] / ns["ebm_fast"]}
    row["ingredients_ns"] = parts = ceilings.nanoseconds(result)
    if point.energy == "mlp":
        row["ceiling_ns"] = ceilings.network_floor(parts, point.dim, WIDTH)
        rate, flops = 2 * GEMM**3 / result.median("sgemm") / 1e9, network_flops(point.dim, WIDTH)
        row |= {"sgemm_gflop_s": rate, "gflop_s": flops / ns["ebm_fast"], "multiply_add_gflop_s": 2 / parts["multiply_adds"]}
    else:
        row["ceiling_ns"] = ceilings.mixture_floor(parts, COMPONENTS, point.dim)
    row["fraction_of_ceiling"] = row["ceiling_ns"] / ns["ebm_fast"]
    return row


def run(names: Iterable[str], seconds: float, folder: Path, device: str, commit: str | None) -> None:
    facts = harness.facts(device, commit or harness.present_commit())
    points = [(name, point) for name in names for point in CURVES[name]]
    if device == "cuda":  # a launch costs a step or two of few chains, and a loop of many chains a hundredth of a second
        points = [(name, replace(p, steps=max(p.steps, min(100, 10**7 // p.chains)))) for name, p in points]
    start = time.perf_counter()
    for done, (name, point) in enumerate(points, 1):
        begin = time.perf_counter()
        row = {"name": "curves", "curve": name, **asdict(point), **measure(point, seconds, device), **facts}
        harness.write_row(folder, "curves", row)
        now = time.perf_counter()
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in row["ns_per_chain_step"].items())
        left = (now - start) / done * (len(points) - done) / 60
        print(f"[{done}/{len(points)}] {name}: {point.chains} chains, d = {point.dim}, {point.steps} steps: {numbers} ns; "
              f"floor {row['ceiling_ns']:.4g} ns, {row['fraction_of_ceiling']:.0%} of its speed; {now - begin:.0f} s, "
              f"about {left:.1f} min left", flush=True)  # fmt: skip


def newest(folder: Path, machine: str = harness.DOCUMENTED) -> dict[str, list[dict[str, Any]]]:
    """The last row of each point, by curve, along its axis."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in harness.read_rows(folder, "curves", machine):
        found[row["curve"], row[AXES[row["curve"].split("_")[0]]]] = row
    curves: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(found):
        curves.setdefault(key[0], []).append(found[key])
    return curves


def ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers between the limits of a logarithmic axis: 1, 2, 5, or more of them where that would be few."""
    leads = (1.0, 2.0, 5.0) if high / low > 20 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    for power in range(-3, 9):
        yield from (lead * 10.0**power for lead in leads if low <= lead * 10.0**power <= high)


def draw(folder: Path, images: Path, machine: str = harness.DOCUMENTED) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    images.mkdir(parents=True, exist_ok=True)
    curves = newest(folder, machine)
    end = "" if machine == harness.DOCUMENTED else f"-{machine}"
    labels = {"chains": "chains", "dimension": "dimension d", "steps": "steps in a call"}
    for kind, axis in AXES.items():
        if not any(name.startswith(kind) for name in curves):
            continue
        figure = Figure(figsize=(11, 5.4), dpi=110, layout="constrained")
        handles: dict[str, Any] = {}
        for axes, energy in zip(figure.subplots(1, 2), TITLES):
            rows = curves.get(f"{kind}_{energy}", [])
            if not rows:
                continue
            for name, (legend, colour, marker) in STYLES.items():
                points = [(r[axis], r["ns_per_chain_step"][name]) for r in rows if name in r["ns_per_chain_step"]]
                if points:
                    ours = name.startswith("ebm_fast")
                    width, size, order = (2.6, 6, 3) if ours else (1.3, 5, 2)
                    style = {"marker": marker, "markersize": size, "linewidth": width, "color": colour, "zorder": order}
                    (handles[legend],) = axes.plot(*zip(*points), **style)
            floor = [r["ceiling_ns"] for r in rows]
            (handles[FLOOR],) = axes.plot([r[axis] for r in rows], floor, "k--", linewidth=1.4)
            chains = f"{rows[0]['chains']} chains"
            fixed = {"chains": "d = 2", "dimension": chains, "steps": f"{chains}, d = 2"}[kind]
            axes.set(xscale="log", yscale="log", xlabel=labels[kind], ylabel="ns per chain and step")
            axes.set_title(f"{TITLES[energy]}; {fixed}")
            axes.set_xticks([r[axis] for r in rows], [f"{r[axis]:,}".replace(",", " ") for r in rows])
            marks = list(ticks(*axes.get_ylim()))
            axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
            for side in (axes.xaxis, axes.yaxis):
                side.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        if handles:
            wanted = [label for label, *_ in STYLES.values() if label in handles] + [FLOOR]
            place = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 10}
            figure.legend([handles[label] for label in wanted], wanted, **place)
        figure.savefig(images / f"{kind}{end}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(CURVES)}")
    parser.add_argument("--draw", action="store_true", help="draw the pictures and time nothing")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to time (default: cpu)")
    parser.add_argument("--machine", default=harness.DOCUMENTED, help="whose rows to draw (default: %(default)s)")
    parser.add_argument("--commit", default=None, help="commit to name in the rows, where the tree holds no .git")
    parser.add_argument("--seconds", type=float, default=3.0, help="time to spend on each point (default: 3)")
    parser.add_argument("--results", type=Path, default=harness.ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=Path, default=harness.ROOT / "docs" / "images" / "benchmarks")
    options = parser.parse_args()
    unknown = sorted(set(options.curves) - set(CURVES))
    if unknown:
        parser.error(f"curves must be of {', '.join(CURVES)}, got {', '.join(unknown)}")
    if options.draw:
        draw(options.results, options.images, options.machine)
    else:
        run(options.curves or CURVES, options.seconds, options.results, options.device, options.commit)


if __name__ == "__main__":
    main()
