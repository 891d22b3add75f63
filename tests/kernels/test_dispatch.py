"""Kernels and references take the same arguments: one call serves both."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import segue.kernels

FOLDER = Path(segue.kernels.__file__).parent
OPERATORS = [
    (path.parent.name, *found)
    for path in sorted(FOLDER.glob("*/__init__.py"))
    for found in re.findall(
        r'^(\w+) = dispatch\.operator\(reference\.\1, "(\w+)"', path.read_text(), re.M
    )
]


@pytest.mark.parametrize(("folder", "name", "module"), OPERATORS)
def test_a_kernel_takes_its_references_arguments(folder: str, name: str, module: str) -> None:
    reference = parameters(f"segue.kernels.{folder}.reference", name)
    kernel = parameters(f"segue.kernels.{folder}.{module}", name)

    assert kernel[: len(reference)] == reference
    assert all(one.default is not one.empty for one in kernel[len(reference) :])


def parameters(module: str, name: str) -> list[inspect.Parameter]:
    function = getattr(importlib.import_module(module), name)
    return list(inspect.signature(function).parameters.values())


def test_there_are_operators() -> None:
    assert len(OPERATORS) >= 17
