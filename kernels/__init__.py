"""Triton kernels of the ops, shipped as `ebm_fast.kernels`; each module offers its op under the op's own name.

Importing this package imports no Triton; importing `ebm_fast.kernels.noise` (langevin, norm) does.
"""

from __future__ import annotations

if __name__ != "ebm_fast.kernels":  # a public package is called `kernels` too
    raise ImportError(f"this folder is the package ebm_fast.kernels and cannot be imported as {__name__!r}: install ebm_fast")


def why_missing(oldest: tuple[int, int] = (3, 2)) -> str:
    """Why kernels that need a Triton of at least `oldest` cannot be imported here; empty if they can."""
    try:
        import triton
    except ImportError as error:
        return f"triton cannot be imported ({error}): pip install 'ebm_fast[triton]'"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return "" if version >= oldest else f"triton {triton.__version__} is too old: {oldest[0]}.{oldest[1]} or later is needed"
