"""Cost of a Langevin step of a chain, over the number of chains, the dimension and the number of steps, beside everybody else.

    python benchmarks/curves.py chains_mixture chains_mlp ...    times these curves (default: all), appends a row a point
    python benchmarks/curves.py --draw                             draws docs/images/benchmarks/*.png from the newest rows

A mixture (M = 8) and an MLP (d-128-128-1, tanh), as in bench_chain.py, whose checks run first. The ceilings drawn are measured
beside each point: for the MLP its multiplications at the rate of torch's sgemm (512 x 512); for the mixture a Philox block and a
Box-Muller pair for each two numbers (Langevin on a Gaussian) and M exponentials (the chain's own, on numbers in the first cache).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from bench_chain import GEMM, NOISE_STD, STEP_SIZE, E, contestants, mixture, network, network_flops

import ebm_fast as ef
from ebm_fast.ops.backend import native

COMPONENTS, FEWEST = 8, 3
ORDER = ("ebm_fast", "ebm_fast bfloat16", "eager", "compiled", "jax", "torchebm")
LABELS = {"ebm_fast": "ebm_fast", "eager": "eager PyTorch", "compiled": "torch.compile", "jax": "JAX jit", "torchebm": "torchebm"}
EXP_NUMBERS = 4096


@dataclass(frozen=True)
class Point:
    energy: str
    chains: int
    dim: int = 2
    steps: int = 5
    without: tuple[str, ...] = ()


def _steps(energy: str, chains: int) -> int:
    """So many that a call of ours takes some milliseconds."""
    return max(1, min(100, (10**6 if energy == "mixture" else 2 * 10**4) // chains))


SLOW = {"mixture": ("compiled",), "mlp": ("compiled", "torchebm")}  # minutes for 10^6 chains
CURVES: dict[str, list[Point]] = {
    f"chains_{energy}": [
        Point(energy, 10**k, 2, _steps(energy, 10**k), SLOW[energy] if k == 6 else ()) for k in range(2, 7)
    ]
    for energy in ("mixture", "mlp")
}
CURVES |= {
    f"dimension_{e}": [Point(e, n, d, s, without) for d in (2, 4, 8, 16, 32, 64)]
    for e, n, s, without in (("mixture", 10**4, 20, ("compiled",)), ("mlp", 4096, 5, ()))
}
CURVES |= {
    f"steps_{e}": [Point(e, n, 2, s, ("compiled",)) for s in (1, 10, 100, 1000)] for e, n in (("mixture", 1000), ("mlp", 64))
}


def exponentials() -> Callable[[], object]:
    module = native()
    assert module is not None
    x = torch.linspace(-20.0, 0.0, EXP_NUMBERS)
    y = torch.empty_like(x)
    return lambda: module.math_cpu(7, x.data_ptr(), y.data_ptr(), EXP_NUMBERS)


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """ns per chain and step of everybody, and of the ceilings."""
    energy = mixture(point.dim) if point.energy == "mixture" else network(dim=point.dim)
    calls = contestants(energy, point.chains, point.steps)
    if point.energy == "mlp":
        coarse = network("bfloat16", dim=point.dim)
        calls["ebm_fast bfloat16"] = contestants(coarse, point.chains, point.steps)["ebm_fast"]
    calls = {name: call for name, call in calls.items() if name not in point.without}
    gaussian, x = E.Gaussian(torch.zeros(point.dim), variance=torch.ones(point.dim)), torch.randn(point.chains, point.dim)
    options = {"num_steps": point.steps, "step_size": STEP_SIZE, "noise_std": NOISE_STD, "seed": 1}
    a = torch.randn(GEMM, GEMM)
    calls |= {
        "floor": lambda: ef.langevin_(x, gaussian, strategy="fused", **options),
        "exponentials": exponentials(),
        "sgemm": lambda: torch.mm(a, a),
    }
    result = harness.race(calls, seconds=seconds, device="cpu", fewest=FEWEST)
    work = point.chains * point.steps
    row: dict[str, Any] = {
        "ns_per_chain_step": {name: result.median(name) / work * 1e9 for name in calls if name in ORDER},
        "spread": {name: result.spread(name) for name in calls if name in ORDER},
        "ratios": {name: result.ratio(name, "ebm_fast") for name in calls if name in ORDER},
        "rounds": len(result.times["ebm_fast"]),
    }
    if point.energy == "mlp":
        flops, rate = network_flops(point.dim), 2 * GEMM**3 / result.median("sgemm")
        row |= {"flops": flops, "sgemm_gflop_s": rate / 1e9, "ceiling_ns": flops / rate * 1e9}
    else:
        exps = result.median("exponentials") / EXP_NUMBERS * COMPONENTS / torch.get_num_threads() * 1e9
        row |= {"noise_ns": result.median("floor") / work * 1e9, "exponentials_ns": exps}
        row["ceiling_ns"] = row["noise_ns"] + exps
    row["fraction_of_ceiling"] = row["ceiling_ns"] / row["ns_per_chain_step"]["ebm_fast"]
    return row


def run(names: Iterable[str], seconds: float, folder: Path) -> None:
    facts = harness.facts("cpu", harness.present_commit())
    for name in names:
        for point in CURVES[name]:
            begin = time.perf_counter()
            what = {"energy": point.energy, "chains": point.chains, "dim": point.dim, "steps": point.steps}
            row = {"name": "curves", "curve": name, **what, **measure(point, seconds), **facts}
            harness.write_row(folder, "curves", row)
            numbers = "  ".join(f"{k} {v:.4g}" for k, v in row["ns_per_chain_step"].items())
            print(f"{name}: {what}  {numbers} ns, {row['fraction_of_ceiling']:.0%} of the ceiling, "
                  f"{time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip


def newest(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The last row of each point, by curve."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("curves-*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["curve"], row["chains"], row["dim"], row["steps"]] = row
    curves: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(found):
        curves.setdefault(key[0], []).append(found[key])
    return curves


def draw(folder: Path, images: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    images.mkdir(parents=True, exist_ok=True)
    curves = newest(folder)
    titles = {"mixture": "Gaussian mixture, M = 8", "mlp": "MLP d-128-128-1"}
    kinds = (("chains", "chains", "chains"), ("dimension", "dim", "dimension d"), ("steps", "steps", "steps in a call"))
    for kind, axis, label in kinds:
        figure = Figure(figsize=(10.5, 4.6), dpi=110, layout="constrained")
        handles: dict[str, Any] = {}
        for axes, energy in zip(figure.subplots(1, 2), titles):
            rows = curves.get(f"{kind}_{energy}", [])
            if not rows:
                continue
            for name in ORDER:
                points = [(r[axis], r["ns_per_chain_step"][name]) for r in rows if name in r["ns_per_chain_step"]]
                if points:
                    width, legend = 2.4 if name.startswith("ebm_fast") else 1.3, LABELS.get(name, name)
                    colour = f"C{ORDER.index(name)}"
                    (handles[legend],) = axes.plot(*zip(*points), "o-", markersize=4, linewidth=width, color=colour)
            floor = [r["ceiling_ns"] for r in rows]
            (handles["floor"],) = axes.plot([r[axis] for r in rows], floor, "k--", linewidth=1.0)
            chains = f"{rows[0]['chains']} chains"
            fixed = {"chains": "d = 2", "dimension": chains, "steps": f"{chains}, d = 2"}[kind]
            axes.set(xscale="log", yscale="log", xlabel=label, ylabel="ns per chain and step", title=f"{titles[energy]}; {fixed}")
            axes.set_xticks([r[axis] for r in rows], [f"{r[axis]:,}".replace(",", " ") for r in rows])
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            for side in (axes.xaxis, axes.yaxis):
                side.set_minor_locator(NullLocator())
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        if handles:
            place = {"loc": "outside lower center", "ncols": len(handles), "frameon": False, "fontsize": 9}
            figure.legend(handles.values(), handles.keys(), **place)
        figure.savefig(images / f"{kind}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(CURVES)}")
    parser.add_argument("--draw", action="store_true", help="draw the pictures and time nothing")
    parser.add_argument("--seconds", type=float, default=3.0, help="time to spend on each point (default: 3)")
    parser.add_argument("--results", type=Path, default=harness.ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=Path, default=harness.ROOT / "docs" / "images" / "benchmarks")
    options = parser.parse_args()
    unknown = sorted(set(options.curves) - set(CURVES))
    if unknown:
        parser.error(f"curves must be of {', '.join(CURVES)}, got {', '.join(unknown)}")
    if options.draw:
        draw(options.results, options.images)
    else:
        run(options.curves or CURVES, options.seconds, options.results)


if __name__ == "__main__":
    main()
