"""Random numbers that the host itself needs: one block of Philox4x32-10 in Python's integers."""

from __future__ import annotations

from ..ops.purposes import purpose_tag

_MASK = 0xFFFFFFFF


def uniform_number(seed: int, step: int, purpose: str, element: int) -> float:
    """u in (0, 1], element `element` (0 ... 3) of chain 0 in the random-number contract; the same for every batch of chains."""
    c = [0, 0, step & _MASK, purpose_tag(purpose) | ((step >> 32) & 0xFFFFFF) << 8]
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b & _MASK, (a >> 32) ^ c[3] ^ k1, a & _MASK]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c[element] * 2.0**-32 + 2.0**-33
