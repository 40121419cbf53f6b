"""The last states of a run: checkpoints on disk, or copies in memory where there is no directory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ebm_fast.training.checkpoint import (
    complete_checkpoints,
    delete_checkpoint,
    load_checkpoint,
    number_of,
    save_checkpoint,
)


class Snapshots:
    """The last `keep` states, by their iteration: `directory/iteration-N/`, or a list in memory."""

    def __init__(self, directory: Path | None, keep: int) -> None:
        self.directory, self.keep = directory, keep
        self._memory: list[dict[str, Any]] = []

    def save(self, state: dict[str, Any]) -> Path | None:
        """Keep `state`, whose entry "iteration" names it, and let the oldest go; returns its directory."""
        if self.directory is None:
            self._memory = [*self._memory, copy.deepcopy(state)][-self.keep :]
            return None
        path = save_checkpoint(self.directory / f"iteration-{state['iteration']}", state)
        self.prune()
        return path

    def prune(self) -> None:
        """Delete the oldest checkpoints; one too many is there where a run was killed before it did."""
        if self.directory is not None:
            for old in complete_checkpoints(self.directory)[: -self.keep]:
                delete_checkpoint(old)

    def latest(self) -> dict[str, Any] | None:
        """A copy of the last state; None where there is none."""
        if self.directory is None:
            return copy.deepcopy(self._memory[-1]) if self._memory else None
        found = complete_checkpoints(self.directory)
        return load_checkpoint(found[-1]) if found else None

    def drop_after(self, iteration: int) -> None:
        """Forget checkpoints of later iterations, which another process had not written yet when the run was stopped.

        Raises FileNotFoundError where that of this iteration is not among those left.
        """
        if self.directory is None:
            return
        for path in complete_checkpoints(self.directory):
            if number_of(path) > iteration:
                delete_checkpoint(path)
        if not any(number_of(path) == iteration for path in complete_checkpoints(self.directory)):
            raise FileNotFoundError(f"{self.directory}: expected the checkpoint of iteration {iteration}, which others have")

    def drop_latest(self) -> None:
        """Forget the last state where it is not the only one."""
        if self.directory is None:
            self._memory = self._memory[:-1] or self._memory
            return
        found = complete_checkpoints(self.directory)
        if len(found) > 1:
            delete_checkpoint(found[-1])
