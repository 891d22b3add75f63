"""Typed access to a checkpoint's JSON files, with errors that name the key and the value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from segue.api.errors import InvalidCheckpoint

Json: TypeAlias = Mapping[str, object]
Number = TypeVar("Number", int, float)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidCheckpoint(message)


def read_object(path: Path) -> Json:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidCheckpoint(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidCheckpoint(f"{path} must hold a JSON object, got {type(parsed).__name__}")
    return parsed


def section(config: Json, key: str) -> Json:
    """The object under `key`; empty if it is missing or null."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{key} must be an object, got {value!r}")
    return value


def number(config: Json, key: str, kind: type[Number], default: Number | None = None) -> Number:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidCheckpoint(f"{key} must be a number, got {value!r}")
    require(kind(value) == value, f"{key} must be of type {kind.__name__}, got {value!r}")
    return kind(value)


def positive(config: Json, key: str, default: int | None = None) -> int:
    value = number(config, key, int, default)
    require(value >= 1, f"{key} must be >= 1, got {value}")
    return value


def counted(names: Sequence[str], what: str) -> str:
    """The number of names, and the first few."""
    return f"{len(names)} {what} ({listed(names)})" if names else f"0 {what}"


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first `most` names as a readable list."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
