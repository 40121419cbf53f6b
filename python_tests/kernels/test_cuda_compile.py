"""Every CUDA source compiled by nvcc for three GPU generations, without a GPU: registers and spills."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ARCHITECTURES = (80, 90, 100)
ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    "langevin.cu": 12, "noise.cu": 10, "norm.cu": 16, "proposal.cu": 26, "leapfrog.cu": 4, "metropolis.cu": 14, "baoab.cu": 4,
    "swap.cu": 14, "moments.cu": 4, "guard.cu": 16, "perturb.cu": 8, "randperm.cu": 1, "gather.cu": 16, "scatter.cu": 16,
    "chain.cu": 0, "chain_simple.cu": 19, "chain_shapes.cu": 17, "chain_mixture.cu": 6,
    "chain_matrix.cu": 4, "chain_mlp.cu": 2, "chain_tensor.cu": 4,
}  # instantiations each  # fmt: skip
SLOW = ("chain_simple.cu", "chain_shapes.cu", "chain_mixture.cu", "chain_tensor.cu")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in KERNELS])
def test_cuda_sources_compile_without_spills(name, cuda_toolkit, tmp_path, capsys):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    run = subprocess.run(
        [str(cuda_toolkit / "bin/nvcc"), "-std=c++17", "-O3", "-fmad=false", "-Xptxas=-v", "--threads=2", *targets, "-c",
         str(ROOT / "csrc/cuda" / name), "-o", str(tmp_path / "out.o")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr.lower(), run.stderr
    found = re.findall(
        r"Compiling entry function '\S+' for 'sm_(\d+)'.*?Used (\d+) registers", run.stderr, re.S,
    )  # fmt: skip
    with capsys.disabled():
        for architecture in ARCHITECTURES:
            registers = sorted(int(registers) for found_for, registers in found if int(found_for) == architecture)
            print(f"\nsm_{architecture} {name}: {len(registers)} kernels, registers {registers}", end="")
    assert len(found) == KERNELS[name] * len(ARCHITECTURES)
    assert not re.search(r"[1-9]\d* bytes (stack frame|spill)", run.stderr)  # of kernels and of what they call
