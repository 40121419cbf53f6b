"""Every CUDA source compiled by nvcc for three GPU generations, without a GPU: registers and spills."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ARCHITECTURES = (80, 90, 100)
ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    "langevin.cu": 16, "noise.cu": 10, "norm.cu": 16, "proposal.cu": 26, "leapfrog.cu": 4, "metropolis.cu": 14, "baoab.cu": 4,
    "swap.cu": 14, "moments.cu": 4, "guard.cu": 16, "perturb.cu": 8, "randperm.cu": 1, "gather.cu": 16, "scatter.cu": 16,
    "adapt.cu": 20,
    "chain.cu": 0, "chain_simple.cu": 26, "chain_shapes.cu": 30, "chain_mixture.cu": 13,
    "chain_matrix.cu": 6, "chain_mlp.cu": 3, "chain_tensor.cu": 6,
}  # instantiations each  # fmt: skip
SLOW = ("chain_simple.cu", "chain_shapes.cu", "chain_mixture.cu", "chain_tensor.cu")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda_objects")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in KERNELS])
def test_cuda_sources_compile_without_spills(name, cuda_toolkit, objects, capsys):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    run = subprocess.run(
        [str(cuda_toolkit / "bin/nvcc"), "-std=c++17", "-O3", "-fmad=false", "-Xptxas=-v", "-Xcompiler=-fPIC", "--threads=2",
         *targets, "-c", str(ROOT / "csrc/cuda" / name), "-o", str(objects / f"{name}.o")],
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


def test_they_link_into_a_module_that_imports_without_a_gpu(cuda_toolkit, objects, tmp_path):
    """All of them, the CPU's objects of this build and the bindings: no symbol is missing, no library of CUDA is needed."""
    pybind11 = pytest.importorskip("pybind11")
    compiled = [objects / f"{name}.o" for name in KERNELS]
    if not all(path.exists() for path in compiled):
        pytest.skip("needs the objects of all the tests above (slow ones included)")
    folder = next(iter(sorted(ROOT.glob("build/cmake-*/CMakeFiles/_C.dir/csrc/cpu"))), None)
    if folder is None:
        pytest.skip("needs the build folder of an editable installation")
    library = next(cuda_toolkit.rglob("libcudart_static.a"))
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), pybind11.get_include(), cuda_toolkit / "include")]
    commands = [
        ["g++", "-std=gnu++17", "-O0", "-fPIC", "-fvisibility=hidden", "-DEBM_FAST_WITH_CUDA", '-DEBM_FAST_CUDA_ARCHS="80,90"',
         *include, "-c", str(ROOT / "csrc/bindings.cpp"), "-o", str(tmp_path / "bindings.o")],
        ["g++", "-shared", "-o", str(tmp_path / "_C.so"), str(tmp_path / "bindings.o"), *map(str, compiled),
         *map(str, sorted(folder.glob("*.o"))), str(library), "-ldl", "-lrt", "-lpthread"],
    ]  # fmt: skip
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr[-2000:]
    needed = subprocess.run(["readelf", "-d", str(tmp_path / "_C.so")], capture_output=True, text=True).stdout
    assert "libcuda" not in needed
    run = subprocess.run(
        [sys.executable, "-c", "import importlib.machinery as m, importlib.util as u\n"
         f"loader = m.ExtensionFileLoader('_C', {str(tmp_path / '_C.so')!r})\n"
         "module = u.module_from_spec(u.spec_from_loader('_C', loader))\nloader.exec_module(module)\n"
         "print(module.cuda_architectures, callable(module.langevin_cuda), callable(module.chain_cuda))"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout.split() == ["80,90", "True", "True"], run.stderr
