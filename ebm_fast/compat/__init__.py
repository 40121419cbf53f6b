"""The faces of other libraries on this engine, so that switching is an import: `compat.torchebm`, `compat.blackjax`."""

from __future__ import annotations

from . import blackjax, torchebm

__all__ = ["blackjax", "torchebm"]
