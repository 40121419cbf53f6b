"""Noticing that a training run diverges, and what changes before it is tried again from an earlier state."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.ops import checks


class Diverged(FloatingPointError):
    """What `DivergenceMonitor.check` raises."""


class DivergenceMonitor:
    """An iteration is bad where a number is not finite, leaves its bounds, or is far out of the range of the last iterations.

    `Trainer(monitor=...)` then returns to its last snapshot: parameters, optimiser, schedule, average, objective (buffer,
    counters). The seeds of objective and buffer and torch's generators are drawn anew, as a function of the old seeds and the
    number of the roll-back, so that the same failure is not replayed; batches go on where they are. Where the run fails again
    before its next snapshot, it goes back by one snapshot more. All of that follows from the checkpoint: a run that is killed
    and resumed rolls back where the uninterrupted one did, to the same bits.

    Args:
        max_rollbacks: how many there may be in a run; the next one ends it with a FloatingPointError that tells why.
        learning_rate_factor: what each roll-back multiplies the learning rate by, in (0, 1], and its schedule's bounds with it.
        bounds: name of a metric -> (low, high), such as {"gap": (-100, 100), "diverged": (0, 0.1)}.
        spread: how many widths beyond the range of the last `window` iterations count as far out, a width being that range or
            1, whichever is larger (a nat, which no energy starts from); infinity switches this test off.
        window: iterations that the range is taken from; the test begins when it is full.
        watch: the metrics whose range is watched; by default the loss and those named energy_...
        check_every: iterations from one look to the next. Each look waits for the device once.

    The number of iterations lost is at most that between two snapshots, `Trainer(checkpoint_every=)`. `history` holds
    (iteration, iteration returned to, reason) of every roll-back. Raises TypeError or ValueError naming the argument, in the
    first look for names in `bounds` and `watch` that are no metrics.
    """

    def __init__(
        self,
        *,
        max_rollbacks: int = 5,
        learning_rate_factor: float = 1.0,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        spread: float = 20.0,
        window: int = 100,
        watch: Sequence[str] | None = None,
        check_every: int = 1,
    ) -> None:
        check_count(max_rollbacks, "max_rollbacks", 1)
        check_count(window, "window", 2)
        check_count(check_every, "check_every", 1)
        if not 0.0 < checks.number(learning_rate_factor, "learning_rate_factor") <= 1.0:
            raise ValueError(f"learning_rate_factor: expected a number in (0, 1], got {learning_rate_factor}")
        if not checks.number(spread, "spread", infinite=True) > 0.0:
            raise ValueError(f"spread: expected a number above 0, got {spread}")
        if not isinstance(bounds, Mapping | None):
            raise TypeError(f"bounds: expected metrics by name, such as {{'gap': (-100, 100)}}, got {bounds!r}")
        if not isinstance(watch, list | tuple | None):
            raise TypeError(f"watch: expected a list of metrics' names, got {watch!r}")
        self.bounds = dict(bounds or {})
        for name, pair in self.bounds.items():
            if len(pair) != 2 or not pair[0] < pair[1]:
                raise ValueError(f"bounds: expected (low, high) with low < high for {name!r}, got {pair}")
        self.max_rollbacks, self.learning_rate_factor = max_rollbacks, learning_rate_factor
        self.spread, self.window, self.check_every = spread, window, check_every
        self.watch = None if watch is None else tuple(watch)
        self.num_rollbacks = 0
        self.history: list[tuple[int, int, str]] = []
        self._recent: dict[str, deque[float]] = {}
        self._looked = False

    def check(self, metrics: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> None:
        """Raise `Diverged`, saying what is wrong, or take the metrics into their ranges; ValueError for names it never finds."""
        values = self._read(metrics, list(parameters))
        self._require_known(values)
        wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        for name, (low, high) in self.bounds.items():
            if name in values and not low <= values[name] <= high:
                wrong.append(f"{name} is {values[name]:g}, bounds {low:g} ... {high:g}")
        watched = {name: value for name, value in values.items() if self._watches(name)}
        wrong += [found for name, value in watched.items() if (found := self._far_out(name, value))]
        if wrong:
            raise Diverged("; ".join(wrong))
        for name, value in watched.items():
            self._recent.setdefault(name, deque(maxlen=self.window)).append(value)

    def _require_known(self, values: Mapping[str, float]) -> None:
        """In the first look every name must be a metric; some are not told in every iteration."""
        for argument, names in (("bounds", self.bounds), ("watch", self.watch or ())):
            unknown = [name for name in names if name not in values]
            if unknown and not self._looked:
                raise ValueError(f"{argument}: expected some of the metrics {', '.join(values)}; got {', '.join(unknown)}")
        self._looked = True

    @staticmethod
    def _read(metrics: Mapping[str, Tensor], parameters: list[Tensor]) -> dict[str, float]:
        """The metrics, and the norms of all parameters and gradients, in one transfer from the device."""
        norms = {"parameters' norm": parameters, "gradients' norm": [p.grad for p in parameters if p.grad is not None]}
        found = dict(metrics)
        for name, tensors in norms.items():
            if tensors:
                found[name] = torch.stack([n.float() for n in torch._foreach_norm([t.detach() for t in tensors])]).norm()
        numbers = torch.stack([value.detach().double() for value in found.values()]).tolist()
        return dict(zip(found, numbers, strict=True))

    def _watches(self, name: str) -> bool:
        return name == "loss" or name.startswith("energy_") if self.watch is None else name in self.watch

    def _far_out(self, name: str, value: float) -> str:
        recent = self._recent.get(name, ())
        if len(recent) < self.window or math.isinf(self.spread):
            return ""
        low, high = min(recent), max(recent)
        reach = self.spread * max(high - low, 1.0)
        if low - reach <= value <= high + reach:
            return ""
        return f"{name} is {value:g}, after {low:g} ... {high:g} in the last {self.window} looks"

    def begin_again(self, count: int, objective: Any, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        """What changes in a state that was returned to, before the run's `count`-th new start.

        `num_rollbacks` is here that of the state: a learning rate that it has lowered already is not lowered twice.
        """
        factor = self.learning_rate_factor ** (count - self.num_rollbacks)
        optimizers = [optimizer, *getattr(objective, "optimizers", ())]  # of two players: of each
        for group in (group for each in optimizers for group in each.param_groups):
            scale_rates(group, factor)
        for part in _schedules(scheduler):
            scale_rates(getattr(part, "__dict__", {}), factor)
        reseed(objective, count)
        self.num_rollbacks = count

    def state_dict(self) -> dict[str, Any]:
        """Roll-backs so far, and the ranges."""
        recent = {name: list(values) for name, values in self._recent.items()}
        return {"num_rollbacks": self.num_rollbacks, "history": list(self.history), "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the monitor that was saved."""
        checks.entries(state, "num_rollbacks", "history", "recent")
        self.num_rollbacks = int(state["num_rollbacks"])
        self.history = [tuple(entry) for entry in state["history"]]
        self._recent = {name: deque(values, maxlen=self.window) for name, values in state["recent"].items()}


def scale_rates(settings: dict[str, Any], factor: float) -> None:
    """Multiply every learning rate of an optimiser's group or of a schedule: what is named lr, ..._lr, ..._lrs or eta_min.

    PyTorch's schedules keep bounds and starts of the rate under such names (initial_lr, max_lr, base_lrs, min_lrs, swa_lr); one
    that is left out would bring the old rate back.
    """
    for name, value in settings.items():
        if not re.fullmatch(r"(.*_)?lrs?|eta_min", name):
            continue
        if isinstance(value, list | tuple):
            settings[name] = type(value)(rate * factor for rate in value)
        elif isinstance(value, int | float | Tensor):
            settings[name] = value * factor  # a new tensor where the rate is one


def _schedules(scheduler: Any) -> list[Any]:
    """A schedule and those it is made of, as SequentialLR and ChainedScheduler are."""
    if scheduler is None:
        return []
    return [scheduler, *(part for each in getattr(scheduler, "_schedulers", ()) for part in _schedules(each))]


def reseed(objective: Any, count: int) -> None:
    """New seeds for the objective, its buffer and torch's generators, each a function of the old one and `count`.

    An objective with a method `reseed(draw)` is asked to do it by itself: `draw(seed)` gives the new seed for an old one.
    """

    def draw(seed: int) -> int:
        words = torch.empty(1, 2, dtype=torch.int32, device="cpu")
        ops.bits_(words, seed=seed, step=count, purpose="rollback")
        high, low = (word & 0xFFFFFFFF for word in words[0].tolist())
        return high << 32 | low

    torch.manual_seed(draw(ops.fresh_seed()))
    if hasattr(objective, "reseed"):
        objective.reseed(draw)
        return
    parts: list[Any] = [objective, getattr(objective, "buffer", None)]
    for part in parts:
        if isinstance(getattr(part, "seed", None), int):
            part.seed = draw(part.seed)
