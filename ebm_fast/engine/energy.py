"""Values and gradients of any energy, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Energy = Callable[..., Tensor]


def check_energy(energy: Any) -> None:
    """Something that can be called with states; a class would make an object of them."""
    if isinstance(energy, type):
        raise TypeError(f"energy must be an object, got the class {energy.__name__}: write {energy.__name__}(...)")
    if not callable(energy):
        raise TypeError(f"energy must be callable, (n, *event) -> (n,), got {type(energy).__name__}")


class EnergyFunction:
    """e = E(x), g = dE/dx of any callable energy (n, *event) -> (n,), with keyword tensors passed on.

    The gradient is taken with respect to x alone: autograd computes no parameter gradients and `.grad` of no
    parameter changes. An energy with a method `energy_and_grad(x, **condition)` is asked for both at once, one with `grad` too
    for the gradient alone.
    """

    def __init__(self, energy: Energy, condition: Mapping[str, Any] | None = None) -> None:
        check_energy(energy)
        self.energy = energy
        if condition is not None and not isinstance(condition, Mapping):
            raise TypeError(f"condition must be a dict of keyword arguments of the energy, got {type(condition).__name__}")
        self.condition = dict(condition or {})
        self._both = getattr(energy, "energy_and_grad", None)
        self._grad = getattr(energy, "grad", None) if self._both is not None else None
        self._ones: Tensor | None = None

    def require_values(self, sampler: str) -> None:
        """TypeError for an energy of which only the gradient is known (`energies.from_score`)."""
        if not getattr(self.energy, "has_values", True):
            raise TypeError(
                f"energy: {sampler} compares energies, and a score network has none; use a sampler without accept and reject "
                f"(Langevin, UnderdampedLangevin, AnnealedLangevin)"
            )

    def _checked(self, e: Any, x: Tensor) -> Tensor:
        if not isinstance(e, Tensor):
            raise TypeError(f"energy must return a tensor of shape ({x.shape[0]},), got {type(e).__name__}")
        if e.shape != x.shape[:1]:
            hint = ""
            if e.ndim == 0:
                hint = "; return one energy per chain, without summing or averaging over the batch"
            elif e.numel() == x.shape[0]:
                hint = "; squeeze it: e.flatten()"
            raise ValueError(
                f"energy must return shape ({x.shape[0]},), one number per chain, for x of shape {tuple(x.shape)}; "
                f"got shape {tuple(e.shape)}{hint}"
            )
        if not e.is_floating_point():
            raise TypeError(f"energy must return a floating-point tensor, got {e.dtype}")
        return e

    def _quietly(self, function: Callable[..., Any], x: Tensor) -> Any:
        """Without autograd; `torch.no_grad` does the same in three times the microseconds."""
        if not torch.is_grad_enabled():
            return function(x, **self.condition)
        torch._C._set_grad_enabled(False)
        try:
            return function(x, **self.condition)
        finally:
            torch._C._set_grad_enabled(True)

    def value(self, x: Tensor) -> Tensor:
        """E(x) without a gradient, in x's dtype. x # (n, *event) -> (n,)"""
        version = None if x.is_inference() else x._version
        e = self._checked(self._quietly(self.energy, x), x)
        if version is not None and x._version != version:
            raise ValueError("energy changed x in place: the chain would stand where no sampler moved it; clone x first")
        return e.detach().to(x.dtype).contiguous()

    def gradient(self, x: Tensor) -> Tensor:
        """dE/dx, where the value is not wanted: an energy with a method `grad(x, **condition)` saves it. # (n, *event)"""
        if self._grad is None:
            return self.value_and_grad(x)[1]
        return self._checked_grad(self._quietly(self._grad, x), x, "grad")

    def _checked_grad(self, g: Any, x: Tensor, name: str) -> Tensor:
        if not isinstance(g, Tensor) or g.shape != x.shape or g.dtype != x.dtype:
            got = f"{tuple(g.shape)}, {g.dtype}" if isinstance(g, Tensor) else type(g).__name__
            raise ValueError(f"{name} must return a gradient of shape {tuple(x.shape)}, {x.dtype}; got {got}")
        if g.requires_grad or not g.is_contiguous():
            g = g.detach().contiguous()
        return g.clone() if g.data_ptr() == x.data_ptr() and g.numel() else g  # an energy of |x|^2 / 2 may return x itself

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(E(x), dE/dx), detached; the gradient is contiguous. x # (n, *event) -> (n,), (n, *event)"""
        if self._both is not None:
            e, g = self._quietly(self._both, x)
            e = self._checked(e, x)
            if e.requires_grad or not e.is_contiguous():
                e = e.detach().contiguous()
            return e, self._checked_grad(g, x, "energy_and_grad")
        # Entering the two modes takes as long as a small layer, and where a trainer calls neither is off.
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            e, g = self._by_autograd(x)
        else:
            with torch.inference_mode(False), torch.enable_grad():
                e, g = self._by_autograd(x)
        if g is None:
            raise ValueError("energy does not depend on x through differentiable operations, so it has no gradient in x")
        return e.detach().contiguous(), g.resolve_neg().contiguous()

    def _by_autograd(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_(True)
        e = self._checked(self.energy(leaf, **self.condition), x)
        if not e.requires_grad:
            raise ValueError(
                "energy returned a tensor that is detached from its input, so it has no gradient in x; remove .detach(), "
                ".item(), .numpy(), torch.no_grad() and the like from it"
            )
        if self._ones is None or self._ones.shape != e.shape or self._ones.dtype != e.dtype or self._ones.device != e.device:
            self._ones = torch.ones_like(e)
        (g,) = torch.autograd.grad(e, leaf, self._ones, allow_unused=True)
        return e, g
