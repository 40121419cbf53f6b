"""Members of random permutations (op `randperm_`): the arithmetic of csrc/core/randperm.h."""
# mypy: allow-untyped-defs

import math

import torch
import triton
import triton.language as tl

from .philox import on_device_of, tile_words

ROWS = 128


@triton.jit
def mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def turned(x, y, key, n):
    """x + F(y) mod n for x < n."""
    x += ((mixed(y ^ key).to(tl.uint64) * n.to(tl.uint64)) >> 32).to(tl.uint32)
    return tl.where(x < n, x, x - n)


@triton.jit
def permuted(i, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15, a, b):
    left = i // b
    right = i - left * b
    left = turned(left, right, k0, a)
    right = turned(right, left, k1, b)
    left = turned(left, right, k2, a)
    right = turned(right, left, k3, b)
    left = turned(left, right, k4, a)
    right = turned(right, left, k5, b)
    left = turned(left, right, k6, a)
    right = turned(right, left, k7, b)
    left = turned(left, right, k8, a)
    right = turned(right, left, k9, b)
    left = turned(left, right, k10, a)
    right = turned(right, left, k11, b)
    left = turned(left, right, k12, a)
    right = turned(right, left, k13, b)
    left = turned(left, right, k14, a)
    right = turned(right, left, k15, b)
    return left * b + right


@triton.jit(do_not_specialize=["n", "size", "across", "purpose", "seed", "step", "chain_offset"])
def randperm_kernel(
    out, index, group, rng, n, size: tl.int64, across: tl.int64, purpose, seed: tl.int64, step: tl.int64, chain_offset: tl.int64,
    ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < n
    i = row
    if index is not None:
        i = tl.load(index + row, mask=exists, other=0)
    g = tl.zeros((ROWS,), dtype=tl.int64)
    if group is not None:
        g = tl.load(group + row, mask=exists, other=0)
    zero = tl.zeros((ROWS,), dtype=tl.int32).to(tl.uint32)
    k0, k1, k2, k3 = tile_words(zero, g, rng, seed, step, purpose, chain_offset)
    k4, k5, k6, k7 = tile_words(zero + 1, g, rng, seed, step, purpose, chain_offset)
    k8, k9, k10, k11 = tile_words(zero + 2, g, rng, seed, step, purpose, chain_offset)
    k12, k13, k14, k15 = tile_words(zero + 3, g, rng, seed, step, purpose, chain_offset)
    a = across.to(tl.uint32)
    b = ((size + across - 1) // across).to(tl.uint32)
    most = size.to(tl.uint32)
    i = (i.to(tl.uint64) % size.to(tl.uint64)).to(tl.uint32)
    k = permuted(i, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15, a, b)
    outside = tl.max((k >= most).to(tl.int32), axis=0)
    while outside > 0:
        k = tl.where(k >= most, permuted(k, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15, a, b), k)
        outside = tl.max((k >= most).to(tl.int32), axis=0)
    tl.store(out + row, g * size + k.to(tl.int64), mask=exists)


def randperm_(
    out: torch.Tensor, index: torch.Tensor | None, group: torch.Tensor | None, rng: torch.Tensor | None, size: int, purpose: int,
    seed: int, step: int, chain_offset: int,
) -> None:  # fmt: skip
    """k_i = g size + P_g(index_i mod size), g = group_i."""
    n = out.shape[0]
    with on_device_of(out):
        randperm_kernel[((n + ROWS - 1) // ROWS,)](
            out, index, group, rng, n, size, math.isqrt(size - 1) + 1, purpose, seed, step, chain_offset, ROWS, num_warps=4,
            enable_fp_fusion=False,
        )
