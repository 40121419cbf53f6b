"""CUDA kernels' own source on the CPU: compiled by g++, see kernels/cuda_on_cpu.cpp, and called like the reference."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ebm_fast.ops.native as native

ROOT = Path(__file__).resolve().parents[1]
# Its own symbols first: a torch made for CUDA has brought the real cudaGetDevice into the process.
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-w", "-fPIC", "-Wl,-Bsymbolic")
FLAGS += tuple(os.environ.get("EBM_FAST_EMULATION_FLAGS", "").split())
# op: (source and struct of its parameters, the function that flattens its arguments)
OPS = {
    "noise_": ("noise", native._noise_args), "langevin_step_": ("langevin", native._langevin_args),
    "event_norm": ("norm", native._norm_args), "propose_": ("proposal", native._propose_args),
    "leapfrog_": ("leapfrog", native._leapfrog_args), "metropolis_": ("metropolis", native._metropolis_args),
    "baoab_": ("baoab", native._baoab_args), "swap_": ("swap", native._swap_args), "moments_": ("moments", native._moments_args),
    "guard_": ("guard", native._guard_args),
    "perturb_": ("perturb", native._perturb_args), "randperm_": ("randperm", native._randperm_args),
    "gather_": ("gather", native._gather_args), "scatter_": ("scatter", native._scatter_args),
    "adapt_": ("adapt", native._adapt_args),
}  # fmt: skip
NUMBERS = {
    "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "uint32_t": ctypes.c_uint32, "double": ctypes.c_double,
    "int": ctypes.c_int, "DType": ctypes.c_int, "NoiseKind": ctypes.c_int, "EnergyKind": ctypes.c_int,
    "TransitionKind": ctypes.c_int, "bool": ctypes.c_bool,
}  # fmt: skip


def structures() -> dict[str, type[ctypes.Structure]]:
    """The structs of csrc/core/params.h and chain.h."""
    found: dict[str, type[ctypes.Structure]] = {}
    text = re.sub(r"//.*", "", "".join((ROOT / "csrc/core" / name).read_text() for name in ("params.h", "chain.h")))
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, re.S):
        fields: list[tuple[str, Any]] = []
        for type_, names, length in re.findall(r"(?:const )?(\w+\s*\*?)\s*([\w\s,]+)(?:\[(\d+)\])?;", body):
            kind = ctypes.c_void_p if type_.endswith("*") else NUMBERS.get(type_.strip()) or found[type_.strip()]
            fields += [(field.strip(), kind * int(length) if length else kind) for field in names.split(",")]
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def argument_names() -> dict[str, list[str]]:
    """Names of what each function of csrc/bindings.cpp that fills a struct takes."""
    text = (ROOT / "csrc/bindings.cpp").read_text()
    return {
        struct: re.findall(r"(\w+)(?:,|$)", names.replace("\n", " "))
        for struct, names in re.findall(r"^(\w+Params) \w+_params\(([^)]*)\)", text, re.M)
    }


def filled(struct: type[ctypes.Structure], values: dict[str, Any], found: dict[str, type[ctypes.Structure]]) -> Any:
    fields = {}
    for name, kind, *_ in struct._fields_:
        if kind is found["Coefficient"]:
            fields[name] = kind(values.pop(name), values.pop(f"{name}_at"), values.pop(f"{name}_stride"))
        elif kind is found["Stream"]:
            fields[name] = kind(*(values.pop(part) for part, *_ in kind._fields_))
        else:
            fields[name] = values.pop(name)
    assert not values, values
    return struct(**fields)


class CudaOnCpu:
    """The ops of csrc/cuda, compiled for the CPU when they are first asked for."""

    def __init__(self, folder: Path, include: Path) -> None:
        self.folder, self.include = folder, include
        self.structures, self.names = structures(), argument_names()
        self.built: dict[str, Callable[..., Any]] = {}

    def op(self, name: str) -> Callable[..., Any]:
        if name not in self.built:
            self.built[name] = self.build(name)
        return self.built[name]

    def build(self, name: str) -> Callable[..., Any]:
        module, flatten = OPS[name]
        struct = f"{module.capitalize()}Params"
        source = (ROOT / "csrc/cuda" / f"{module}.cu").read_text()
        run = "run_together" if "groups.cuh" in source and "Group<" in source else "run_threads"
        source, launches = re.subn(r"kernel<<<(.*), THREADS, 0, stream>>>\(", rf"{run}(\1, THREADS, kernel, ", source)
        assert launches == 1
        (self.folder / f"{module}.cu").write_text(source)
        library = self.folder / f"{module}.so"
        subprocess.run(
            [str(shutil.which("g++")), *FLAGS, "-shared", f"-I{self.folder}",
             f"-I{self.include}", f"-I{ROOT / 'csrc/cuda'}", f'-DSOURCE="{module}.cu"', f"-DPARAMS={struct}",
             f"-DLAUNCH={module}_cuda", str(ROOT / "python_tests/kernels/cuda_on_cpu.cpp"), "-o", str(library)],
            check=True,
        )  # fmt: skip
        launch = ctypes.CDLL(str(library)).run

        def call(x: torch.Tensor, *args: Any) -> torch.Tensor | None:
            out, values = flatten(x, *args) if name == "event_norm" else (None, flatten(x, *args))
            names = self.names[struct]
            assert len(names) == len(values)
            assert launch(ctypes.byref(filled(self.structures[struct], dict(zip(names, values)), self.structures))) == 0
            return out

        return call
