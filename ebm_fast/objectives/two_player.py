"""What objectives with a second player share: whose turn it is, draws, energies that pass no gradient to their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.objectives.contrastive import Batch, _split
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.improved import frozen_energy
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.players import Draw, as_player
from ebm_fast.objectives.saved import require_fits
from ebm_fast.ops import checks

GENERATOR_TURN = 1 << 55  # added to the steps of the generator's turns, half of the range of a counter's step


class TwoPlayerObjective(CountedObjective):
    """An energy and a generator, each with a loss: `objective(batch)` and `objective.generator_loss(batch)`.

    `parameters()` are the energy's (and log Z), `generator_parameters()` the generator's; neither loss has a gradient in
    the other's. An energy that is no torch module must hold no parameters of its own. Call the two in any order, as
    often as the recipe says: each counts its own iterations, and no two calls share random numbers.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        generator: Any,
        *,
        num_noise: int = 1,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(energy, num_noise, seed=seed, chain_offset=chain_offset, check=check)
        self.generator = as_player(generator)
        self.generator_iteration = 0

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss, and metrics."""
        raise NotImplementedError

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """What the generator's optimiser is to train."""
        return self.generator.parameters()

    def _counter(self, for_generator: bool) -> dict[str, int]:
        """Seed, step and first chain index of one player's turn."""
        step = GENERATOR_TURN + self.generator_iteration if for_generator else self.iteration
        return {"seed": self.seed, "step": step, "chain_offset": self.chain_offset * self.num_noise}

    def _draw(self, n: int, like: Tensor | None, *, for_generator: bool = False, density: bool = False) -> Draw:
        """n samples for one player's turn; `density`: whether log q of them alone will be asked for."""
        draw = (self.generator.draw_with_density if density else self.generator.draw)(n, **self._counter(for_generator))
        x = draw.x
        if like is not None and (
            x.shape[1:] != like.shape[1:] or x.dtype != like.dtype or x.device != like.device
        ):
            raise ValueError(
                f"generator: expected samples like the batch, {like.dtype} {tuple(like.shape[1:])} on {like.device}, "
                f"got {x.dtype} {tuple(x.shape[1:])} on {x.device}"
            )
        if for_generator and torch.is_grad_enabled() and not x.requires_grad:
            raise ValueError(
                "generator: its samples carry no gradient; expected parameters that require one, and reparametrised "
                "samples (rsample)"
            )
        return draw

    def _frozen_energies(self, states: Tensor, parts: list[int]) -> list[Tensor]:
        """As `_energies`, with a gradient in the states alone."""
        if not isinstance(self.energy, nn.Module):
            return self._energies(states, None, parts)
        energies = frozen_energy(self.energy, states, {})
        if tuple(energies.shape) != (len(states),):
            raise ValueError(
                f"energy: expected one energy a state, ({len(states)},), got {tuple(energies.shape)}"
            )
        return list(wide(energies).split(parts))

    def state_dict(self) -> dict[str, Any]:
        """Seed, both iterations, and the generator."""
        generator = {name: t.detach().clone() for name, t in self.generator.state_dict().items()}
        return {
            **super().state_dict(),
            "generator_iteration": self.generator_iteration,
            "generator": generator,
        }

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "generator_iteration", "generator")
        require_fits(self.generator, state["generator"], "the generator")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.generator_iteration = int(state["generator_iteration"])
        self.generator.load_state_dict(state["generator"])


def states_alone(batch: Batch) -> Tensor:  # (n, *event)
    """The states of a batch; ValueError where it has labels, of which the generator would know nothing."""
    data, y = _split(batch)
    if y is not None:
        raise ValueError("batch: expected states x alone, because the generator has no labels; got (x, y)")
    return data
