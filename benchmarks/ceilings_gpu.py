"""A GPU's ceilings, measured on the spot by Triton loops over registers: copy bandwidth, Philox blocks, normals, exponentials,
multiply-adds, and torch's matrix products.

    floor(mixture) = one Philox block for four normals' words + M exponentials           (P2's arithmetic limit)

`python benchmarks/ceilings_gpu.py` prints them.
"""
# No `from __future__ import annotations` beside a kernel: Triton 3.2 knows `tl.constexpr` by its type, not by its name.

import functools
from collections.abc import Callable

import harness
import torch
import triton
import triton.language as tl
from ebm_fast.kernels.philox import philox4x32_10

BLOCK, LOOPS, GEMM, COPY = 512, 256, 8192, 2**28


@triton.jit
def _philox(out, LOOPS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = at.to(tl.uint32)
    b, c, d = a, a, a
    for _ in range(LOOPS):
        a, b, c, d = philox4x32_10(a, b, c, d, a * 0 + 5, b * 0 + 7)
    tl.store(out + at, (a ^ b ^ c ^ d).to(tl.float32))


@triton.jit
def _exponentials(out, LOOPS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = at.to(tl.float32) * 1e-9
    b, c, d = a + 0.1, a + 0.2, a + 0.3
    for _ in range(LOOPS):
        a, b, c, d = tl.exp2(-a), tl.exp2(-b), tl.exp2(-c), tl.exp2(-d)
    tl.store(out + at, a + b + c + d)


@triton.jit
def _multiply_adds(out, LOOPS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = at.to(tl.float32) * 1e-9
    b, c, d = a + 0.1, a + 0.2, a + 0.3
    for _ in range(LOOPS):
        a, b, c, d = tl.fma(a, 0.5, 0.1), tl.fma(b, 0.5, 0.1), tl.fma(c, 0.5, 0.1), tl.fma(d, 0.5, 0.1)
    tl.store(out + at, a + b + c + d)


COUNTS = {"philox_blocks": (_philox, 1), "exponentials": (_exponentials, 4), "multiply_adds": (_multiply_adds, 4)}


@functools.cache
def _seconds(call: Callable[[], object]) -> float:
    return min(harness.race({"it": call}, seconds=0.2, device="cuda").times["it"])


@functools.cache
def nanoseconds() -> dict[str, float]:
    """Of each ingredient, on the whole device at once."""
    programs = torch.cuda.get_device_properties(0).multi_processor_count * 32
    out = torch.empty(programs * BLOCK, device="cuda")
    found = {}
    for name, (kernel, each) in COUNTS.items():
        run = functools.partial(kernel[(programs,)], out, LOOPS, BLOCK)
        found[name] = _seconds(run) / (programs * BLOCK * LOOPS * each) * 1e9
    return found


@functools.cache
def rates() -> dict[str, float]:
    """Copied GB/s (read and written), and TFLOP/s of torch's products of large matrices."""
    copy, moved = harness.copy_of(COPY, "cuda")
    found = {"copy_gb_s": moved / _seconds(copy) / 1e9}
    for name in ("bfloat16", "tf32", "float32"):
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, name == "tf32"
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        a, b = (torch.randn(GEMM, GEMM, device="cuda").to(dtype) for _ in range(2))
        found[f"{name}_tflop_s"] = 2 * GEMM**3 / _seconds(functools.partial(torch.mm, a, b)) / 1e12
        torch.backends.cuda.matmul.allow_tf32 = before
    return found


def mixture_floor(components: int) -> float:
    """Nanoseconds of a chain and step."""
    ns = nanoseconds()
    return ns["philox_blocks"] + components * ns["exponentials"]


if __name__ == "__main__":
    for name, value in (nanoseconds() | rates()).items():
        print(f"{name:<18} {value:.5g}")
