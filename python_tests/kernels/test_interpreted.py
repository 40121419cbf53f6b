"""Triton's kernels in its interpreter, which must be chosen before Triton is imported: so in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ebm_fast.kernels import why_missing


@pytest.mark.skipif(bool(why_missing()), reason=why_missing())
@pytest.mark.parametrize("name", ["test_kernel_parity.py", "test_mcmc_parity.py", "test_training_parity.py",
                                  "test_chain_triton.py", "test_user_energy_triton.py"])  # fmt: skip
def test_kernels_in_the_interpreter(name):
    if name in ("test_chain_triton.py", "test_user_energy_triton.py"):
        pytest.importorskip("triton", minversion="3.3")  # as they do
    parity = Path(__file__).with_name(name)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(parity), "-k", "triton", "-m", "not cuda", "--device", "cpu",
         "-p", "no:cacheprovider"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
        cwd=parity.parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    last = run.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", last), last
    assert "skipped" not in last, last
