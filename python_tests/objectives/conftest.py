"""Tensors of these tests are made on the device under test; small ones need one thread, and more only wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ebm_fast.objectives.finite import FiniteCheck


@pytest.fixture(autouse=True)
def _on_device(device: str, _same_start: None) -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.device(device):
        yield


@pytest.fixture(autouse=True)
def _waits_for_answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not finite is told by the call that sees it, also on a GPU; tests marked `cuda` have the answers come later."""
    if request.node.get_closest_marker("cuda"):
        return
    call = FiniteCheck.__call__

    def call_and_wait(self: FiniteCheck, **tensors: Tensor) -> None:
        call(self, **tensors)
        self.finish()

    monkeypatch.setattr(FiniteCheck, "__call__", call_and_wait)
