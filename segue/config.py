"""Reads a TOML file into frozen dataclasses. Unknown keys are errors; values are never adjusted.

Each component declares its section as a dataclass in its own `config.py`; this module reads a
section into it. `describe` prints the values in effect as TOML that can be read back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from segue.api.errors import InvalidConfig

SECTIONS = (
    *("cluster", "checkpoint", "gateway", "router", "security"),
    *("engine", "prefill", "decode", "transfer", "autoscale"),
)
"""Every section that a file may have. A process reads its own, and only checks others' names."""

Section = TypeVar("Section")


class FileSections(dict[str, Any]):
    """The sections of a file."""

    def __init__(self, sections: Mapping[str, Any], origin: str) -> None:
        """`origin`: the file's name, for errors."""
        super().__init__(sections)
        self.origin = origin


@contextlib.contextmanager
def naming(sections: Mapping[str, Any]) -> Iterator[None]:
    """An InvalidConfig about the sections names their file, if they are those of a file."""
    try:
        yield
    except InvalidConfig as error:
        if isinstance(sections, FileSections):
            raise InvalidConfig(f"{sections.origin}: {error}") from None
        raise


def read_file(path: Path | None) -> Mapping[str, Any]:
    """The sections of a TOML file. No file means all defaults."""
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidConfig(f"cannot read configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is not valid TOML: it is not UTF-8 ({error})") from None
    return read_text(text, str(path))


def read_text(text: str, origin: str) -> Mapping[str, Any]:
    """The sections of a TOML text. Raises InvalidConfig, naming `origin`."""
    try:
        sections = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{origin} is not valid TOML: {error}") from None
    for name, value in sections.items():
        if name in SECTIONS and not isinstance(value, dict):
            raise InvalidConfig(f"{origin}: [{name}] must be a section, got {value!r:.80}")
        if name not in SECTIONS:
            raise InvalidConfig(
                f"{origin}: unknown section {name!r}; a file has the sections {', '.join(SECTIONS)}"
            )
    return FileSections(sections, origin)


def section(sections: Mapping[str, Any], name: str, cls: type[Section]) -> Section:
    """Section `name` as a `cls`. Raises InvalidConfig for unknown keys and wrong values."""
    with naming(sections):
        return _section(sections, name, cls)


def _section(sections: Mapping[str, Any], name: str, cls: type[Section]) -> Section:
    given = sections.get(name, {})
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a dataclass by contract
    for key, value in given.items():
        if key not in known:
            raise InvalidConfig(f"[{name}] has no {key!r}; it has {', '.join(sorted(known))}")
        _check_type(f"[{name}] {key}", value, hints[key])
    try:
        return cls(**{key: float(v) if hints[key] is float else v for key, v in given.items()})
    except ValueError as error:
        raise InvalidConfig(f"[{name}] {error}") from None


_IN_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _allowed(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _allowed(part))
    return (int, float) if hint is float else (hint,)


def _check_type(where: str, value: object, hint: Any) -> None:
    allowed = _allowed(hint)
    # Python's bool is an int, but a configuration file must not mix the two.
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        wanted = " or ".join(dict.fromkeys(_IN_WORDS.get(kind, kind.__name__) for kind in allowed))
        raise InvalidConfig(f"{where} must be {wanted}, got {value!r}")
    # Times and rates: no comparison with nan is true, so nothing after this would refuse it.
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidConfig(f"{where} must be a finite number, got {value}")


def describe(sections: Mapping[str, object]) -> str:
    """Dataclasses by section name, as TOML that reads back to the same values."""
    return tomli_w.dumps(
        {name: dataclasses.asdict(value) for name, value in sections.items()}  # type: ignore[call-overload]  # dataclasses by contract
    )
