"""What objectives without chains share: a seed and a counter of iterations, from which their random numbers follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.objectives.finite import FiniteCheck
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.saved import Saved
from ebm_fast.ops import checks


class CountedObjective(Saved):
    """Seed, iteration, finiteness checks, the energies of one joint batch, parameters, exact resume.

    `num_noise`: noise samples a datum; datum i of a batch has those of the chain indices (chain_offset + i) num_noise and
    following. `seed`: 64 bits; None draws one from torch's generator. A non-finite batch or energy raises FloatingPointError
    naming it; on CUDA this comes an iteration or so late, because nothing waits for the device, unless `check=True`.
    """

    _settings: ClassVar[tuple[str, ...]] = ("num_noise",)

    def __init__(
        self,
        energy: Callable[..., Tensor],
        num_noise: int,
        *,
        seed: int | None,
        chain_offset: int,
        check: bool,
    ) -> None:
        if not callable(energy) or isinstance(energy, type):
            raise TypeError(f"energy: expected a callable (n, *event) -> (n,), got {energy!r}")
        check_count(num_noise, "num_noise", 1)
        seed = ops.fresh_seed() if seed is None else seed
        checks.counter(seed, 0, chain_offset, None, torch.empty(1, device="meta"))
        self.energy, self.num_noise = energy, num_noise
        self.seed, self.chain_offset = seed, chain_offset
        self.iteration = 0
        self._require_finite = FiniteCheck(check)

    def _energies(self, states: Tensor, y: Tensor | None, parts: list[int]) -> list[Tensor]:
        """E of several batches in one pass, in float32 or wider; labels y go with the states."""
        energies = self.energy(states) if y is None else self.energy(states, y=y)
        if not isinstance(energies, Tensor) or tuple(energies.shape) != (len(states),):
            got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
            raise ValueError(f"energy: expected one energy a state, ({len(states)},), got {got}")
        return list(wide(energies).split(parts))

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser is to train: the energy's parameters, where it is a module, and the objective's own."""
        if isinstance(self.energy, nn.Module):
            yield from self.energy.parameters()

    def finish_checks(self) -> None:
        """Wait for the finiteness checks still under way on CUDA; FloatingPointError where one fails."""
        self._require_finite.finish()
