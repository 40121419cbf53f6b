"""Registration of the public ops with torch.library, so that torch.compile and export see one opaque call each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backend import route

_library = torch.library.Library("ebm_fast", "DEF")


_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl


def observed() -> bool:
    """Whether something looks at or rewrites calls of ops: torch.compile, export, fake tensors, functorch transforms."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register `ebm_fast::<schema>` for every device with its shape function; returns a function that calls it.

    Where nobody looks, the call goes straight to the implementation: the dispatcher's round trip through twenty boxed
    arguments costs 6 us, more than everything else together.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, implementation, "CPU")
    _library.impl(name, implementation, "CUDA")
    torch.library.register_fake(f"ebm_fast::{name}", fake, lib=_library)
    registered = getattr(torch.ops.ebm_fast, name).default

    def call(x: Tensor, *args: Any) -> Any:
        # A subclass that answers ops itself (fake, distributed, functional tensors) has no memory of its own to write to.
        plain = type(x) is Tensor or type(x).__torch_dispatch__ is _NO_DISPATCH
        return implementation(x, *args) if plain and not observed() else registered(x, *args)

    return call


def bound(name: str, call: Callable[..., Any], x: Tensor, backend: str | None) -> Callable[..., Any]:
    """What runs the op `name` on x in a loop whose arguments are checked already, backend left out: the backend's own function;
    where somebody looks, or where there is nothing to do, the op as `define` made it."""
    asked = backend or "auto"
    if observed() or not x.numel():
        return lambda *args: call(*args, asked)
    return route(name, x, asked)
