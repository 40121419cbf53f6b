"""Every Triton kernel compiled ahead of time for three GPU generations, without a GPU: registers, spills, width of accesses."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", minversion="3.3")  # ASTSource took other arguments before
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import triton.language as tl  # noqa: E402
from ebm_fast.kernels.langevin import langevin_kernel  # noqa: E402
from ebm_fast.kernels.noise import noise_kernel  # noqa: E402
from ebm_fast.kernels.norm import norm_kernel  # noqa: E402
from ebm_fast.kernels.philox import TILE  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

ARCHITECTURES = (80, 90, 100)
NUMBERS = ("step_size", "noise_std", "momentum", "prior_precision", "grad_clip", "step_lo", "step_hi", "noise_lo", "noise_hi")
COUNTER = {"purpose": "i32", "seed": "i64", "step": "i64", "chain_offset": "i64"}
SIZES = {"blocks": "i32", "dim": "i32", "per_chain": "i32"}


def noise_of(dtype: str, kind: int, *, whole: bool) -> tuple[Any, dict[str, str], dict[str, Any]]:
    shape = {"INDEX": tl.int32, "WHOLE": whole, "TILE": TILE if whole else TILE // 2}
    return noise_kernel, {"out": f"*{dtype}"} | COUNTER | SIZES, shape | {"KIND": kind}


def langevin_of(dtype: str, *, whole: bool, everything: bool) -> tuple[Any, dict[str, str], dict[str, Any]]:
    number, arithmetic = ("i64", "fp64") if dtype == "fp64" else ("fp32", "fp32")
    types = {"x": f"*{dtype}", "grad": f"*{dtype}"} | dict.fromkeys(NUMBERS, number) | COUNTER | SIZES
    if everything:
        types |= {"velocity": f"*{dtype}", "active": "*u8", "rng": "*i64"}
        types |= dict.fromkeys(("step_size_at", "noise_std_at", "grad_scale"), f"*{arithmetic}")
        types |= {"blocks": "i64"}
    flags = dict.fromkeys(("PRIOR", "CLIP", "STEP_CLAMP", "NOISE_CLAMP"), everything)
    constants = {"INDEX": tl.int64 if everything else tl.int32, "NOISE": True}
    constants |= {"WHOLE": whole, "TILE": TILE if whole else TILE // 2}
    return langevin_kernel, types, constants | flags | {"STEP_STRIDE": int(everything), "NOISE_STRIDE": int(everything)}


def norm_of(dtype: str, rows: int, columns: int) -> tuple[Any, dict[str, str], dict[str, Any]]:
    types = {"x": f"*{dtype}", "out": "*fp64" if dtype == "fp64" else "*fp32", "chains": "i32", "dim": "i32"}
    return norm_kernel, types, {"INDEX": tl.int32, "ROWS": rows, "COLUMNS": columns}


CASES = {
    "langevin float32": (langevin_of("fp32", whole=True, everything=False), 128),
    "langevin bfloat16": (langevin_of("bf16", whole=True, everything=False), 64),
    "langevin float64": (langevin_of("fp64", whole=True, everything=False), 128),
    "langevin float32, all options": (langevin_of("fp32", whole=True, everything=True), 128),
    "langevin float32, all options, odd events": (langevin_of("fp32", whole=False, everything=True), 32),
    "langevin float64, all options, odd events": (langevin_of("fp64", whole=False, everything=True), 64),
    "langevin float16, all options, odd events": (langevin_of("fp16", whole=False, everything=True), 16),
    "bits": (noise_of("i32", 0, whole=True), 128),
    "uniform float32": (noise_of("fp32", 1, whole=True), 128),
    "normal float32": (noise_of("fp32", 2, whole=True), 128),
    "normal float64, odd events": (noise_of("fp64", 2, whole=False), 64),
    "signs bfloat16": (noise_of("bf16", 3, whole=True), 64),
    "norm float32, long events": (norm_of("fp32", 1, 1024), 128),
    "norm bfloat16, short events": (norm_of("bf16", 16, 64), 128),
}  # fmt: skip


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], architecture: int) -> Any:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    # what Triton finds out at a launch: torch's memory is aligned, and norms see dims divisible by 16
    aligned = {name for name, type_ in types.items() if type_[0] == "*"} | ({"dim"} if kernel is norm_kernel else set())
    hints = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in aligned}
    source = ASTSource(kernel, signature, {name: constants.get(name) for name in kernel.arg_names if name not in types}, hints)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def machine_code(cubin: bytes, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Resources (REG, STACK, LOCAL, ...) and the names of the instructions, by the cuobjdump that Triton brings along."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    usage, code = (
        subprocess.run([tools / "cuobjdump", flag, path], capture_output=True, text=True, check=True, timeout=120,
                       env=os.environ | {"PATH": f"{tools}:{os.environ.get('PATH', '')}"}).stdout
        for flag in ("-res-usage", "-sass")
    )  # fmt: skip
    resources = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return resources, re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code)


def width(instruction: str) -> int:
    sizes = {"U8": 8, "U16": 16, "64": 64, "128": 128}
    return max((sizes[part] for part in instruction.split(".") if part in sizes), default=32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spills(architecture, tmp_path, capsys):
    for name, ((kernel, types, constants), bits) in CASES.items():
        resources, instructions = machine_code(compiled(kernel, types, constants, architecture).asm["cubin"], tmp_path)
        with capsys.disabled():
            print(f"\nsm_{architecture} {name}: {resources['REG']} registers, {resources['SHARED']} B shared, "
                  f"{resources['LOCAL'] + resources['STACK']} B spilled, {len(instructions)} instructions", end="")  # fmt: skip
        assert resources["REG"] > 0
        assert resources["LOCAL"] == resources["STACK"] == 0, name
        assert not any(i.startswith(("LDL", "STL")) for i in instructions), name
        accesses = ("STG",) if "options" in name else ("LDG",) if kernel is norm_kernel else ("LDG", "STG")
        assert {width(i) for i in instructions if i.startswith(accesses)} == {bits}, name
