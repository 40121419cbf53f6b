"""Triton kernels compiled ahead of time, without a GPU: what a launch would compile, and what it takes of the hardware."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 90, 100)
TYPES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32",
    torch.int64: "i64", torch.uint8: "u8",
}  # fmt: skip


class Launch(NamedTuple):
    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


def launched(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Launch:
    """The one kernel that a call would launch."""
    launches: list[Launch] = []
    with monkeypatch.context() as patch:
        patch.setattr(triton.JITFunction, "run", lambda self, *args, grid, warmup, **options: launches.append(
            Launch(self, args, options)))  # fmt: skip
        call()
    (launch,) = launches
    return launch


def compiled(launch: Launch, architecture: int) -> Any:
    """Types, constants and divisibility as Triton derives them from the arguments of a launch; torch's memory is aligned."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible = {}
    assert len(launch.args) == len(launch.kernel.params)
    for i, (parameter, value) in enumerate(zip(launch.kernel.params, launch.args)):
        special = not parameter.do_not_specialize
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
        elif value is None or parameter.is_constexpr or (value == 1 and special):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
            continue
        else:
            signature[parameter.name] = parameter.annotation_type or ("i32" if -(2**31) <= value < 2**31 else "i64")
            special = special and value % 16 == 0
        if special:
            divisible[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, divisible)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)


def resources_of(cubin: bytes, folder: Path) -> dict[str, int]:
    """REG, STACK, LOCAL, ... by the cuobjdump that Triton brings along."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True, timeout=120).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
