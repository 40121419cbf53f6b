"""A training run that Ctrl-C ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ebm_fast.training import Trainer


@contextmanager
def stopped_at(iteration: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, a trainer is interrupted in the step that follows `iteration` whole ones."""
    step = Trainer._step

    def stop(self, batch):
        if self.iteration == iteration:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        yield
