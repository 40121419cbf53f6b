"""The whole chain's CUDA sources on the CPU: compiled one by one by g++, linked, and called like the reference."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from cuda_emulation import FLAGS, ROOT, argument_names, structures

import ebm_fast.ops.native as native

PARTS = ("chain", "chain_simple", "chain_shapes", "chain_mixture", "chain_matrix", "chain_mlp", "chain_tensor")
NUMBERS = (
    "max_error", "heavy_ball", "prior_precision", "grad_clip", "grad_clip_norm", "step_lo", "step_hi", "noise_lo", "noise_hi",
    "offset",
)  # fmt: skip
SHARED_BYTES = 100 * 1024


class ChainOnCpu:
    """`chain_` by csrc/cuda/chain*.cu. most_steps: the longest launch; shared_bytes, processors: what the device claims to have;
    bare_launches: how many were of the loop without options; near_threads: threads of blocks with parameters in shared memory."""

    def __init__(self, folder: Path, include: Path) -> None:
        self.folder, self.include = folder, include
        self.structures, self.names = structures(), argument_names()["ChainParams"]
        self.most_steps, self.shared_bytes = 0, SHARED_BYTES
        self.spaces: list[int] = []  # of the calls
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(self.compile, PARTS))
        library = folder / "chain.so"
        subprocess.run([str(shutil.which("g++")), *FLAGS, "-shared", *objects, "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.chain_space.restype = ctypes.c_int64
        self.bare_launches = ctypes.c_int.in_dll(self.library, "bare_launches")
        self.near_threads = ctypes.c_int.in_dll(self.library, "near_threads")
        self.processors = ctypes.c_int.in_dll(self.library, "processors")

    def compile(self, part: str) -> str:
        source = (ROOT / "csrc/cuda" / f"{part}.cu").read_text()
        launcher = (ROOT / "csrc/cuda/chain.cuh").read_text()
        launched = launcher.replace("kernel<<<grid, threads, bytes, stream>>>(", "run_with_memory(grid, threads, bytes, kernel, ")
        counted = launched.replace("return start(bare_langevin<", "return ++bare_launches, start(bare_langevin<")
        counted = counted.replace("return start(chain_in_teams<E, true>", "return ++bare_launches, start(chain_in_teams<E, true>")
        counted = counted.replace("Energy::prepare(l, thread);", "near_threads += l.near > 0, Energy::prepare(l, thread);")
        assert counted.count("++") == launcher.count("++") + 2 and "near_threads" in counted
        (self.folder / "chain.cuh").write_text(counted)
        for header in ("product.cuh", "chain_mlp.cuh"):  # in the folder of what they include
            (self.folder / header).write_text((ROOT / "csrc/cuda" / header).read_text())
        (self.folder / f"{part}.cu").write_text(source)
        out = self.folder / f"{part}.o"
        subprocess.run(
            [str(shutil.which("g++")), *FLAGS, "-c", f"-I{self.folder}",
             f"-I{self.include}", f"-I{ROOT / 'csrc/cuda'}", f'-DSOURCE="{part}.cu"', *(["-DPART"] if part != "chain" else []),
             str(ROOT / "python_tests/kernels/cuda_on_cpu.cpp"), "-o", str(out)],
            check=True,
        )  # fmt: skip
        return str(out)

    def __call__(self, x: torch.Tensor, *args: Any) -> None:
        flat = native._chain_args(x, *args)
        assert len(flat) == len(self.names)
        values: dict[str, Any] = dict(zip(self.names, flat))
        values |= dict(zip(NUMBERS, values.pop("numbers")))
        kind = self.structures["ChainParams"]
        fields = dict(kind._fields_)  # type: ignore[arg-type]
        seed, step, chain_offset, rng = (values.pop(name) for name in ("seed", "step", "chain_offset", "rng"))
        stream = self.structures["Stream"](seed, step, 0, chain_offset, rng)
        for name in ("step_size", "noise_std", "beta", "persistence"):
            values[name] = self.structures["Schedule"](*values[name].fields)
        integers = values.pop("integers")
        values["integers"] = fields["integers"](*integers, *(0,) * (8 - len(integers)))
        assert set(values) | {"stream"} == set(fields), set(values) ^ set(fields)
        params = kind(stream=stream, **values)
        space = self.library.chain_space(ctypes.byref(params), ctypes.c_int(self.shared_bytes))
        self.spaces.append(space)
        workspace = torch.full((max(space, 1) // 4 + 64,), float("nan"))
        guard = workspace[space // 4 :]
        aligned = ctypes.c_void_p(workspace.data_ptr())
        assert self.library.chain(ctypes.byref(params), aligned, ctypes.c_int64(self.most_steps)) == 0
        assert guard.isnan().all()
