"""What a report says about the machine that it was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

import ebm_fast as ef


def machine() -> dict[str, Any]:
    """Names and versions, in the order of the table."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ebm_fast": ef.__version__,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
