"""A multilayer perceptron as energy, whose whole chains run in native code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.utils.parametrize
from torch import Tensor, nn

from ..ops.chain import PRECISIONS
from ..ops.rounding import round_gradient, rounded
from .base import Summable, dimension
from .descriptor import Descriptor

ACTIVATIONS = ("tanh", "silu", "relu", "leaky_relu", "softplus", "gelu")  # numbered as in csrc/core/energies/mlp.h


class MLPEnergy(Summable, nn.Module):
    """E(x) = w . h_H + b, h_l = act(W_l h_{l-1} + b_l), h_0 = x flattened.

    An ordinary trainable module: `forward` is differentiable in x and in the parameters. `ebm_fast.sample` and `langevin_` run
    its chains in native code on float32 states (strategy "fused"); the weights are read at every call, so nothing has to be
    rebuilt between steps of an optimiser.

    Args:
        dim: numbers in an event (1 to 1024), or the event's shape.
        widths: widths (1 to 512) of the 1 to 4 hidden layers.
        activation: "tanh", "silu", "relu", "leaky_relu", "softplus" or "gelu" (the exact one, with erf).
        negative_slope: of "leaky_relu".
        precision: of the matrix products. "float32" (whole chains on a GPU: three products of tf32 parts, 2e-6 of the
            gradient's norm); "tf32", a hint to native code on GPUs with such units, computed in float32
            everywhere else; "bfloat16": z_l = W~_l h~_{l-1} + b_l, where ~ means rounded to bfloat16 (to nearest, ties to even)
            and h~_0 = x is not, and backwards d_H = (w act'(z_H))~, d_l = (act'(z_l) W~'_{l+1} d_{l+1})~, grad E = W~'_1 d_1;
            all sums are float32. Parameters stay float32, and their gradients are those of mixed precision. The gradient is that
            of E up to the roundings of d: samplers with a Metropolis step still leave exp(-E) invariant.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Descriptor: `mlp`.
    """

    def __init__(
        self, dim: int | tuple[int, ...], widths: Sequence[int] = (128, 128), activation: str = "tanh", *,
        negative_slope: float = 0.01, precision: str = "float32",
    ) -> None:  # fmt: skip
        super().__init__()
        self.event_shape = tuple(dimension(d, "dim") for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
        self.dim = math.prod(self.event_shape)
        if isinstance(widths, (str, bytes)) or not isinstance(widths, Sequence):
            raise TypeError(f"widths must be those of 1 to 4 hidden layers, such as (128, 128), got {widths!r}")
        self.widths = tuple(dimension(w, "widths") for w in widths)
        if not 1 <= len(self.widths) <= 4 or max(self.widths) > 512:
            raise ValueError(f"widths must be those of 1 to 4 hidden layers, each at most 512, got {self.widths}")
        if self.dim > 1024:
            raise ValueError(f"dim must be at most 1024, got {self.dim}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.activation, self.negative_slope, self.precision = activation, float(negative_slope), precision
        sizes = (self.dim, *self.widths, 1)
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """E(x)."""
        h = x.flatten(1)
        if h.shape[1] != self.dim:
            flat = f" or (n, {self.dim})" if len(self.event_shape) > 1 else ""
            shape = ", ".join(map(str, ("n", *self.event_shape)))
            raise ValueError(f"x must have shape ({shape}){flat} for this MLPEnergy, got {tuple(x.shape)}")
        if self.precision == "bfloat16":
            return self._rounded(h)
        last: nn.Module = self.layers[-1]
        for layer in self.layers[:-1]:
            h = self._act(layer(h))
        return last(h).squeeze(1)

    def _rounded(self, h: Tensor) -> Tensor:
        layers: Any = self.layers
        *hidden, last = layers
        for k, layer in enumerate(hidden):
            z = nn.functional.linear(h if k == 0 else rounded(h), rounded(layer.weight), layer.bias)
            h = self._act(round_gradient(z))
        return last(h).squeeze(1)

    def _act(self, z: Tensor) -> Tensor:
        if self.activation == "leaky_relu":
            return nn.functional.leaky_relu(z, self.negative_slope)
        function: Callable[[Tensor], Tensor] = getattr(torch if self.activation == "tanh" else nn.functional, self.activation)
        return function(z)

    def descriptor(self) -> Descriptor:
        """Activation, widths and packed float32 weights, as they are now.

        Raises ValueError where the layers are not the plain ones that native code computes: replaced, hooked, not of float32, or
        parametrised in training mode, where each look at a weight may change it.
        """
        sizes = (self.dim, *self.widths, 1)
        with torch.no_grad():
            parts: list[Any] = []
            for number, layer in enumerate(self.layers):
                reason = _not_plain(layer, sizes[number], sizes[number + 1])
                if reason:
                    raise ValueError(f"layer {number} of the MLPEnergy {reason}, which native code does not know")
                parts += [layer.weight.reshape(-1), layer.bias]  # type: ignore[operator]
            slope = parts[0].new_full((1,), self.negative_slope)
            parameters = torch.cat([slope, *parts])
        integers = (ACTIVATIONS.index(self.activation), len(self.widths), *self.widths)
        return Descriptor("mlp", self.dim, integers, parameters, precision=self.precision)

    def extra_repr(self) -> str:
        parts = f"event_shape={self.event_shape}, widths={self.widths}, activation={self.activation!r}"
        return parts if self.precision == "float32" else f"{parts}, precision={self.precision!r}"


def _not_plain(layer: nn.Module, columns: int, rows: int) -> str:
    """What makes a layer another function than x W' + b of its own weight and bias; empty if nothing does."""
    if type(layer) is nn.Linear and "forward" not in vars(layer) and not (layer._forward_hooks or layer._forward_pre_hooks):
        own = layer._parameters  # looked at without the detours of nn.Module: this is done in each call
        weight, bias = own.get("weight"), own.get("bias")
        if weight is not None and bias is not None and weight.dtype is torch.float32 and weight.shape == (rows, columns):
            return ""
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward or "forward" in vars(layer):
        return f"is a {type(layer).__name__} and no plain Linear"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "has forward hooks (such as those of the older spectral_norm, or of prune)"
    if nn.utils.parametrize.is_parametrized(layer) and layer.training:
        return "is parametrised and in training mode, where its weight may change at each look (call eval() to sample)"
    if layer.bias is None or tuple(layer.weight.shape) != (rows, columns):
        return f"has no bias or a weight of another shape than {(rows, columns)}"
    if layer.weight.dtype is not torch.float32:
        return f"has weights of dtype {str(layer.weight.dtype).removeprefix('torch.')}, not float32"
    return ""
