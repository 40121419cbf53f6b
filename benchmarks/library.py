"""Would a well-kept library multiply the MLP's tiles faster than our micro-kernel? One thread, GFLOP/s, a row a width.

    python benchmarks/library.py        appends rows to results/library-*.jsonl; tables.py makes the table of docs/performance.md

Libraries: the bare product (rows, w) (w, w) into memory at hand, again and again, so that the caches hold it: torch.mm, oneDNN
and MKL with weights packed beforehand as torch exposes them, OpenBLAS as numpy brings it. Ours: the 4 (2 w + w w + w) operations
of a gradient over what a *whole* Langevin step of the MLP 2-w-w-1 takes a chain; and the same once the 2 w tanh and the normals
are taken out of that time by what they take alone (ceilings.py). Of everything the fastest round.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ceilings
import harness
import numpy as np
import torch
from bench_chain import contestants, network, network_flops

WIDTHS, ROWS, CHAINS = (64, 128, 256, 512), (32, 64, 128, 256), 1024
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Calls = dict[str, Callable[[], object]]


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert error < (1e-5 if found.dtype == torch.float32 else 1e-2), f"a library's product is off by {error:.1e}"


def products(rows: int, width: int, dtype: torch.dtype) -> Calls:
    """(rows, width) (width, width), by every library that this torch was built with."""
    a, w = torch.randn(rows, width).to(dtype), torch.randn(width, width).to(dtype)
    out = torch.empty(rows, width, dtype=dtype)
    found: Calls = {"torch.mm": lambda: torch.mm(a, w, out=out)}
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(w.t().contiguous(), rows)
        linear = torch.ops.mkldnn._linear_pointwise
        check(linear(a, packed, None, "none", [], ""), a @ w)
        found["oneDNN, packed"] = lambda: linear(a, packed, None, "none", [], "")
    if torch.backends.mkl.is_available() and dtype == torch.float32:
        plain = w.t().contiguous()
        ready, mkl = torch.ops.mkl._mkl_reorder_linear_weight(plain, rows), torch.ops.mkl._mkl_linear
        check(mkl(a, ready, plain, None, rows), a @ w)
        found["MKL, packed"] = lambda: mkl(a, ready, plain, None, rows)
    if dtype == torch.float32:
        left, right, target = a.numpy(), w.numpy(), out.numpy()
        found["OpenBLAS"] = lambda: np.matmul(left, right, out=target)
    return found


def measure(width: int, precision: str, seconds: float) -> dict[str, Any]:
    """GFLOP/s of the libraries by rows of the tile, and of our whole chain."""
    steps = max(2, 2 * 10**8 // (CHAINS * width * width))
    calls: Calls = {"ebm_fast": contestants(network(precision, 2, width), CHAINS)["ebm_fast"](steps)}
    peers = {rows: products(rows, width, PRECISIONS[precision]) for rows in ROWS}
    calls |= {f"{name} {rows}": call for rows in ROWS for name, call in peers[rows].items()}
    calls |= ceilings.calls(2)
    result = harness.race(calls, seconds=seconds, device="cpu")
    flops = {rows: 2.0 * rows * width * width for rows in ROWS}
    ours, ns = min(result.times["ebm_fast"]) / CHAINS / steps * 1e9, ceilings.nanoseconds(result)
    return {
        "case": f"{precision}, width {width}",
        "width": width,
        "precision": precision,
        "median": result.median("ebm_fast"),
        "spread": result.spread("ebm_fast"),
        "rounds": len(result.times["ebm_fast"]),
        "gflop_s": network_flops(2, width) / ours,
        "products_gflop_s": network_flops(2, width) / (ours - 2 * width * ns["tanhs"] - ns["normals"]),
        "libraries_gflop_s": {
            rows: {name: flops[rows] / min(result.times[f"{name} {rows}"]) / 1e9 for name in peers[rows]} for rows in ROWS
        },
        "multiply_add_gflop_s": 2 / ns["multiply_adds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="time to spend on each width (default: 6)")
    parser.add_argument("--results", type=Path, default=harness.ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = harness.facts("cpu", harness.present_commit())
    for precision in PRECISIONS:
        for width in WIDTHS:
            row = {"name": "library", **measure(width, precision, options.seconds), **facts}
            harness.write_row(options.results, "library", row)
            best = {n: max(by.items(), key=lambda item: item[1]) for n, by in row["libraries_gflop_s"].items()}
            told = "  ".join(f"{n} rows: {name} {rate:.0f}" for n, (name, rate) in best.items())
            print(f"{row['case']}: our chain {row['gflop_s']:.0f} GFLOP/s; {told}", flush=True)


if __name__ == "__main__":
    main()
