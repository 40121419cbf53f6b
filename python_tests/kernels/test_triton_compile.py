"""Every Triton kernel compiled ahead of time for three GPU generations, without a GPU: registers, spills, width of accesses."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton", minversion="3.3")  # ASTSource took other arguments before
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import torch  # noqa: E402
from flat import Arguments  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ebm_fast.ops.backend import implementation  # noqa: E402

ARCHITECTURES = (80, 90, 100)
F32, F64, BF16, F16, I32 = torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32
TYPES = {F32: "fp32", F64: "fp64", BF16: "bf16", F16: "fp16", I32: "i32", torch.int64: "i64", torch.uint8: "u8"}


class Case(NamedTuple):
    """A call of an op and the bits of its accesses to memory; `mixed`: of its widest store, as it touches chains' numbers too."""

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    form: dict[str, Any]
    bits: int
    mixed: bool = False


WHOLE, ODD, LONG, HUGE, HUGE_ODD = (64, 64), (64, 63), (3, 40000), (2**22, 1024), (2**22, 1023)
LANGEVIN = dict.fromkeys(("velocity", "scale"), True) | dict.fromkeys(("step_size_at", "noise_std_at", "grad_scale"), "n")
LANGEVIN |= {"grad": True, "active": torch.uint8, "rng": True, "prior_precision": 0.1, "grad_clip": 1.0}
LANGEVIN |= dict.fromkeys(("step_lo", "noise_lo"), -1.0)
LEAPFROG = {"scale": True, "kick_at": "n", "drift_at": "n"}
BAOAB = LEAPFROG | {"persistence_at": "n", "noise_std_at": "n", "active": torch.uint8, "rng": True, "kicks": 2}
TRAJECTORY = LEAPFROG | {"proposal": True, "momentum": True, "grad": True, "kinetic": True, "persistence": 0.5, "rng": True}
TRAJECTORY |= {"persistence_at": "n", "fresh_at": "n"}
METROPOLIS = dict.fromkeys(("grad", "proposal_grad", "momentum", "momentum_before", "kinetic", "scale", "log_ratio"), True)
METROPOLIS |= {"counters": True, "kick_at": "n", "beta_at": "n", "rng": True}
SWAP = dict.fromkeys(("grad", "labels", "counters", "rng"), True)
CASES = {
    "langevin float32": Case("langevin_step_", WHOLE, F32, {"grad": True}, 128),
    "langevin bfloat16": Case("langevin_step_", WHOLE, BF16, {"grad": True}, 64),
    "langevin float64": Case("langevin_step_", WHOLE, F64, {"grad": True}, 128),
    "langevin float32, all options": Case("langevin_step_", HUGE, F32, LANGEVIN, 128, True),
    "langevin float32, all options, odd events": Case("langevin_step_", HUGE_ODD, F32, LANGEVIN, 32, True),
    "langevin float64, all options, odd events": Case("langevin_step_", HUGE_ODD, F64, LANGEVIN, 64, True),
    "langevin float16, all options, odd events": Case("langevin_step_", HUGE_ODD, F16, LANGEVIN, 16, True),
    "bits": Case("noise_", WHOLE, I32, {"kind": 0}, 128),
    "uniform float32": Case("noise_", WHOLE, F32, {"kind": 1}, 128),
    "normal float32": Case("noise_", WHOLE, F32, {"kind": 2}, 128),
    "normal float64, odd events": Case("noise_", ODD, F64, {"kind": 2}, 64),
    "signs bfloat16": Case("noise_", WHOLE, BF16, {"kind": 3}, 64),
    "norm float32, long events": Case("event_norm", (8, 4096), F32, {}, 128, True),
    "norm bfloat16, short events": Case("event_norm", WHOLE, BF16, {}, 128, True),
    "leapfrog float32": Case("leapfrog_", WHOLE, F32, {}, 128),
    "leapfrog float64, options": Case("leapfrog_", WHOLE, F64, LEAPFROG, 128, True),
    "leapfrog float32, options, odd events": Case("leapfrog_", HUGE_ODD, F32, LEAPFROG, 32, True),
    "baoab float32": Case("baoab_", WHOLE, F32, {}, 128),
    "baoab float32, options": Case("baoab_", HUGE, F32, BAOAB, 128, True),
    "baoab float64, options, odd events": Case("baoab_", HUGE_ODD, F64, BAOAB, 64, True),
    "moments float32": Case("moments_", (7, 12), F32, {}, 128),
    "moments float64, counted on the device": Case("moments_", WHOLE, F64, {"count_at": True}, 128, True),
    "random walk float32": Case("propose_", WHOLE, F32, {"proposal": True}, 128),
    "random walk float64, odd events": Case("propose_", ODD, F64, {"proposal": True, "scale": True, "drift_at": "n"}, 64),
    "trajectory float32, options": Case("propose_", WHOLE, F32, TRAJECTORY, 128, True),
    "trajectory float64, options, odd events": Case("propose_", (64, 9), F64, TRAJECTORY, 64, True),
    "trajectory float64, options, long events": Case("propose_", LONG, F64, TRAJECTORY, 128, True),
    "trajectory float64, options, long odd events": Case("propose_", (2**17, 40001), F64, TRAJECTORY, 64, True),
    "metropolis float32, random walk": Case("metropolis_", (64, 10), F32, {"kick": 0.0}, 32),
    "metropolis float32, options": Case("metropolis_", WHOLE, F32, METROPOLIS, 128, True),
    "metropolis float64, options, one element": Case("metropolis_", (64,), F64, METROPOLIS, 64, True),
    "metropolis float64, options, long events": Case("metropolis_", (2**17, 40000), F64, METROPOLIS, 128, True),
    "swap float32": Case("swap_", (64, 4, 10), F32, {}, 32, True),
    "swap float64, options, long events": Case("swap_", (2**16, 4, 40000), F64, SWAP, 128, True),
}  # fmt: skip


class Launch(NamedTuple):
    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


def launch_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """What the op would launch for tensors of these shapes, of which there is no memory."""
    launches: list[Launch] = []
    with monkeypatch.context() as patch:
        patch.setattr(triton.JITFunction, "run", lambda self, *args, grid, warmup, **options: launches.append(
            Launch(self, args, options)))  # fmt: skip
        implementation(case.op, "triton")(*Arguments(case.op, case.shape, case.dtype, "meta", case.form).values.values())
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


def accesses_of(ptx: str) -> list[tuple[str, int]]:
    """("ld" or "st", bits) of each access to global memory and ("bar", 0) of each barrier, in the program's order."""
    found = re.findall(r"\b(?:(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.b(\d+)|(bar)\.sync)\b", ptx)
    return [(what or bar, int(count or 1) * int(bits or 0)) for what, count, bits, bar in found]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spills(architecture, tmp_path, capsys, monkeypatch):
    for name, case in CASES.items():
        code = compiled(launch_of(case, monkeypatch), architecture)
        resources, accesses = resources_of(code.asm["cubin"], tmp_path), accesses_of(code.asm["ptx"])
        with capsys.disabled():
            print(f"\nsm_{architecture} {name}: {resources['REG']} registers, {resources['SHARED']} B shared, "
                  f"{resources['LOCAL'] + resources['STACK']} B spilled", end="")  # fmt: skip
        assert resources["REG"] > 0
        assert resources["LOCAL"] == resources["STACK"] == 0, name
        widths = {what: {width for kind, width in accesses if kind == what} for what in ("ld", "st")}
        if case.mixed:
            assert max(widths["ld" if case.op == "event_norm" else "st"]) == case.bits, name
        else:
            assert widths["ld"] | widths["st"] == {case.bits}, name
        if case.op in ("metropolis_", "swap_"):  # all threads have read a row's numbers before one overwrites them
            order = [what for what, _ in accesses]
            last = max(i for i in range(order.index("st")) if order[i] == "ld")
            assert "bar" in order[last : order.index("st")], name
