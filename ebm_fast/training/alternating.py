"""Two players in one loop: the second player's steps and then the first one's loss, as one objective that `Trainer` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.engine.run import check_count
from ebm_fast.ops import checks
from ebm_fast.training import distributed
from ebm_fast.training.parts import held_by, load_all, require_step, second_player


class Alternating:
    """phi <- optimizer(phi, grad of the second player's loss), `steps` times; then the loss of the energy on the same batch.

    With `every` above 1 the second player takes its turn in iterations 0, every, 2 every, ... alone, and under torch.no_grad() it
    takes none.

    `objective`: one with `generator_loss(batch)` and `generator_parameters()`, such as `FlowContrastive`, or with
    `score_loss(batch)` and `score_parameters()`, such as `ImplicitVAE`; `optimizer` holds the latter. The first player's own
    optimiser is that of the loop. metrics: those of the first, and of the second player's last step under names that begin
    with generator_ or score_. `state_dict()` holds both, so that a resumed run goes on to the same bits.
    Raises TypeError for an objective without a second player, ValueError for `steps` or `every` below 1.
    """

    def __init__(self, objective: Any, optimizer: torch.optim.Optimizer, *, steps: int = 1, every: int = 1) -> None:
        player = second_player(objective)
        if player is None:
            raise TypeError(
                f"objective: expected one with a generator_loss or score_loss, got {type(objective).__name__}; others need no "
                "Alternating"
            )
        self._loss, _, self._prefix = player
        require_step("optimizer", optimizer)
        check_count(steps, "steps", 1)
        check_count(every, "every", 1)
        self.objective, self.optimizer, self.steps, self.every = objective, optimizer, steps, every
        self._told: dict[str, Tensor] = {}

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        # A look without gradients moves nobody.
        turn = torch.is_grad_enabled() and self.objective.iteration % self.every == 0
        for _ in range(self.steps if turn else 0):
            loss, told = getattr(self.objective, self._loss)(batch)
            self.optimizer.zero_grad()
            loss.backward()
            averaged = distributed.in_parallel(self.objective)
            distributed.average_gradients(p for p in held_by([self.optimizer]) if id(p) not in averaged)
            self.optimizer.step()
            torch.clear_autocast_cache()  # of the weights before the step, which would serve until the autocast block ends
            named = {name if name.startswith(self._prefix) else self._prefix + name: t for name, t in told.items()}
            self._told = {self._loss: loss.detach(), **named}
        loss, metrics = self.objective(batch)
        return loss, {**metrics, **self._told}

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Those that are stepped here."""
        return (self.optimizer,)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The first player's."""
        return self.objective.parameters()

    def reseed(self, draw: Callable[[int], int]) -> None:
        """After a roll-back: another seed, a function of the old one."""
        self.objective.seed = draw(self.objective.seed)

    def finish_checks(self) -> None:
        """Of the objective."""
        self.objective.finish_checks()

    def state_dict(self) -> dict[str, Any]:
        """Of the objective, and of the second player's optimiser."""
        return {
            "turns": (self.steps, self.every),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "told": dict(self._told),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the one that was saved."""
        checks.entries(state, "turns", "objective", "optimizer", "told")
        if tuple(state["turns"]) != (self.steps, self.every):
            raise ValueError(f"state: expected steps, every = {self.steps}, {self.every}, got {tuple(state['turns'])}")
        load_all({"objective": self.objective, "optimizer": self.optimizer}, state)
        self._told = dict(state["told"])
