"""Importing opens and builds nothing; the package works without its extension, and the extension without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import ebm_fast as ef
from ebm_fast.ops.backend import native

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(wheel, venv):
    environment = venv()
    environment.pip_install(wheel)
    return environment


def test_import_is_light(installed):
    state = json.loads(
        installed("""
import json, subprocess, sys, torch
before = set(sys.modules)
def refuse(*args, **kwargs):
    raise AssertionError(f"importing ebm_fast started a process: {args}")
subprocess.Popen.__init__ = refuse
import ebm_fast, ebm_fast.kernels
print(json.dumps({
    "new": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "cpp_extension": "torch.utils.cpp_extension" in set(sys.modules) - before,
    "cuda": torch.cuda.is_initialized(),
}))
""")
    )
    assert not {"matplotlib", "sklearn", "triton", "safetensors", "tqdm", "scipy", "PIL"} & set(state["new"])
    assert "ebm_fast" in state["new"]
    assert not state["cpp_extension"]
    assert not state["cuda"]


def test_without_the_extension_the_reference_does_the_work(venv, tmp_path):
    shutil.copytree(ROOT / "ebm_fast", tmp_path / "ebm_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    said = json.loads(
        venv()(
            """
import json, torch
import ebm_fast as ef
try:
    ef.ops.normal_(torch.empty(2, 3), seed=0, backend="cpu")
    refusal = ""
except ef.BackendError as error:
    refusal = str(error)
x = torch.zeros(5, 3)
ef.langevin_(x, lambda x: 0.5 * x.square().sum(1), num_steps=4, step_size=0.1, seed=3)
print(json.dumps({
    "file": ef.__file__, "backend": ef.ops.backend.pick(None, torch.device("cpu")), "refusal": refusal,
    "bits": ef.ops.bits_(torch.empty(3, 7, dtype=torch.int32), seed=5).tolist(), "chain": x.tolist(),
}))
""",
            PYTHONPATH=str(tmp_path),
        )
    )
    assert Path(said["file"]).is_relative_to(tmp_path)
    assert said["backend"] == "reference"
    assert "ebm_fast._C is not built" in said["refusal"]
    assert said["bits"] == ef.ops.bits_(torch.empty(3, 7, dtype=torch.int32), seed=5).tolist()
    x = torch.zeros(5, 3)
    ef.langevin_(x, lambda x: 0.5 * x.square().sum(1), num_steps=4, step_size=0.1, seed=3)
    torch.testing.assert_close(torch.tensor(said["chain"]), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_extension_needs_no_torch_and_no_openmp(threads, installed):
    """Without torch in the process there is no OpenMP runtime to borrow: plain threads compute the same numbers."""
    module = native()
    if module is None:
        pytest.skip("the extension is not built")
    (library,) = (installed.packages / "ebm_fast").glob("_C.*.so")
    n = 300_000
    said = json.loads(
        installed(f"""
import array, hashlib, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("ebm_fast._C", {str(library)!r})
_C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_C)
_C.force_isa({module.current_isa()!r})
out = array.array("f", bytes(4 * {n}))
_C.noise_cpu(out.buffer_info()[0], 1, {n}, 0, 2, 11, 7, 0, 0, 0, {threads})
print(json.dumps({{
    "runtime": _C.thread_runtime(), "torch": "torch" in sys.modules, "sum": hashlib.sha256(out.tobytes()).hexdigest(),
}}))
""")
    )
    here = ef.ops.normal_(torch.empty(1, n), seed=11, step=7, backend="cpu")
    assert said == {"runtime": "threads", "torch": False, "sum": hashlib.sha256(here.numpy().tobytes()).hexdigest()}
    assert module.thread_runtime() == "openmp"
