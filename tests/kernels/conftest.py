"""Memory that nobody wrote is not a number: an element that an operator forgets fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# What the mode below asks of matrix products on a GPU, before the first of them.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    # torch then fills what `empty`, `empty_like` and their kin return with NaN.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
