"""Checks the keywords of each JSON type, and rewrites them for xgrammar; regular expressions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from segue.api.errors import InvalidRequest

invalid = InvalidRequest.at

Schema: TypeAlias = dict[str, Any]
ReadSchema: TypeAlias = Callable[[Any, str], Any]
"""Reads a schema inside another one, with its path."""

_NUMBER_KEYWORDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
KEYWORDS: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _NUMBER_KEYWORDS,
    "number": _NUMBER_KEYWORDS,
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "object": frozenset(
        {
            *("properties", "required", "additionalProperties", "patternProperties"),
            *("minProperties", "maxProperties"),
        }
    ),
    "boolean": frozenset(),
    "null": frozenset(),
}
_FORMATS = frozenset(
    {
        *("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        "uri",
    }
)
"""Others only describe a string, as in JSON schema itself."""
_MOST = 50_000
"""Longer strings and arrays exceed most contexts, and cost memory."""
_MAX_BOUND = 10**15
"""xgrammar writes bounds out in digits; beyond this it allows nothing."""

_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_GROUP = re.compile(r"\(\?(?!:)")
_BACK_REFERENCE = re.compile(r"\\[1-9k]")


def read_string(schema: Mapping[str, Any], where: str) -> Schema:
    low, high = _counts(schema, "minLength", "maxLength", where)
    has_length = low > 0 or high is not None
    if "pattern" in schema:
        pattern = check_pattern(schema["pattern"], f"{where}.pattern")
        if has_length:
            raise invalid(where, "pattern and a length cannot be enforced together: leave out one")
        return {"type": "string", "pattern": pattern}
    if has_length:
        limits = {"minLength": low, "maxLength": high}
        return {"type": "string", **{name: n for name, n in limits.items() if n is not None}}
    if schema.get("format") in _FORMATS:
        return {"type": "string", "format": schema["format"]}
    return {"type": "string"}


_LEAST: dict[str, Callable[[float], int]] = {
    "minimum": math.ceil,
    "exclusiveMinimum": lambda bound: math.floor(bound) + 1,
}
_GREATEST: dict[str, Callable[[float], int]] = {
    "maximum": math.floor,
    "exclusiveMaximum": lambda bound: math.ceil(bound) - 1,
}
"""The least and the greatest integer within a bound."""


def read_integer(schema: Mapping[str, Any], where: str) -> Schema:
    bounds = _bounds(schema, where)
    low = max((least(bounds[n]) for n, least in _LEAST.items() if n in bounds), default=None)
    high = min(
        (greatest(bounds[n]) for n, greatest in _GREATEST.items() if n in bounds), default=None
    )
    if low is not None and high is not None and low > high:
        raise invalid(where, "no integer is within these bounds: change them")
    step = schema.get("multipleOf")
    limits = {name: n for name, n in (("minimum", low), ("maximum", high)) if n is not None}
    if step is None or step == 1:
        return {"type": "integer", **limits}
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= 1000 or limits:
        raise invalid(
            f"{where}.multipleOf",
            f"expected a whole number up to 1000 without bounds beside it, got {step!r:.40}: "
            "nothing else can be enforced",
        )
    return {"type": "integer", "multipleOf": step}


def read_number(schema: Mapping[str, Any], where: str) -> Schema:
    if "multipleOf" in schema:
        raise invalid(f"{where}.multipleOf", "cannot be enforced for numbers: use an integer")
    bounds = _bounds(schema, where)
    low = max((bounds[n] for n in ("minimum", "exclusiveMinimum") if n in bounds), default=None)
    high = min((bounds[n] for n in ("maximum", "exclusiveMaximum") if n in bounds), default=None)
    if low is not None and high is not None and low > high:
        raise invalid(where, "no number is within these bounds: change them")
    return {"type": "number", **bounds}


def read_array(schema: Mapping[str, Any], where: str, read: ReadSchema) -> Schema:
    low, high = _counts(schema, "minItems", "maxItems", where)
    first, items = schema.get("prefixItems"), schema.get("items")
    if isinstance(items, list):
        # Before draft 2020-12.
        first, items = items, None
    if first is not None and not isinstance(first, list):
        raise invalid(f"{where}.prefixItems", f"expected a list of schemas, got {first!r:.80}")
    result: Schema = {"type": "array"}
    if first:
        result["prefixItems"] = [
            read(one, f"{where}.prefixItems.{index}") for index, one in enumerate(first)
        ]
        if items is None:
            items = low > len(first)
    if items is False:
        high = min(len(first or ()), _MOST if high is None else high)
        if low > high:
            raise invalid(f"{where}.minItems", f"expected at most {high}, got {low}")
        if not first:
            return {"enum": [[]]}
        result["items"] = False
    else:
        result["items"] = read(True if items is None else items, f"{where}.items")
    if low:
        result["minItems"] = low
    if high is not None:
        result["maxItems"] = high
    return result


def _counts(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    """At least 0, and the most or None."""
    low, high = schema.get(least, 0), schema.get(most)
    for name, count in ((least, low), (most, high)):
        if count is None:
            continue
        is_whole = isinstance(count, int | float) and not isinstance(count, bool)
        if not is_whole or count != int(count) or count < 0:
            raise invalid(
                f"{where}.{name}", f"expected a whole number from 0 on, got {count!r:.40}"
            )
    if low > _MOST:
        raise invalid(f"{where}.{least}", f"expected at most {_MOST}, got {low}")
    if high is not None and low > high:
        raise invalid(f"{where}.{least}", f"expected at most {most} ({high}), got {low}")
    return int(low), None if high is None else min(int(high), _MOST)


def _bounds(schema: Mapping[str, Any], where: str) -> dict[str, float]:
    bounds = {}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if name not in schema:
            continue
        bound = schema[name]
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            raise invalid(f"{where}.{name}", f"expected a number, got {bound!r:.40}")
        if abs(bound) > _MAX_BOUND:
            raise invalid(f"{where}.{name}", f"expected at most ±{_MAX_BOUND}, got {bound!r:.40}")
        bounds[name] = bound
    return bounds


def check_pattern(pattern: object, field: str) -> str:
    """The pattern, if it means the same to xgrammar, which matches it against the whole text and
    ignores unsupported parts. Raises InvalidRequest.
    """
    if not isinstance(pattern, str):
        raise invalid(field, f"expected a regular expression, got {pattern!r:.80}")
    if _BACK_REFERENCE.search(pattern.replace("\\\\", "")):
        raise invalid(field, "references to groups cannot be enforced: rewrite it")
    plain = _ESCAPED_OR_CLASS.sub(lambda found: "x" * len(found[0]), pattern)
    if _GROUP.search(plain):
        raise invalid(
            field, "expected no groups but (…) and (?:…): lookarounds and names cannot be enforced"
        )
    for index, character in enumerate(plain):
        if character == "^" and not _starts_branch(plain, index):
            raise invalid(field, f"expected ^ only at the start, got it at {index}")
        if character == "$" and not _ends_branch(plain, index):
            raise invalid(field, f"expected $ only at the end, got it at {index}")
    return pattern


def _starts_branch(plain: str, index: int) -> bool:
    return index == 0 or (plain[index - 1] == "|" and _is_outside(plain, index))


def _ends_branch(plain: str, index: int) -> bool:
    return index == len(plain) - 1 or (plain[index + 1] == "|" and _is_outside(plain, index))


def _is_outside(plain: str, index: int) -> bool:
    """Outside all groups."""
    before = plain[:index]
    return before.count("(") == before.count(")")
