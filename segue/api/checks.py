"""Checks of values, with uniform error messages: each raises InvalidRequest, or returns.

For `__post_init__`s, and for the code that turns messages into values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence, Sized
from numbers import Integral, Real
from typing import TypeVar

from segue.api.errors import InvalidRequest

MAX_NAME_CHARS = 256
MAX_SESSION_CHARS = 2 * MAX_NAME_CHARS
"""For a session's name after its tenant's; a client's own name has at most `MAX_NAME_CHARS`."""
MAX_EPOCH = 2**63 - 1
MAX_COUNT = 10**12
"""Larger than any real count of tokens, pages, or KiB of a handoff."""

_ADDRESS = re.compile(r"[A-Za-z0-9._:%\[\]-]{1,255}:[0-9]{1,5}")

_KINDS: dict[type, str] = {
    type(None): "None",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a tuple",
    dict: "a dictionary",
    set: "a set",
}

Wire = TypeVar("Wire")
Value = TypeVar("Value")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def what_came(value: object) -> str:
    """A value of the wrong type as an error quotes it: its type in words, and its start."""
    if value is None:
        return "None"
    # Of these only: arrays have no truth value.
    if isinstance(value, str | list | tuple | dict | set) and not value:
        return f"an empty {kind_of(value).partition(' ')[2]}"
    return f"{kind_of(value)}, {value!r:.80}"


def how_much(value: object) -> str:
    """A value out of its range as an error quotes it: its size, or the number itself."""
    if not isinstance(value, str | list):
        return f"{value!r:.80}"
    unit = "character" if isinstance(value, str) else "item"
    return counted(len(value), unit) if value else what_came(value)


def kind_of(value: object) -> str:
    name = type(value).__name__
    return _KINDS.get(type(value)) or f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def require_type(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    # The message is built only on failure: the value may be a whole conversation.
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name} must be {expected}, got {what_came(value)}")


def require_whole(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a whole number, got {what_came(value)}")


def require_seconds(name: str, value: object) -> None:
    """None passes: it means no limit."""
    if value is not None and not _is_number(value):
        raise InvalidRequest(f"{name} must be a number of seconds, got {what_came(value)}")
    # A NaN would break the order of the event loop's timer heap.
    require(value == value, f"{name} must be a number of seconds, got nan")


def require_number(name: str, value: float, low: float, high: float) -> None:
    if not _is_number(value):
        raise InvalidRequest(
            f"{name} must be a number between {low:g} and {high:g}, got {what_came(value)}"
        )
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, got {shown(value)}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def require_count(name: str, value: int, *, low: int = 0, high: int = MAX_COUNT) -> None:
    require(low <= value <= high, f"{name} must be between {low} and {high}, got {value}")


def require_few(name: str, values: Sized, most: int) -> None:
    require(len(values) <= most, f"{name} must have at most {most} items, got {len(values)}")


def require_label(name: str, value: str, *, max_chars: int = MAX_NAME_CHARS) -> None:
    """Requires printable text; it may be empty."""
    require_type(name, value, str, "a text")
    require(
        len(value) <= max_chars,
        f"{name} must have at most {max_chars} characters, has {len(value)}",
    )
    if not value.isprintable():
        raise InvalidRequest(f"{name} must be printable, got {value!r}")


def require_name(name: str, value: str, *, max_chars: int = MAX_NAME_CHARS) -> None:
    """Requires printable text that is not empty."""
    require(bool(value), f"{name} must not be empty")
    require_label(name, value, max_chars=max_chars)


def require_address(name: str, value: str) -> None:
    is_address = _ADDRESS.fullmatch(value) is not None
    require(
        is_address and 1 <= int(value.rsplit(":", 1)[1]) < 65536,
        f"{name} must be host:port, got {value[:MAX_NAME_CHARS]!r}",
    )


def require_epoch(name: str, value: int) -> None:
    require(1 <= value <= MAX_EPOCH, f"{name} must be an epoch in [1, 2**63), got {value}")


def require_ascending(name: str, values: Sequence[int], *, low: int, high: int) -> None:
    """Requires each value to be greater than the one before, and all to be in [low, high]."""
    ordered = all(a < b for a, b in itertools.pairwise(values))
    require(ordered, f"{name} must be ascending, got {list(values[:8])}")
    require(
        not values or (low <= values[0] and values[-1] <= high),
        f"{name} must be between {low} and {high}, got {list(values[:8])}",
    )


def one_of(name: str, table: Mapping[Wire, Value], wire: Wire) -> Value:
    """Our value for an enum's number."""
    require(
        wire in table,
        f"{name} must be one of {', '.join(sorted(map(str, table.values())))}, got {wire}",
    )
    return table[wire]


def counted(number: int, noun: str) -> str:
    """1 turn, 2 turns."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(value: float) -> str:
    """The shortest text for exactly this number."""
    return repr(value).removesuffix(".0")
