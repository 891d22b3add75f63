"""The project's dependencies, from `pyproject.toml`."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"[\w.-]+")


def required(extra: str = "") -> set[str]:
    """The distributions of an extra, or the base ones, without their own requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return _names(listed)


@functools.cache
def blocked_without_extras() -> frozenset[str]:
    """Top-level modules that are installed here, but not with only the base dependencies."""
    installed = with_dependencies(required()) | {"segue"}
    return frozenset(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {_normal(owner) for owner in owners} & installed
    )


def with_dependencies(names: Iterable[str]) -> set[str]:
    """The distributions and all that they require, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            # For another system or an older Python.
            continue
        waiting += _names(line for line in requirements if "extra ==" not in line)
    return found


def _names(requirements: Iterable[str]) -> set[str]:
    return {_normal(found[0]) for line in requirements if (found := _NAME.match(line))}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
