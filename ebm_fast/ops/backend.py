"""Which code runs an op: `reference` (plain PyTorch), `cpu` (C++), `triton`, or `cuda`; `auto` picks the fastest that can.

An explicit wish (argument, `use_backend`, EBM_FAST_BACKEND: in this order) is honoured or refused with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# which module of reference/, kernels/ and csrc/core holds an op
MODULES = {
    "noise_": "noise", "langevin_step_": "langevin", "event_norm": "norm", "propose_": "proposal", "leapfrog_": "leapfrog",
    "metropolis_": "metropolis", "baoab_": "baoab", "swap_": "swap", "moments_": "moments",
    "guard_": "guard", "perturb_": "perturb", "randperm_": "randperm", "gather_": "gather", "scatter_": "scatter",
    "chain_": "chain", "adapt_": "adapt",
}  # fmt: skip
BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
class BackendError(RuntimeError):
    """The backend asked for cannot run here; the message says why and what would help."""


@functools.cache
def native() -> ModuleType | None:
    """The compiled extension, its instruction set forced by EBM_FAST_CPU_ISA, or None where it was not built."""
    if importlib.util.find_spec("ebm_fast._C") is None:
        return None
    module = importlib.import_module("ebm_fast._C")
    if os.environ.get("EBM_FAST_CPU_ISA"):
        module.force_isa(os.environ["EBM_FAST_CPU_ISA"])
    return module


@functools.cache
def why_not(backend: str) -> str:
    """Why a backend cannot run anything on this machine; empty if it can."""
    if backend == "reference":
        return ""
    if backend == "cpu":
        return "" if native() else "the extension ebm_fast._C is not built (reinstall with a C++ compiler at hand)"
    if backend == "cuda":
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        module = native()
        if module is None or not module.cuda_architectures:
            return "the extension was built without CUDA (reinstall with EBM_FAST_CUDA=on and nvcc on PATH)"
        major, minor = torch.cuda.get_device_capability()
        built = [int(arch) for arch in module.cuda_architectures.split(",")]
        if not any(arch // 10 == major and arch % 10 <= minor for arch in built):
            return f"the extension was built for sm_{module.cuda_architectures}, this GPU is sm_{major}{minor}"
        return ""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'ebm_fast[triton]')"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "torch sees no GPU (TRITON_INTERPRET=1 runs the kernels slowly on the CPU)"
    return ""


# Read at import: looking into the environment costs a microsecond, a tenth of a whole call. Checked where it is used, that
# importing never fails and the doctor can tell.
_DEFAULT: str = os.environ.get("EBM_FAST_BACKEND") or "auto"


def _check_name(backend: str) -> str:
    if backend not in BACKENDS:
        where = "EBM_FAST_BACKEND" if backend == _DEFAULT else "backend"
        raise ValueError(f"{where} must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


_chosen: ContextVar[str] = ContextVar("ebm_fast_backend", default=_DEFAULT)


def wish(backend: str | None) -> str:
    """The backend asked for: argument, else context, else environment, else `auto`."""
    return _check_name(_chosen.get() if backend is None or backend == "auto" else backend)


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every op of the block on one backend: `with ef.use_backend("reference"): ...`."""
    token = _chosen.set(_check_name(backend))
    try:
        yield
    finally:
        _chosen.reset(token)


@functools.cache
def _pick(asked: str, device: str) -> str:
    if asked != "auto":
        reason = why_not(asked)
        if not reason and asked == "cpu" and device != "cpu":
            reason = f"the tensor is on {device}"
        if not reason and asked == "cuda" and device != "cuda":
            reason = f"the tensor is on {device}; move it with x.cuda()"
        if not reason and asked == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            reason = "the tensor is on cpu"
        if reason:
            raise BackendError(f"backend {asked!r} cannot run this: {reason}")
        return asked
    order = {"cpu": ["cpu"], "cuda": ["cuda", "triton"]}.get(device, ["triton"])
    return next((name for name in order if not why_not(name)), "reference")


def pick(backend: str | None, device: torch.device) -> str:
    """Name of the backend that will run an op on tensors of `device`."""
    return _pick(wish(backend), device.type)


@functools.cache
def implementation(op: str, backend: str) -> Callable[..., Any]:
    """The function that runs op (a key of MODULES) on a backend."""
    module = MODULES[op]
    if backend in ("cpu", "cuda"):
        return getattr(importlib.import_module("ebm_fast.ops.native"), f"{op.rstrip('_')}_{backend}")
    package = {"reference": "ebm_fast.reference", "triton": "ebm_fast.kernels"}[backend]
    return getattr(importlib.import_module(f"{package}.{module}"), op)


@functools.cache
def _route(op: str, asked: str, device: str) -> Callable[..., Any]:
    return implementation(op, _pick(_check_name(asked), device))


def route(op: str, x: Tensor, backend: str) -> Callable[..., Any]:
    """The function that runs op on x's device by the backend asked for (`auto` follows context and environment)."""
    return _route(op, _chosen.get() if backend == "auto" else backend, "cpu" if x.is_cpu else x.device.type)
