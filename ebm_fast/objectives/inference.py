"""A look at an objective under torch.inference_mode()."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class LooksAreOrdinary:
    """Calls of subclasses under torch.inference_mode() are as those under torch.no_grad(): losses that hold gradients of the
    energy need autograd inside, which inference mode cannot turn on again, and what an objective keeps is no inference tensor."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = _outside(cls.__call__)  # type: ignore[method-assign, operator]


def _outside(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def look(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return call(self, batch, *args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return call(self, _ordinary(batch), *args, **kwargs)

    return look


def _ordinary(batch: Any) -> Any:
    """x or (x, y) with copies of tensors that were made in inference mode; anything else as it is."""
    if isinstance(batch, (tuple, list)):
        return type(batch)(map(_ordinary, batch)) if type(batch) in (tuple, list) else batch
    return batch.clone() if isinstance(batch, Tensor) and batch.is_inference() else batch
