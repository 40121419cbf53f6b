"""Philox4x32-10 and the tiles of blocks it numbers, as Triton device functions; csrc/core/philox.h is the same in C++.

A block is four elements of one chain's event. The blocks of all chains form one sequence; a program takes TILE of them.
"""
# mypy: allow-untyped-defs
# No `from __future__ import annotations` beside a kernel: Triton 3.2 knows `tl.constexpr` by its type, not by its name.

import contextlib

import torch
import triton
import triton.language as tl

TILE = 512  # blocks: 2048 elements a program, 16 a thread
HALF_TILE = TILE // 2  # where several tensors are read: their loads in flight take registers
WIDE_FROM = 2**31 - 4 * TILE  # elements from which on indices need 64 bits


@triton.jit
def mulhilo(a, m: tl.constexpr):
    product = a.to(tl.uint64) * m
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


INTERPRETED = tl.constexpr(not isinstance(mulhilo, triton.JITFunction))


@triton.jit
def philox4x32_10(c0, c1, c2, c3, k0, k1):
    for _ in tl.static_range(10):
        hi0, lo0 = mulhilo(c0, 0xD2511F53)
        hi1, lo1 = mulhilo(c2, 0xCD9E8D57)
        c0 = hi1 ^ c1 ^ k0
        c2 = hi0 ^ c3 ^ k1
        c1 = lo1
        c3 = lo0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def tile_words(block, chain, rng, seed, step, purpose, chain_offset):
    """The four words of each block # (TILE,), counter (block, chain, step, purpose | step >> 32 << 8), key = seed."""
    key = seed.to(tl.int64)
    at = step.to(tl.int64)
    if rng is not None:
        key = tl.load(rng)
        at += tl.load(rng + 1)
    tag = purpose.to(tl.uint32) | (((at >> 32) & 0xFFFFFF) << 8).to(tl.uint32)
    chain = chain.to(tl.uint32) + chain_offset.to(tl.uint32)
    return philox4x32_10(block, chain, at.to(tl.uint32), tag, key.to(tl.uint32), (key >> 32).to(tl.uint32))


@triton.jit
def place_of(block, INDEX: tl.constexpr):
    """Index inside the event of each element of a block # (TILE,) -> (TILE, 4)."""
    return block[:, None].to(INDEX) * 4 + tl.arange(0, 4)[None, :]


@triton.jit
def start_of(row, dim, WHOLE: tl.constexpr):
    """Index of a row's first element; where dim % 4 == 0 the compiler sees a multiple of 4, and so 16-byte accesses."""
    first = row * dim
    if WHOLE:
        first = row * (dim // 4) * 4
    return first


@triton.jit
def tile_of_blocks(blocks, dim, per_chain, INDEX: tl.constexpr, WHOLE: tl.constexpr, TILE: tl.constexpr):
    """This program's blocks: chain, block in the chain, whether it exists # (TILE,); element index and mask # (TILE, 4)."""
    first = tl.program_id(0).to(INDEX) * TILE
    lane = tl.arange(0, TILE)
    first_chain = first // per_chain
    # inside the tile 32 bits do, and one 64-bit division a program instead of one a block
    local = (first - first_chain * per_chain).to(tl.uint32) + lane.to(tl.uint32)
    over = local // per_chain.to(tl.uint32)
    chain = first_chain + over.to(INDEX)
    block = local - over * per_chain.to(tl.uint32)
    exists = first + lane < blocks
    if WHOLE:  # dim % 4 == 0: blocks lie side by side, so the compiler sees 16-byte accesses
        element = (first + lane)[:, None] * 4 + tl.arange(0, 4)[None, :]
        mask = tl.broadcast_to(exists[:, None], (TILE, 4))
    else:
        place = place_of(block, INDEX)
        element = chain[:, None] * dim + place
        mask = exists[:, None] & (place < dim)
    return chain, block, exists, element, mask


@triton.jit
def side_by_side(a, b, c, d, TILE: tl.constexpr):
    """Four values of each block # (TILE,) -> (TILE, 4); each thread keeps its own."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (TILE, 4))


@triton.jit
def stored_as(a, dtype: tl.constexpr):
    """a rounded to nearest in the type of the memory."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter cuts the low bits off
        bits = a.to(tl.uint32, bitcast=True)
        bits = tl.where(a == a, bits + 0x7FFF + ((bits >> 16) & 1), bits)
        a = bits.to(tl.float32, bitcast=True)
    return a.to(dtype)


def geometry(x: torch.Tensor, tile: int = TILE) -> tuple[tuple[int], tuple[int, int, int, tl.dtype, bool, int]]:
    """Grid, and (blocks, dim, per_chain, INDEX, WHOLE, TILE) for x # (n, *event)."""
    chains = x.shape[0]
    dim = x.numel() // chains
    per_chain = (dim + 3) // 4
    blocks = chains * per_chain
    index = tl.int64 if 4 * blocks >= WIDE_FROM else tl.int32
    whole = dim % 4 == 0
    if not whole:  # addresses of odd events take registers, and so do 64-bit numbers
        tile = min(tile, TILE // 4 if x.itemsize == 8 else HALF_TILE)
    return ((blocks + tile - 1) // tile,), (blocks, dim, per_chain, index, whole, tile)


def on_device_of(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on torch's current device; in the interpreter there is none."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
