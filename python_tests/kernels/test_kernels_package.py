"""The folder kernels/ is the package ebm_fast.kernels and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_kernels_refuses_any_other_name():
    run = python("import sys; sys.path.insert(0, '.'); import kernels", cwd=ROOT)
    assert "ImportError: this folder is the package ebm_fast.kernels" in run.stderr
    assert "'kernels'" in run.stderr
    assert not (ROOT / "ebm_fast" / "kernels").exists()


def test_triton_is_imported_late_and_a_missing_or_old_one_is_explained(tmp_path):
    code = """
import ebm_fast.kernels, sys, types
assert "triton" not in sys.modules
for version in (None, "3.1.0", "3.2.0", "4.0"):
    sys.modules["triton"] = version and types.SimpleNamespace(__version__=version)
    print(ebm_fast.kernels.why_missing())
"""
    run = python(code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    missing, old, oldest, future = run.stdout.splitlines()
    assert missing.startswith("triton cannot be imported")
    assert "pip install 'ebm_fast[triton]'" in missing
    assert old.startswith("triton 3.1.0 is too old")
    assert oldest == future == ""
