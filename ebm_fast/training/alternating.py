"""Two players in one loop: the generator's steps and then the energy's loss, as one objective that `Trainer` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.engine.run import check_count


class Alternating:
    """phi <- optimizer(phi, grad of the generator's loss), `steps` times; then the loss of the energy on the same batch.

    With `every` above 1 the generator takes its turn in iterations 0, every, 2 every, ... alone.

    `objective`: one with `generator_loss(batch)` and `generator_parameters()`, such as `FlowContrastive`; `optimizer` holds the
    latter. The energy's own optimiser is that of the loop. metrics: those of the energy, and of the generator's last step under
    names that begin with generator_. `state_dict()` holds both, so that a resumed run goes on to the same bits.
    Raises TypeError for an objective without a second player, ValueError for `steps` or `every` below 1.
    """

    def __init__(self, objective: Any, optimizer: torch.optim.Optimizer, *, steps: int = 1, every: int = 1) -> None:
        if not callable(getattr(objective, "generator_loss", None)):
            raise TypeError(
                f"objective: expected one with a generator_loss, got {type(objective).__name__}; others need no Alternating"
            )
        check_count(steps, "steps", 1)
        check_count(every, "every", 1)
        self.objective, self.optimizer, self.steps, self.every = objective, optimizer, steps, every
        self._told: dict[str, Tensor] = {}

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        for _ in range(self.steps if self.objective.iteration % self.every == 0 else 0):
            loss, told = self.objective.generator_loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self._told = {"generator_loss": loss.detach(), **{f"generator_{name}": t for name, t in told.items()}}
        loss, metrics = self.objective(batch)
        return loss, {**metrics, **self._told}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The energy's."""
        return self.objective.parameters()

    def reseed(self, draw: Callable[[int], int]) -> None:
        """After a roll-back: another seed, a function of the old one."""
        self.objective.seed = draw(self.objective.seed)

    def finish_checks(self) -> None:
        """Of the objective."""
        self.objective.finish_checks()

    def state_dict(self) -> dict[str, Any]:
        """Of the objective, and of the generator's optimiser."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "told": dict(self._told),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the one that was saved."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._told = dict(state["told"])
