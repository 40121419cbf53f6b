"""Every way to run a kernel's source: Triton (on a GPU, or its interpreter), CUDA (on a GPU, or on the CPU thread by thread)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda_emulation import CudaOnCpu

from ebm_fast.ops.backend import implementation, why_not


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


@pytest.fixture(scope="session")
def cuda_on_cpu(cuda_toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> CudaOnCpu:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    return CudaOnCpu(tmp_path_factory.mktemp("cuda_on_cpu"), cuda_toolkit / "include")


@pytest.fixture(params=["triton", "cuda", "cuda_on_cpu"])
def op(request: pytest.FixtureRequest, device: str) -> Callable[[str], Callable[..., Any]]:
    """Name of an op -> the function that runs its kernel on tensors of `device`."""
    if request.param == "cuda_on_cpu":
        if device != "cpu":
            pytest.skip("runs on the CPU's memory")
        return request.getfixturevalue("cuda_on_cpu").op
    if why_not(request.param):
        pytest.skip(why_not(request.param))
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the interpreter, see test_interpreted.py")
    return lambda name: implementation(name, request.param)
