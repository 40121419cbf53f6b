"""Memory is flat over many steps: the peak of a process of its own, which no other test has filled and broken up."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from samplers.family import bowl

import ebm_fast as ef
from ebm_fast.ops.backend import why_not

MOVES = {
    "random walk": ef.RandomWalkMetropolis(0.3), "underdamped": ef.UnderdampedLangevin(0.05), "hmc": ef.HMC(0.1, 1),
    "langevin": ef.Langevin(0.05),
}  # fmt: skip
NATIVE = not why_not("cpu")


class Leaking:
    """An energy that keeps a few numbers of every call, as a list of past states would."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.append(torch.zeros(100))
        return bowl(x)


def cases() -> dict[str, tuple[Any, Any, int, dict[str, Any]]]:
    """name -> energy, sampler, steps, options of `sample`"""
    gaussian = ef.energies.Gaussian(torch.zeros(3), variance=torch.ones(3))
    found = {f"step, {name}": (bowl, move, 3_000, {"strategy": "step"}) for name, move in MOVES.items()}
    found["step, a leak"] = (Leaking(), MOVES["random walk"], 3_000, {"strategy": "step"})
    if NATIVE:
        for thin in (1, 100_000):
            for name, move in MOVES.items():
                found[f"native, {name}, thin={thin}"] = (gaussian, move, 100_000, {"strategy": "fused", "thin": thin})
        found["native, energies kept"] = (gaussian, MOVES["hmc"], 100_000, {"strategy": "fused", "record_energy": True})
    return found


def memory(field: str) -> int:
    """KiB, of this process: VmRSS at present, VmHWM at the highest since the last reset."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def growth(energy: Any, sampler: Any, steps: int, options: dict[str, Any]) -> int:
    """KiB by which the peak of the process moves while steps are taken, nothing recorded: the less of two runs."""
    options = {"record": False, "moments": True, **options}
    found = []
    for _ in range(2):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        state = ef.sample(energy, sampler, torch.randn(16, 3), num_steps=400, seed=1, **options).state
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
        before = memory("VmRSS")
        ef.sample(energy, sampler, resume=state, num_steps=steps, **options)
        found.append(memory("VmHWM") - before)
    return min(found)


@pytest.fixture(scope="module")
def grown() -> dict[str, int]:
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process cannot be reset here")
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run([sys.executable, __file__], env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                         capture_output=True, text=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MOVES)
def test_step_by_step_it_does_not_grow(name, grown):
    """A tensor leaked each step would be more than 1,500 KiB."""
    assert grown[f"step, {name}"] < 700


@pytest.mark.skipif(not NATIVE, reason="the extension is not built")
@pytest.mark.parametrize("thin", [1, 100_000])
@pytest.mark.parametrize("name", MOVES)
def test_in_native_chains_it_does_not_grow(name, thin, grown):
    """Energies of 16 chains and their Hamiltonians would be 18,000 KiB."""
    assert grown[f"native, {name}, thin={thin}"] < 700


def test_a_leak_would_be_seen(grown):
    assert grown["step, a leak"] > 1_200
    assert not NATIVE or grown["native, energies kept"] > 10_000


if __name__ == "__main__":
    print(json.dumps({name: growth(*case) for name, case in cases().items()}))
