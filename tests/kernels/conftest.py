"""Memory that nobody wrote is not a number: an element that an operator forgets fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from segue.kernels import dispatch
from segue.kernels.native import library
from tests.kernels import interpreter

# What the mode below asks of matrix products on a GPU, before the first of them.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if not torch.cuda.is_available():
    interpreter.speed_up()


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    # torch then fills what `empty`, `empty_like` and their kin return with NaN.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["native", "reference"])
def cpu_operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's test runs with its C++ and with its reference."""
    if request.param == "reference":
        monkeypatch.setattr(dispatch, "takes_native", lambda x: False)
    elif library.loaded() is None:
        pytest.skip("there is no C++ compiler, or SEGUE_CPU_OPERATORS asks for the reference")
