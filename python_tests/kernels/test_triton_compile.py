"""Every Triton kernel compiled ahead of time for three GPU generations, without a GPU: registers, spills, width of accesses."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton", minversion="3.3")  # ASTSource took other arguments before
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import torch  # noqa: E402
from aot import ARCHITECTURES, Launch, compiled, launched, resources_of  # noqa: E402
from flat import Arguments  # noqa: E402

from ebm_fast.ops.backend import implementation  # noqa: E402

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
I32, I64 = torch.int32, torch.int64


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
FACTOR = dict.fromkeys(("proposal", "momentum", "grad", "kinetic", "factor", "rng"), True) | {"kick_at": "n", "drift_at": "n"}
METROPOLIS = dict.fromkeys(("grad", "proposal_grad", "momentum", "momentum_before", "kinetic", "scale", "log_ratio"), True)
METROPOLIS |= {"counters": True, "kick_at": "n", "beta_at": "n", "rng": True}
GUARD = dict.fromkeys(("momentum", "energy", "divergence_step", "norm_sum", "rng"), True)
GUARD |= {"active": torch.uint8, "step_size_at": "n", "noise_std_at": "n", "stretch_at": "0", "kinetic": True}
SWAP = dict.fromkeys(("grad", "labels", "counters", "rng"), True)
PERTURB = {"noise": True, "x": 4, "scale": True, "sigma_at": "n", "rng": True}
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
    "guard float32, norms": Case("guard_", WHOLE, F32, {"norm_sum": True}, 128, True),
    "guard float32, options, long events": Case("guard_", HUGE, F32, GUARD, 128, True),
    "guard float64, options, odd events": Case("guard_", HUGE_ODD, F64, GUARD, 64, True),
    "guard float16, options": Case("guard_", WHOLE, F16, GUARD, 128, True),
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
    "factor float32": Case("propose_", WHOLE, F32, {"momentum": True, "factor": True}, 32, True),
    "factor float32, options, odd events": Case("propose_", (2**22, 127), F32, FACTOR, 64, True),
    "metropolis float32, random walk": Case("metropolis_", (64, 10), F32, {"kick": 0.0}, 32),
    "metropolis float32, options": Case("metropolis_", WHOLE, F32, METROPOLIS, 128, True),
    "metropolis float64, options, one element": Case("metropolis_", (64,), F64, METROPOLIS, 64, True),
    "metropolis float64, options, long events": Case("metropolis_", (2**17, 40000), F64, METROPOLIS, 128, True),
    "swap float32": Case("swap_", (64, 4, 10), F32, {}, 32, True),
    "swap float64, options, long events": Case("swap_", (2**16, 4, 40000), F64, SWAP, 128, True),
    "perturb float32": Case("perturb_", WHOLE, F32, {"noise": True}, 128),
    "perturb bfloat16, copies": Case("perturb_", WHOLE, BF16, {"noise": True, "x": 4}, 64),
    "perturb float32, options": Case("perturb_", HUGE, F32, PERTURB, 128, True),
    "perturb float64, options, odd events": Case("perturb_", HUGE_ODD, F64, PERTURB, 64, True),
    "randperm": Case("randperm_", (128,), I64, {"index": True, "group": True, "rng": True}, 64, True),
    "gather float32": Case("gather_", WHOLE, F32, {"fresh": True}, 128, True),
    "gather bfloat16, rows": Case("gather_", WHOLE, BF16, {"rows": True, "kind": 0}, 64, True),
    "gather float64, uniform, odd events": Case("gather_", HUGE_ODD, F64, {"kind": 1, "fresh": True, "rng": True}, 64, True),
    "scatter float32": Case("scatter_", WHOLE, F32, {}, 128, True),
    "scatter float16, long odd events": Case("scatter_", (3, 40001), F16, {}, 16, True),
}  # fmt: skip


def launch_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """What the op would launch for tensors of these shapes, of which there is no memory."""
    arguments = Arguments(case.op, case.shape, case.dtype, "meta", case.form).values
    return launched(lambda: implementation(case.op, "triton")(*arguments.values()), monkeypatch)


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
            assert max(widths["ld" if case.op in ("event_norm", "guard_") else "st"]) == case.bits, name
        else:
            assert widths["ld"] | widths["st"] == {case.bits}, name
        if case.op in ("metropolis_", "swap_", "guard_"):  # all threads have read a row's numbers before one overwrites them
            order = [what for what, _ in accesses]
            last = max(i for i in range(order.index("st")) if order[i] == "ld")
            assert "bar" in order[last : order.index("st")], name
