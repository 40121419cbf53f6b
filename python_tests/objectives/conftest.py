"""Tensors of these tests are made on the device under test; small ones need one thread, and more only wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_device(device: str, _same_start: None) -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.device(device):
        yield
