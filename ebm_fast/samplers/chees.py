"""ChEES: the trajectory length of HMC, adapted across chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..engine.state import ChainState
from ..ops import checks
from .adaptation import Adaptation, Adapter

_INDICES = 1024  # numbers of the sequence made at once


@lru_cache(maxsize=8)
def _mirrored(part: int) -> list[float]:
    """The numbers from `part` * _INDICES on: an index counted from 1, its binary digits mirrored at the point."""
    index = np.arange(_INDICES) + (part * _INDICES + 1)
    value = np.zeros(_INDICES)
    for bit in range(int(index[-1]).bit_length()):
        value += (index >> bit & 1) * 0.5 ** (bit + 1)
    return value.tolist()


def halton(first: int, count: int = 1) -> list[float]:
    """van der Corput's sequence in base 2, 1/2, 1/4, 3/4, 1/8, ... for index 0, 1, ..., from index `first` on."""
    begin, at = divmod(first, _INDICES)
    if at + count <= _INDICES:
        return _mirrored(begin)[at : at + count]
    parts = range(begin, (first + count - 1) // _INDICES + 1)
    return [number for part in parts for number in _mirrored(part)][at : at + count]


@dataclass(frozen=True)
class ChEES(Adaptation):
    """T maximises E[(|x' - mean|^2 - |x - mean|^2)^2] / 4 over trajectories of length h T, h = 1/2, 1/4, 3/4, ... (Halton).

    Adapts step size and trajectory length together by what all chains of the run do, at one gradient estimate a proposal; use it
    with some dozens of chains or more. The lengths keep varying as h T after the warm-up, ceil(h T / e) steps each. During the
    warm-up the number of steps is read from the device once a proposal; afterwards nothing is.

    Args:
        target_accept: acceptance (the harmonic mean over chains) to reach; None is 0.651.
        mass: None or "diagonal", as `Adaptation`.
        max_leapfrog: bound on the steps of a trajectory.

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.

    Source: Hoffman, Radul and Sountsov 2021, eqs. 11-14 and algorithm 1.
    """

    max_leapfrog: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mass == "dense" or self.per_chain or not self.step_size:
            raise ValueError("ChEES adapts one step size across chains, with a unit or diagonal mass")
        if type(self.max_leapfrog) is not int or self.max_leapfrog < 1:
            raise ValueError(f"max_leapfrog must be an int of at least 1, got {self.max_leapfrog!r}")
        checks.number(self.max_leapfrog, "max_leapfrog", low=1)

    def bind(self, sampler: Any, state: ChainState) -> Adapter:
        if state.x.shape[0] == 1:
            raise ValueError("ChEES compares chains, and this run has one; use at least some dozens, or adapt=Adaptation()")
        return ChEESAdapter(self, sampler, state)


class ChEESAdapter(Adapter):
    needs_proposals = True

    def __init__(self, settings: ChEES, sampler: Any, state: ChainState) -> None:
        super().__init__(settings, sampler, state)
        self.target = settings.target_accept or 0.651
        self.most = settings.max_leapfrog

    def begin(self, state: ChainState) -> None:
        super().begin(state)
        extra, x = state.extra, state.x
        if "chees" not in extra:
            start = extra.get("trajectory_length", extra["step_size"].double() * self.sampler.num_leapfrog)
            extra["trajectory_length"] = start.clone()
            # log T, its average, Adam's second moment, count
            log, none = start.log(), torch.zeros_like(start)
            extra["chees"] = torch.stack((log, log, none, none))
            extra["chees_before"] = x.clone()

    def _tensors(self, transition: Any, gathers: bool) -> dict[str, Any]:
        extra = transition.state.extra
        return {
            **super()._tensors(transition, gathers), "search": extra["chees"], "length": extra["trajectory_length"],
            "before": extra["chees_before"], "proposal": transition.proposal, "momentum": transition.momentum,
            "scale": transition.scale(), "longest": self.most,
        }  # fmt: skip

    def least(self, settling: bool, chains: int) -> float:
        return 1e-10

    def _fraction(self, age: int) -> float:
        return halton(age)[0]

    def _set_mass(self, state: ChainState, transition: Any) -> None:
        """The first mass matrix changes the unit of time, and the criterion of a Gaussian has a maximum every half period: the
        search starts anew from one standard deviation, below the first of them."""
        extra = state.extra
        first = "scale" not in extra
        super()._set_mass(state, transition)
        if first:
            extra["chees"].zero_()
            extra["trajectory_length"].fill_(1.0)

    def freeze(self, transition: Any) -> None:
        extra = transition.state.extra
        extra["trajectory_length"] = extra["chees"][1].exp()
        super().freeze(transition)
