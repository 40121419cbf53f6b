"""The machine's arithmetic ceiling for a Langevin step: what its necessary ingredients take, each alone, on all threads.

    floor(mixture) = normals(d) + M exponentials + 4 M d multiply-adds
    floor(MLP)     = normals(d) + 2 w tanh + 2 (d w + w w) multiply-adds, for two hidden layers of width w

nanoseconds a chain and step. Each ingredient is a loop of ceilings.cpp over registers and the first cache, compiled for this very
machine when it is first asked for: no call, no packing, no state, no updates. `normals(d)` is Philox and Box-Muller as a chain
draws them, the functions are core/math.h's, a multiply-add is a lane of a fused one. A mixture needs four multiply-adds for each
component and element: two for a (x - mu)^2 once the squares are multiplied out, two for the sums of w a and w a mu. The loops run
on one thread, beside the contestants; their fastest round is divided by the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import torch

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-O3", "-DNDEBUG", "-std=gnu++17", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-w"]
SUMS, CHAINS, FUNCTIONS = 16, 4, 8  # as in ceilings.cpp, but for the number of lanes
REPEATS = {"multiply_adds": 50_000, "normals": 2_000, "exponentials": 2_000, "tanhs": 1_000}  # half a millisecond or so


@functools.cache
def loops() -> ctypes.CDLL:
    """The compiled loops."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "ceilings.so")
        wide = ["-mprefer-vector-width=512"] if os.uname().machine == "x86_64" else []
        compiler = os.environ.get("CXX", "c++")
        done = subprocess.run([compiler, *FLAGS, *wide, str(SOURCE), "-o", str(target)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{compiler} cannot compile {SOURCE.name}:\n{done.stderr[-3000:]}")
        return ctypes.CDLL(str(target))


def calls(dim: int) -> dict[str, Callable[[], object]]:
    """What is to be timed, a call an ingredient."""
    found: dict[str, Callable[[], object]] = {}
    for name, repeats in REPEATS.items():
        first = (ctypes.c_int(dim),) if name == "normals" else ()
        found[name] = functools.partial(getattr(loops(), name), *first, ctypes.c_int64(repeats))
    return found


def nanoseconds(result: harness.Result) -> dict[str, float]:
    """Of one chain's normals, an exponential, a tanh and a multiply-add, on all threads together: those that were timed."""
    lanes, threads = loops().lanes(), torch.get_num_threads()
    each = {"multiply_adds": SUMS, "normals": CHAINS, "exponentials": CHAINS * FUNCTIONS, "tanhs": CHAINS * FUNCTIONS}
    per = {name: REPEATS[name] * count * lanes * threads for name, count in each.items()}
    return {name: min(result.times[name]) / count * 1e9 for name, count in per.items() if name in result.times}


def mixture_floor(ns: dict[str, float], components: int, dim: int) -> float:
    return ns["normals"] + components * ns["exponentials"] + 4 * components * dim * ns["multiply_adds"]


def network_floor(ns: dict[str, float], dim: int, width: int) -> float:
    products = 2 * (dim * width + width * width)
    return ns["normals"] + 2 * width * ns["tanhs"] + products * ns["multiply_adds"]
