"""Flat arguments of an op by name, as its reference takes them, every tensor inside poisoned memory."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from ebm_fast.ops.backend import implementation

STREAM = {"purpose": 7, "seed": -3 << 50, "step": (5 << 32) + 9, "chain_offset": 2**32 - 1001}
NUMBERS = {
    "step_size": 0.1, "noise_std": 0.3, "momentum": 0.0, "prior_precision": 0.0, "grad_clip": math.inf, "step_lo": -math.inf,
    "step_hi": math.inf, "noise_lo": -math.inf, "noise_hi": math.inf, "kick": 0.15, "drift": 0.3, "persistence": 0.0,
    "fresh": 1.0, "kicks": 1, "beta": 0.8, "max_error": 1.0, "parity": 0, "count": 3, "kind": 2, "stretch": 1.2,
    "heavy_ball": 0.0, "grad_clip_norm": math.inf, "kinetic": False, "sigma": 0.3, "size": 37, "rate": 0.4, "shift": -1.0,
    "spread": 2.0, "coin": 5,
}  # fmt: skip
WRITTEN_ONLY = {"propose_": ("proposal", "kinetic", "momentum"), "noise_": ("out",), "perturb_": ("out", "noise"),
                "randperm_": ("out",), "gather_": ("out", "fresh")}  # fmt: skip
MORE = 6  # rows of a buffer beyond those that are drawn


class Guarded:
    """A poisoned tensor with poisoned memory on both sides, which must stay as it is."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: str, shift: int = 0) -> None:
        n = math.prod(shape)
        self.margin = 16 + shift
        self.poison = math.nan if dtype.is_floating_point else -77
        self.memory = torch.full((n + 64,), self.poison, device=device).to(dtype)
        self.tensor = self.memory[self.margin : self.margin + n].view(shape)

    def filled(self, value: Tensor) -> Tensor:
        return self.tensor.copy_(value)

    def assert_margins_untouched(self) -> None:
        n = self.tensor.numel()
        outside = torch.cat((self.memory[: self.margin], self.memory[self.margin + n :]))
        poison = torch.full((), self.poison).to(outside.dtype)
        assert (outside.isnan() if outside.is_floating_point() else outside == poison).all()


class Arguments:
    """Arguments of `op`, drawn by a fixed seed, the same for every backend and device.

    `form` names what differs from the least: tensors that are given (True; "0" or "n" for a coefficient on the device, a dtype
    for `active`, "x" for the memory of x, "read" for what else would only be written and is left poisoned, of `x` how many copies
    of a datum are made) and numbers (STREAM's, too). On the device "meta" they have no values.
    """

    def __init__(self, op: str, shape: tuple[int, ...], dtype: torch.dtype, device: str, form: dict[str, Any],
                 shift: int = 0) -> None:  # fmt: skip
        form = dict(form)
        self.op, self.shape, self.dtype, self.device, self.shift = op, shape, dtype, device, shift
        self.generator = torch.Generator().manual_seed(5)
        self.drawn_on = "meta" if device == "meta" else "cpu"
        self.guards: dict[str, Guarded] = {}
        self.values: dict[str, Any] = {}
        for name, parameter in inspect.signature(implementation(op, "reference")).parameters.items():
            given = form.pop(name, parameter.annotation == "Tensor" or None)
            if "Tensor" not in parameter.annotation:
                self.values[name] = (NUMBERS | STREAM)[name] if given is None else given
            else:
                self.values[name] = None if given is None else self.tensor(name, given)
        assert not form, f"{op} has no {form}"

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device=self.drawn_on)

    def positive(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64, device=self.drawn_on) + 0.5

    def tensor(self, name: str, given: Any) -> Tensor:
        n, chain = self.shape[:1], self.shape[:2] if self.op == "swap_" else self.shape[:1]
        arithmetic = torch.float64 if self.dtype == torch.float64 else torch.float32
        shape, dtype, value = self.shape, self.dtype, None
        if given == "x":
            return self.values["x"]
        if name == "rng":
            return torch.tensor([STREAM["seed"], STREAM["step"] - 5], device=self.device)
        if name == "count_at":
            return torch.tensor(7, device=self.device)
        if name == "active":
            shape, dtype, value = n, given, self.positive(n) < 1.0
        elif name == "divergence_step":
            shape, dtype, value = n, torch.int64, torch.where(self.positive(n) < 1.3, -1, 3)
        elif name == "betas":
            shape, dtype, value = chain[1:], torch.float64, 1.0 / torch.arange(1.0, 1.0 + chain[1])
        elif name == "labels":
            shape, dtype, value = chain, torch.int64, torch.arange(math.prod(chain)).view(chain)
        elif name == "counters":
            shape, dtype = ((n[0], chain[1] - 1, 2) if self.op == "swap_" else (*n, 5)), torch.float64
        elif name == "scale":
            shape, dtype, value = self.shape[1:], arithmetic, self.positive(self.shape[1:])
        elif name == "factor":  # nothing below its diagonal is used
            d = math.prod(self.shape[1:])
            below = torch.ones((d, d), device=self.drawn_on).tril(-1) > 0
            shape, dtype, value = (d, d), arithmetic, (self.normal((d, d)) / d**0.5).masked_fill_(below, math.nan)
        elif name.endswith("_at") or name == "grad_scale":
            shape, dtype = (() if given == "0" else n), arithmetic
            value = 0.2 * self.positive(shape)
        elif name in ("kinetic", "log_ratio", "norm_sum"):
            shape, dtype, value = n, torch.float64, self.normal(n)
            if name == "kinetic" and self.values.get("momentum") is not None:  # so that K - K' is of order one
                value += 0.5 * self.values["momentum"].to(value).double().reshape(*n, -1).square().sum(1)
        elif name in ("energy", "proposal_energy"):
            shape, dtype = chain, arithmetic
        elif name in ("source", "target", "rows"):
            shape = (3 if name == "rows" else self.shape[0] + MORE, *self.shape[1:])
        elif name == "slots":  # all different, the last first
            shape, dtype, value = n, torch.int64, torch.arange(n[0]).flip(0) + MORE // 2
        elif name in ("index", "group"):
            shape, dtype, value = n, torch.int64, torch.arange(n[0]) * 7 % (5 if name == "group" else 1000)
        elif name == "fresh":
            shape, dtype = n, torch.bool
        elif self.op == "randperm_":
            dtype = torch.int64
        elif self.op == "perturb_" and name == "x":
            shape = (self.shape[0] // given, *self.shape[1:])
        guard = self.guards[name] = Guarded(shape, dtype, self.device, self.shift)
        if name not in WRITTEN_ONLY.get(self.op, ()) or given == "read":
            guard.filled(self.normal(shape) if value is None else value)
        return guard.tensor
