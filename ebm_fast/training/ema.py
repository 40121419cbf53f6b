"""Exponential moving average of a module's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.ops import checks


class EMA:
    """avg <- d_t avg + (1 - d_t) theta, with d_t = min(decay, (1 + t) / (10 + t)) in the t-th update when `warmup`.

    The average starts as a copy of the parameters; the warm-up (Abadi et al., TensorFlow's
    ExponentialMovingAverage) makes it forget that start quickly. All parameters are updated by one fused call, with
    no host synchronisation. Buffers (running statistics) are not averaged. Raises ValueError for a decay outside
    [0, 1) and for a module or a state with other parameters.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0.0 <= checks.number(decay, "decay") < 1.0:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {decay}")
        self.module, self.decay, self.warmup = module, decay, warmup
        self.num_updates = 0
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}
        if not self.average:
            raise ValueError(
                f"module: expected a module with parameters, got {type(module).__name__} without any"
            )

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters into the average."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.average.values()), self._parameters(self.module), 1.0 - decay)
        self.num_updates += 1

    @torch.no_grad()
    def swap(self, module: nn.Module | None = None) -> None:
        """Exchange average and parameters in place, so that captured graphs and optimisers keep their tensors."""
        averages, parameters = (
            list(self.average.values()),
            self._parameters(self.module if module is None else module),
        )
        kept = [p.clone() for p in parameters]
        torch._foreach_copy_(parameters, averages)
        torch._foreach_copy_(averages, kept)
        torch.clear_autocast_cache()  # of the weights before, within an autocast block

    @contextmanager
    def applied_to(self, module: nn.Module | None = None) -> Iterator[None]:
        """Within the block `module` (by default the averaged one) holds the averaged parameters."""
        self.swap(module)
        try:
            yield
        finally:
            self.swap(module)

    def _parameters(self, module: nn.Module) -> list[Tensor]:
        parameters = {name: p.detach() for name, p in module.named_parameters()}
        _require_same(self.average, parameters, "module")
        return [parameters[name] for name in self.average]

    def state_dict(self) -> dict[str, Any]:
        """Copies of the averages by parameter name, and the number of updates."""
        return {"num_updates": self.num_updates, "average": {name: t.clone() for name, t in self.average.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy a state of a module with the same parameters."""
        checks.entries(state, "num_updates", "average")
        _require_same(self.average, state["average"], "state")
        torch._foreach_copy_(list(self.average.values()), [state["average"][name] for name in self.average])
        self.num_updates = int(state["num_updates"])


def _require_same(expected: dict[str, Tensor], found: dict[str, Tensor], argument: str) -> None:
    wanted, came = ({name: tuple(t.shape) for name, t in d.items()} for d in (expected, found))
    if wanted != came:
        difference = sorted(
            name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name)
        )
        raise ValueError(
            f"{argument}: expected parameters with the averaged names and shapes; "
            + "; ".join(f"{name}: {wanted.get(name)} here, {came.get(name)} there" for name in difference[:5])
        )
