"""Distinct random indices without sorting: members of keyed permutations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import checks
from .backend import route
from .library import define
from .noise import fresh_seed, signed64
from .purposes import purpose_tag

LARGEST = 2**31


def _impl(out: Tensor, index: Tensor | None, group: Tensor | None, *args: Any) -> None:
    if out.numel():
        checks.refuse_unsafe((("out", out),), (("index", index), ("group", group)))
        route("randperm_", out, args[-1])(out, index, group, *args[:-1])
        increment_version(out)


_op = define(
    "randperm_(Tensor(a!) out, Tensor? index, Tensor? group, Tensor? rng, int size, int purpose, SymInt seed, SymInt step, "
    "SymInt chain_offset, str backend) -> ()",
    _impl,
    lambda *args: None,
)


def randperm_(
    out: Tensor,  # (n,)
    size: int,
    *,
    index: Tensor | None = None,  # (n,)
    group: Tensor | None = None,  # (n,)
    seed: int | None = None,
    step: int = 0,
    purpose: str = "slots",
    chain_offset: int = 0,
    rng: Tensor | None = None,  # (2,)
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """k_i = g_i size + P_{g_i}(j_i), P_g a random permutation of 0 ... size - 1; j_i = i and g_i = 0 unless given.

    n distinct numbers for n <= size in O(n), whatever size is: P is an alternating Feistel network of 16 rounds on pairs (l, r),
    whose keys are the first 16 words of chain g, walked along its cycle while it leads outside. P(j) hangs on (seed, step,
    purpose, g, j) alone and is the same to the bit on every backend. Every place is equally likely, and so is every pair of
    places; whole permutations are not all reached (a network of fixed rounds has fewer keys than there are). Fills and returns
    `out`.

    Args:
        out: int64 (n,), contiguous.
        size: 1 ... 2^31.
        index: j, int64 (n,), taken modulo size; different j of a group give different numbers.
        group: g, int64 (n,), such as the class of each row: the numbers of group g lie in [g size, (g + 1) size).
        seed, step, purpose, chain_offset, rng, generator, backend: as `normal_`.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind, shape or range; out is then unchanged.

    Source: Black and Rogaway 2002 (ciphers with arbitrary finite domains: cycle walking, unbalanced Feistel networks).
    """
    if not isinstance(out, Tensor) or out.dtype != torch.int64 or out.ndim != 1 or not out.is_contiguous():
        got = f"{out.dtype}, {tuple(out.shape)}, strides {out.stride()}" if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"out must be a contiguous int64 tensor (n,), got {got}")
    if type(size) is not int or not 1 <= size <= LARGEST:
        raise ValueError(f"size must be an int in 1 ... 2^31, got {size!r}")
    if index is None and out.shape[0] > size:
        raise ValueError(f"out: expected at most size={size} numbers, got {out.shape[0]}")
    for t, name in ((index, "index"), (group, "group")):
        if t is not None:
            checks.exactly(t, name, tuple(out.shape), torch.int64, out.device)
    if seed is None:
        seed = 0 if rng is not None else fresh_seed(generator)
    checks.counter(seed, step, chain_offset, rng, out)
    _op(out, index, group, rng, size, purpose_tag(purpose), signed64(seed), step, chain_offset, backend or "auto")
    return out
