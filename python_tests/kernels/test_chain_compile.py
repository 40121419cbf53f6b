"""The kernel of whole chains compiled ahead of time for three GPU generations: state in registers, no spills."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import pytest

triton = pytest.importorskip("triton", minversion="3.3")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import torch  # noqa: E402
from aot import ARCHITECTURES, Launch, compiled, launched, resources_of  # noqa: E402
from user_energies import banana, gaussian, mixture  # noqa: E402

from ebm_fast.ops import chain_  # noqa: E402
from ebm_fast.ops.backend import implementation  # noqa: E402
from ebm_fast.ops.user_energy import registered  # noqa: E402

N, K = 1000, 100
F32, F64, I64 = torch.float32, torch.float64, torch.int64


def everything(transition: str, dim: int) -> dict[str, Any]:
    """Every option that a transition has, coefficients as schedules, all records."""

    def of(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)

    options: dict[str, Any] = {
        "step_size": of(K, N), "beta": of(K, 1), "scale": of(dim), "energy": of(N), "grad": of(N, dim), "carried": True,
        "samples": of(10, N, dim), "energies": of(10, N), "hamiltonians": of(10, N, dtype=F64), "mean": of(N, dim),
        "squares": of(N, dim), "thin": 10, "rng": of(2, dtype=I64),
    }  # fmt: skip
    guarded = {"norm_sum": of(N, dtype=F64), "divergence_step": of(N, dtype=I64), "noise_std": of(N), "momentum": of(N, dim)}
    return options | {
        "langevin": {**guarded, "heavy_ball": 0.9, "prior_precision": 0.1, "grad_clip": 1.0, "step_bounds": (-1.0, 1.0),
                     "noise_bounds": (-1.0, 1.0)},
        "random_walk": {"counters": of(N, 5, dtype=F64)},
        "hmc": {"counters": of(N, 5, dtype=F64), "momentum": of(N, dim), "flip": True, "persistence": of(N),
                "leapfrogs": [1 + k % 3 for k in range(K)]},
        "baoab": {**guarded, "persistence": of(N)},
    }[transition]  # fmt: skip


def launch_of(energy: Any, transition: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Launch:
    """What `chain_` would launch on a GPU: it is given the arguments here, and asked for the Triton kernel."""

    def call() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("ebm_fast.ops.chain._runner", lambda *args: implementation("chain_", "triton"))
            chain_(torch.ones(N, energy.dim), energy.descriptor(), transition, steps=K, seed=1, **options)

    return launched(call, monkeypatch)


def value_launch(energy: Any, monkeypatch: pytest.MonkeyPatch) -> Launch:
    from ebm_fast.kernels.user_energy import user_energy

    descriptor = energy.descriptor()
    x, user = torch.ones(N, energy.dim), registered(descriptor.kind)
    return launched(lambda: user_energy(x, descriptor.parameters, user), monkeypatch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chains_stay_in_registers(architecture, tmp_path, capsys, monkeypatch):
    """All options in two dimensions, the plain forms in more; shared memory would mean that lanes wait for each other."""
    wide = gaussian(8)
    cases = {f"banana {name}, all options": launch_of(banana, name, everything(name, 2), monkeypatch)
             for name in ("langevin", "random_walk", "hmc", "baoab")}  # fmt: skip
    cases["banana langevin_"] = launch_of(banana, "langevin", {"step_size": 0.1, "noise_std": 0.1}, monkeypatch)
    cases["mixture hmc"] = launch_of(mixture, "hmc", {"step_size": 0.1, "leapfrogs": 5}, monkeypatch)
    cases["gaussian of 8 langevin_"] = launch_of(wide, "langevin", {"step_size": 0.1, "noise_std": 0.1}, monkeypatch)
    cases["mixture, value and gradient"] = value_launch(mixture, monkeypatch)
    for name, launch in cases.items():
        code = compiled(launch, architecture)
        resources = resources_of(code.asm["cubin"], tmp_path)
        with capsys.disabled():
            print(f"\nsm_{architecture} {name}: {resources['REG']} registers, {resources['SHARED']} B shared, "
                  f"{resources['LOCAL'] + resources['STACK']} B spilled", end="")  # fmt: skip
        assert resources["REG"] > 0
        assert resources["LOCAL"] == resources["STACK"] == resources["SHARED"] == 0, name
        if "langevin_" in name:  # float64 is for sums and decisions, which these have not
            assert not re.search(r"\.f64", code.asm["ptx"]), name


def test_parameters_and_numbers_do_not_recompile(monkeypatch):
    """Steps, seeds, coefficients and parameters are arguments of one compiled kernel."""
    options = {"step_size": 0.1, "noise_std": 0.1}
    a = launch_of(banana, "langevin", options, monkeypatch)
    b = launch_of(banana, "langevin", {"step_size": 0.25, "noise_std": 16.0, "step": 16}, monkeypatch)
    constant = [i for i, parameter in enumerate(a.kernel.params) if parameter.is_constexpr]
    assert [a.args[i] for i in constant] == [b.args[i] for i in constant]
    special = [p.name for p in a.kernel.params if not p.is_constexpr and not p.do_not_specialize]
    assert not [name for name in special if not isinstance(a.args[[p.name for p in a.kernel.params].index(name)],
                                                           (torch.Tensor, type(None)))]  # fmt: skip
    assert math.isclose(b.args[[p.name for p in b.kernel.params].index("noise_std")], 16.0)
