"""What this machine has, what each op runs on, and whether every backend computes what the reference computes."""

from __future__ import annotations

import json as json_format
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ebm_fast

from .ops.backend import BackendError, native, pick, why_not
from .self_test import MISSING, RESULTS, self_test

VARIABLES = (
    "EBM_FAST_BACKEND", "EBM_FAST_CPU_ISA", "EBM_FAST_CUDA", "EBM_FAST_CUDA_ARCHS", "EBM_FAST_DATA", "TRITON_INTERPRET",
    "OMP_NUM_THREADS", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
PACKAGES = ("torch", "triton", "numpy", "safetensors", "scikit-learn", "matplotlib", "tqdm")


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if known else None
    return {"cpu": cpu_model(), "cores": cores, "memory_gib": None if memory is None else round(memory, 1)}


def gpus() -> list[dict[str, Any]]:
    """Name, compute capability and memory in GiB of each CUDA device that torch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_gib": round(facts.total_memory / 2**30, 1),
                "multiprocessors": facts.multi_processor_count,
            }
        )
    return found


def version(package: str) -> str | None:
    """Installed version of a package, or None; torch's names what it was built for."""
    try:
        return str(torch.__version__) if package == "torch" else metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def build() -> dict[str, Any]:
    """Version, instruction sets, thread runtime and CUDA architectures of this build."""
    module = native()
    facts: dict[str, Any] = {"version": ebm_fast.__version__, "extension": module is not None}
    if module is not None:
        facts |= {
            "isas": module.available_isas(),
            "isa": module.current_isa(),
            "threads": torch.get_num_threads(),
            "thread_runtime": module.thread_runtime(),
            "cuda_architectures": module.cuda_architectures or None,
        }
    return facts


def _runs_on(op: str, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        return "-"
    try:
        backend = pick(None, torch.device(device))
        return "reference" if (op, backend) in MISSING else backend
    except (BackendError, ValueError) as error:
        return f"refused: {error}"


def report() -> dict[str, Any]:
    """Machine, versions, build, GPUs, backends with the reason why one is missing, routes of the ops, self-test, environment."""
    return {
        "machine": machine(),
        "system": {"os": platform.platform(), "python": platform.python_version()},
        "packages": {name: version(name) for name in PACKAGES},
        "ebm_fast": build(),
        "gpus": gpus(),
        "backends": {name: why_not(name) for name in ("reference", "cpu", "triton", "cuda")},
        "ops": {op: {device: _runs_on(op, device) for device in ("cpu", "cuda")} for op in RESULTS},
        "self_test": self_test(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _table(rows: list[tuple[str, ...]], indent: str = "  ") -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for title in ("machine", "system", "packages", "ebm_fast"):
        lines += [title, *_table([(name, _text(value)) for name, value in facts[title].items()]), ""]
    lines += ["gpus", *(_table([tuple(_text(v) for v in gpu.values()) for gpu in facts["gpus"]]) or ["  none"]), ""]
    lines += ["backends", *_table([(name, why or "available") for name, why in facts["backends"].items()]), ""]
    routes = [(op, by["cpu"], by["cuda"]) for op, by in facts["ops"].items()]
    lines += ["what an op runs on", *_table([("", "cpu tensors", "cuda tensors"), *routes]), ""]
    lines.append("self-test against the reference")
    subjects = list(dict.fromkeys((row["backend"], row["isa"], row["device"]) for row in facts["self_test"]))
    grid = [("", *(f"{backend} {isa or f'on {device}'}" for backend, isa, device in subjects))]
    for op in ("philox", *RESULTS):
        verdict = {(r["backend"], r["isa"], r["device"]): r["ok"] for r in facts["self_test"] if r["op"] == op}
        grid.append((op, *({True: "ok", False: "FAILED", None: "-"}[verdict.get(subject)] for subject in subjects)))
    lines += _table(grid)
    failures = [row for row in facts["self_test"] if not row["ok"]]
    lines += [f"  FAILED {row['op']} on {row['backend']} {row['isa'] or ''}: {row['detail']}" for row in failures]
    lines += ["", "environment", *(_table(list(facts["environment"].items())) or ["  nothing set"])]
    return lines


def main(json: bool = False) -> int:
    """Print the report as a table or as JSON; 1 if a self-test failed, else 0."""
    facts = report()
    print(json_format.dumps(facts, indent=2) if json else "\n".join(_lines(facts)))
    return 0 if all(row["ok"] for row in facts["self_test"]) else 1
