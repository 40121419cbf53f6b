"""The nets of these tests are small: one thread is fastest, and its sums are the same on every machine."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    torch.set_num_threads(1)
