"""What this machine has, what each op runs on, and whether every backend computes what the reference computes."""

from __future__ import annotations

import json as json_format
import os
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebm_fast

from . import ops
from .energies import MLPEnergy
from .ops.backend import BackendError, native, pick, why_not
from .reference.philox import philox4x32_10

VARIABLES = (
    "EBM_FAST_BACKEND", "EBM_FAST_CPU_ISA", "EBM_FAST_CUDA", "EBM_FAST_CUDA_ARCHS", "EBM_FAST_DATA", "TRITON_INTERPRET",
    "OMP_NUM_THREADS", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
PACKAGES = ("torch", "triton", "numpy", "safetensors", "scikit-learn", "matplotlib", "tqdm")
OPS = (
    "bits_", "uniform_", "rademacher_", "normal_", "langevin_step_", "event_norm", "guard_", "perturb_", "randperm_", "gather_",
    "scatter_", "chain_",
)  # fmt: skip

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
# Seed, step and chain beyond 32 bits, so that every part of the counter is at work.
COUNTER: dict[str, Any] = {"seed": 2**63 + 0x1234_5678_9ABC, "step": 2**32 + 3, "chain_offset": 2**31 + 7}
SHAPE = (37, 3, 5)
UPDATE_TOLERANCE = 2e-6  # float32, numbers of order one
CHAIN_TOLERANCE = 2e-5  # of a dozen gradients


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
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
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
    except BackendError as error:
        return f"refused: {error}"


def _known_answers(backend: str, device: str) -> str:
    for counter, key, expected in KNOWN_ANSWERS:
        words = philox4x32_10(
            (torch.tensor(counter[0]), torch.tensor(counter[1]), torch.tensor(counter[2]), torch.tensor(counter[3])),
            (torch.tensor(key[0]), torch.tensor(key[1])),
        )
        if tuple(map(int, words)) != expected:
            return "the reference's Philox does not give Random123's known answers"
    got = ops.bits_(torch.empty(1, 4, dtype=torch.int32, device=device), seed=0, backend=backend)
    if tuple(int(w) & 0xFFFFFFFF for w in got[0].cpu()) != KNOWN_ANSWERS[0][2]:
        return f"counter 0, key 0 gives {[hex(int(w) & 0xFFFFFFFF) for w in got[0].cpu()]}"
    return ""


def _noise(name: str) -> Callable[[str, str], str]:
    def check(backend: str, device: str) -> str:
        dtype = torch.int32 if name == "bits_" else torch.float32
        got = getattr(ops, name)(torch.zeros(SHAPE, dtype=dtype, device=device), backend=backend, **COUNTER).cpu()
        truth = getattr(ops, name)(torch.zeros(SHAPE, dtype=dtype), backend="reference", **COUNTER)
        if name != "normal_":
            return "" if torch.equal(got, truth) else f"{int((got != truth).sum())} of {truth.numel()} numbers differ"
        ulp = torch.finfo(torch.float32).eps * 2.0 ** truth.abs().clamp_min(1.0).log2().floor()
        return _worst((got - truth).abs(), torch.where(truth.abs() >= 1.0, 2.0 * ulp, 1e-6))

    return check


def _langevin(backend: str, device: str) -> str:
    def update(device: str, backend: str) -> Tensor:
        x = ops.normal_(torch.empty(SHAPE), backend="reference", **COUNTER).to(device)
        grad = ops.normal_(torch.empty(SHAPE), seed=1, backend="reference").to(device)
        ops.langevin_step_(
            x, grad, step_size=0.3, noise_std=0.1, clamp=(-1.5, 1.5), clamp_after="both", grad_clip=1.2, prior_precision=0.2,
            backend=backend, **COUNTER,
        )  # fmt: skip
        return x.cpu()

    truth = update("cpu", "reference")
    return _worst((update(device, backend) - truth).abs(), torch.full_like(truth, UPDATE_TOLERANCE))


def _norm(backend: str, device: str) -> str:
    x = ops.normal_(torch.empty(SHAPE), backend="reference", **COUNTER)
    truth = ops.event_norm(x, backend="reference")
    return _worst((ops.event_norm(x.to(device), backend=backend).cpu() - truth).abs(), 1e-6 * truth)


def _guard(backend: str, device: str) -> str:
    def numbers(device: str, backend: str) -> tuple[Tensor, Tensor]:
        x, grad = (ops.normal_(torch.empty(SHAPE), seed=s, backend="reference").to(device) for s in (1, 2))
        energy = torch.zeros(SHAPE[0], device=device)
        energy[3], grad[5] = torch.inf, 1e38
        stopped = torch.full((SHAPE[0],), -1, dtype=torch.int64, device=device)
        norm_sum = torch.ones(SHAPE[0], dtype=torch.float64, device=device)
        ops.guard_(x, grad, energy=energy, divergence_step=stopped, norm_sum=norm_sum, step_size=10.0, step=7, backend=backend)
        return stopped.cpu(), norm_sum.cpu()

    stopped, norm_sum = numbers(device, backend)
    truth, wanted = numbers("cpu", "reference")
    return "other chains are frozen" if not torch.equal(stopped, truth) else _worst((norm_sum - wanted).abs(), 1e-6 * wanted)


def _perturb(backend: str, device: str) -> str:
    def copies(device: str, backend: str) -> Tensor:
        x = ops.normal_(torch.empty(SHAPE), backend="reference", seed=1).to(device)
        out, noise = (torch.zeros(2 * SHAPE[0], *SHAPE[1:], device=device) for _ in range(2))
        ops.perturb_(out, x, 0.3, noise=noise, backend=backend, **COUNTER)
        return torch.stack([out, noise]).cpu()

    truth = copies("cpu", "reference")
    return _worst((copies(device, backend) - truth).abs(), torch.full_like(truth, UPDATE_TOLERANCE))


def _randperm(backend: str, device: str) -> str:
    got, truth = (
        ops.randperm_(torch.zeros(100, dtype=torch.int64, device=where), 337, backend=who, **COUNTER).cpu()
        for where, who in ((device, backend), ("cpu", "reference"))
    )
    return "" if torch.equal(got, truth) else f"{int((got != truth).sum())} of {truth.numel()} numbers differ"


def _buffer(backend: str, device: str) -> tuple[Tensor, Tensor]:
    """Rows gathered, half of them new, and the buffer after they were written back, one that is not finite among them."""
    source = ops.normal_(torch.empty(50, *SHAPE[1:]), backend="reference", seed=1).to(device)
    slots = torch.arange(SHAPE[0], device=device).flip(0)
    rows = ops.gather_(torch.zeros(SHAPE, device=device), source, slots, rejuvenation=0.5, backend=backend, **COUNTER)
    written = rows.clone()
    written[3, 0, 0] = torch.inf
    return rows.cpu(), ops.scatter_(source, slots, written, backend=backend).cpu()


def _gather(backend: str, device: str) -> str:
    truth = _buffer("reference", "cpu")[0]
    return _worst((_buffer(backend, device)[0] - truth).abs(), torch.full_like(truth, UPDATE_TOLERANCE))


def _scatter(backend: str, device: str) -> str:
    truth = _buffer("reference", "cpu")[1]
    return _worst((_buffer(backend, device)[1] - truth).abs(), torch.full_like(truth, UPDATE_TOLERANCE))


def _chain(backend: str, device: str) -> str:
    def chain(device: str, backend: str) -> Tensor:
        descriptor = MLPEnergy(5, (7, 6)).to(device).descriptor()
        x = ops.normal_(torch.empty(37, 5), backend="reference", **COUNTER).to(device)
        return ops.chain_(x, descriptor, "hmc", steps=4, leapfrogs=3, step_size=0.2, backend=backend, **COUNTER).cpu()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        truth = chain("cpu", "reference")
        torch.manual_seed(0)
        return _worst((chain(device, backend) - truth).abs(), torch.full_like(truth, CHAIN_TOLERANCE))


def _worst(error: Tensor, bound: Tensor) -> str:
    worst = float((error / bound).max())
    return "" if worst <= 1.0 else f"off by {worst:.3g} times the tolerance"


CHECKS: dict[str, Callable[[str, str], str]] = {
    "philox": _known_answers,
    **{name: _noise(name) for name in ("bits_", "uniform_", "rademacher_", "normal_")},
    "langevin_step_": _langevin,
    "event_norm": _norm,
    "guard_": _guard,
    "perturb_": _perturb,
    "randperm_": _randperm,
    "gather_": _gather,
    "scatter_": _scatter,
    "chain_": _chain,
}
MISSING = {("chain_", "triton")}  # then plain PyTorch runs it


def _subjects() -> Iterator[tuple[str, str | None, str]]:
    """(backend, instruction set, device) of everything that can run here; the reference is its own truth but for Philox."""
    module = native()
    if module is not None:
        chosen = module.current_isa()
        try:
            for isa in module.available_isas():
                module.force_isa(isa)
                yield "cpu", isa, "cpu"
        finally:
            module.force_isa(chosen)
    for backend in ("cuda", "triton"):
        if not why_not(backend):
            yield backend, None, "cuda" if torch.cuda.is_available() else "cpu"
    yield "reference", None, "cpu"


def self_test() -> list[dict[str, Any]]:
    """One row per op and backend: integers and uniforms bit for bit, the rest within the contract's tolerances."""
    rows = []
    for backend, isa, device in _subjects():
        for op, check in CHECKS.items():
            if (op, backend) in MISSING:
                continue
            try:
                detail = check(backend, device)
            except Exception as error:  # whatever a broken build raises is the finding
                detail = f"{type(error).__name__}: {error}"
            rows.append({"op": op, "backend": backend, "isa": isa, "device": device, "ok": not detail, "detail": detail})
    return rows


def report() -> dict[str, Any]:
    """Machine, versions, build, GPUs, backends with the reason why one is missing, routes of the ops, self-test, environment."""
    return {
        "machine": machine(),
        "system": {"os": platform.platform(), "python": platform.python_version()},
        "packages": {name: version(name) for name in PACKAGES},
        "ebm_fast": build(),
        "gpus": gpus(),
        "backends": {name: why_not(name) for name in ("reference", "cpu", "triton", "cuda")},
        "ops": {op: {device: _runs_on(op, device) for device in ("cpu", "cuda")} for op in OPS},
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
    for op in CHECKS:
        verdict = {(r["backend"], r["isa"], r["device"]): r["ok"] for r in facts["self_test"] if r["op"] == op}
        grid.append((op, *("ok" if verdict[subject] else "FAILED" for subject in subjects)))
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
