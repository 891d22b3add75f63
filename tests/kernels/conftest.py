"""Memory that nobody wrote is not a number: an element that an operator forgets fails the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    # torch then fills what `empty`, `empty_like` and their kin return with NaN.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
