"""The first members of a random permutation in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .philox import MASK, words

ROUNDS = 16


def sides(size: int) -> tuple[int, int]:
    """a, b with a b >= size, a b - size < a: i = l b + r with l below a and r below b."""
    a = math.isqrt(size - 1) + 1
    return a, -(-size // a)


def mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit words whose every output bit hangs on every input bit (Wellons's "lowbias32")."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK
    return x ^ (x >> 16)


def permuted(i: Tensor, keys: Tensor, a: int, b: int) -> Tensor:
    """P(i) on 0 ... a b - 1: l += F(r) mod a and r += F(l) mod b in turn. i # (n,), keys # (n, ROUNDS)"""
    left, right = i // b, i % b
    for j in range(0, ROUNDS, 2):
        left = (left + (mixed(right ^ keys[:, j]) * a >> 32)) % a
        right = (right + (mixed(left ^ keys[:, j + 1]) * b >> 32)) % b
    return left * b + right


def randperm_(
    out: Tensor, index: Tensor | None, group: Tensor | None, rng: Tensor | None, size: int, purpose: int, seed: int, step: int,
    chain_offset: int,
) -> None:  # fmt: skip
    """k_i = g size + P_g(index_i mod size), g = group_i: P on pairs (l, r), repeated while it leads outside of 0 ... size - 1."""
    n, (a, b) = out.shape[0], sides(size)
    i = torch.arange(n, device=out.device) if index is None else index
    g = torch.zeros_like(out) if group is None else group
    # Round keys of group g: the first words of chain g.
    member, which = torch.unique(g, return_inverse=True)
    keys = torch.stack([
        words(1, ROUNDS, seed=seed, step=step, purpose=purpose, chain_offset=chain_offset + int(c), rng=rng, device=out.device)[0]
        for c in member
    ])[which]  # fmt: skip
    k = permuted(i % size, keys, a, b)
    while bool((k >= size).any()):
        k = torch.where(k >= size, permuted(k, keys, a, b), k)
    out.copy_(g * size + k)
