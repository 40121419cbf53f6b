"""Every way to run a kernel's source: Triton (on a GPU, or its interpreter), CUDA (on a GPU, or on the CPU thread by thread)."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ebm_fast.ops.native as native
from ebm_fast.ops.backend import implementation, why_not

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cuda_toolkit() -> Path:
    """The toolkit's folder, as told by the nvcc on PATH or of CUDA_HOME (which may be a script elsewhere)."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")
    if nvcc is None:
        pytest.skip("needs nvcc on PATH or in CUDA_HOME")
    told = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
    bin_folder = re.search(r"_HERE_=(.*)", told)
    assert bin_folder, told
    return Path(bin_folder[1]).parent


class Stream(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64), ("step", ctypes.c_uint64), ("purpose", ctypes.c_uint32), ("chain_offset", ctypes.c_uint32),
        ("rng", ctypes.c_void_p),
    )  # fmt: skip


class NoiseParams(ctypes.Structure):
    _fields_ = (
        ("stream", Stream), ("chains", ctypes.c_int64), ("dim", ctypes.c_int64), ("dtype", ctypes.c_int), ("kind", ctypes.c_int),
        ("out", ctypes.c_void_p),
    )  # fmt: skip


class LangevinParams(ctypes.Structure):
    _fields_ = (
        ("stream", Stream), ("chains", ctypes.c_int64), ("dim", ctypes.c_int64), ("dtype", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("x", "grad", "velocity")),
        *((name, ctypes.c_double) for name in ("step_size", "noise_std")),
        *((name, ctypes.c_void_p) for name in ("step_size_at", "noise_std_at", "grad_scale", "active", "scale")),
        *((name, ctypes.c_int64) for name in ("step_size_stride", "noise_std_stride")),
        *((name, ctypes.c_double) for name in ("momentum", "prior_precision", "grad_clip")),
        *((name, ctypes.c_double) for name in ("step_lo", "step_hi", "noise_lo", "noise_hi")),
    )  # fmt: skip


class CudaOnCpu:
    """The ops of csrc/cuda/noise.cu and langevin.cu, compiled for the CPU; called like the reference."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def noise_(self, out: torch.Tensor, *args: Any) -> None:
        at, chains, dim, dtype, kind, seed, step, purpose, offset, rng = native._noise_args(out, *args)
        self.library.noise(ctypes.byref(NoiseParams(Stream(seed, step, purpose, offset, rng), chains, dim, dtype, kind, at)))

    def langevin_step_(self, x: torch.Tensor, *args: Any) -> None:
        (
            at, grad, velocity, chains, dim, dtype, step_size, noise_std, step_size_at, step_size_stride, noise_std_at,
            noise_std_stride, grad_scale, active, scale, momentum, prior, clip, *bounds, seed, step, purpose, offset, rng,
        ) = native._langevin_args(x, *args)  # fmt: skip
        self.library.langevin(ctypes.byref(LangevinParams(
            Stream(seed, step, purpose, offset, rng), chains, dim, dtype, at, grad, velocity, step_size, noise_std, step_size_at,
            noise_std_at, grad_scale, active, scale, step_size_stride, noise_std_stride, momentum, prior, clip, *bounds,
        )))  # fmt: skip


@pytest.fixture(scope="session")
def cuda_on_cpu(cuda_toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> CudaOnCpu:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    for name in ("noise.cu", "langevin.cu"):
        source = (ROOT / "csrc/cuda" / name).read_text()
        source, launches = re.subn(r"kernel<<<(.*), THREADS, 0, stream>>>\(", r"run_threads(\1, THREADS, kernel, ", source)
        assert launches == 1
        (folder / name).write_text(source)
    library = folder / "cuda_on_cpu.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-w", "-shared", "-fPIC", f"-I{folder}",
         f"-I{cuda_toolkit / 'include'}", f"-I{ROOT / 'csrc/cuda'}", str(Path(__file__).with_name("cuda_on_cpu.cpp")),
         "-o", str(library)],
        check=True,
    )  # fmt: skip
    return CudaOnCpu(ctypes.CDLL(str(library)))


@pytest.fixture(params=["triton", "cuda", "cuda_on_cpu"])
def op(request: pytest.FixtureRequest, device: str) -> Callable[[str], Callable[..., Any]]:
    """Name of an op -> the function that runs its kernel on tensors of `device`."""
    if request.param == "cuda_on_cpu":
        if device != "cpu":
            pytest.skip("runs on the CPU's memory")
        kernels = request.getfixturevalue("cuda_on_cpu")
        return lambda name: getattr(kernels, name, None) or pytest.skip(f"{name} needs threads that run together")
    if why_not(request.param):
        pytest.skip(why_not(request.param))
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the interpreter, see test_interpreted.py")
    return lambda name: implementation(name, request.param)
