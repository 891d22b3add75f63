"""The keywords of each JSON type: checked, and in the form that xgrammar enforces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from segue.api.errors import InvalidRequest
from segue.grammar.schema.patterns import check_pattern

Schema: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str, ...]
Fail: TypeAlias = Callable[[Path, str], InvalidRequest]
ReadSchema: TypeAlias = Callable[[Any, Path], Any]

KEYWORDS: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "number": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
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


def read_string(schema: Mapping[str, Any], path: Path, fail: Fail) -> Schema:
    low, high = _counts(schema, "minLength", "maxLength", path, fail)
    has_length = low > 0 or high is not None
    if "pattern" in schema:
        pattern = check_pattern(schema["pattern"], str(fail((*path, "pattern"), "").field))
        if has_length:
            raise fail(path, "pattern and a length cannot be enforced together: leave out one")
        return {"type": "string", "pattern": pattern}
    if has_length:
        limits = {"minLength": low, "maxLength": high}
        return {"type": "string", **{name: n for name, n in limits.items() if n is not None}}
    if schema.get("format") in _FORMATS:
        return {"type": "string", "format": schema["format"]}
    return {"type": "string"}


def read_integer(schema: Mapping[str, Any], path: Path, fail: Fail) -> Schema:
    bounds = _bounds(schema, path, fail)
    low = (
        max(
            (math.ceil(bounds[n]) if n == "minimum" else math.floor(bounds[n]) + 1)
            for n in ("minimum", "exclusiveMinimum")
            if n in bounds
        )
        if {"minimum", "exclusiveMinimum"} & bounds.keys()
        else None
    )
    high = (
        min(
            (math.floor(bounds[n]) if n == "maximum" else math.ceil(bounds[n]) - 1)
            for n in ("maximum", "exclusiveMaximum")
            if n in bounds
        )
        if {"maximum", "exclusiveMaximum"} & bounds.keys()
        else None
    )
    if low is not None and high is not None and low > high:
        raise fail(path, "no integer is within these bounds: change them")
    step = schema.get("multipleOf")
    limits = {name: n for name, n in (("minimum", low), ("maximum", high)) if n is not None}
    if step is None or step == 1:
        return {"type": "integer", **limits}
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= 1000 or limits:
        raise fail(
            (*path, "multipleOf"),
            f"expected a whole number up to 1000 without bounds beside it, got {step!r:.40}: "
            "nothing else can be enforced",
        )
    return {"type": "integer", "multipleOf": step}


def read_number(schema: Mapping[str, Any], path: Path, fail: Fail) -> Schema:
    if "multipleOf" in schema:
        raise fail((*path, "multipleOf"), "cannot be enforced for numbers: use an integer")
    bounds = _bounds(schema, path, fail)
    low = max((bounds[n] for n in ("minimum", "exclusiveMinimum") if n in bounds), default=None)
    high = min((bounds[n] for n in ("maximum", "exclusiveMaximum") if n in bounds), default=None)
    if low is not None and high is not None and low > high:
        raise fail(path, "no number is within these bounds: change them")
    return {"type": "number", **bounds}


def read_array(schema: Mapping[str, Any], path: Path, fail: Fail, read: ReadSchema) -> Schema:
    low, high = _counts(schema, "minItems", "maxItems", path, fail)
    first, items = schema.get("prefixItems"), schema.get("items")
    if isinstance(items, list):
        # Before draft 2020-12.
        first, items = items, None
    if first is not None and not isinstance(first, list):
        raise fail((*path, "prefixItems"), f"expected a list of schemas, got {first!r:.80}")
    result: Schema = {"type": "array"}
    if first:
        result["prefixItems"] = [
            read(one, (*path, "prefixItems", str(index))) for index, one in enumerate(first)
        ]
        if items is None:
            items = low > len(first)
    if items is False:
        high = min(len(first or ()), _MOST if high is None else high)
        if low > high:
            raise fail((*path, "minItems"), f"expected at most {high}, got {low}")
        if not first:
            return {"enum": [[]]}
        result["items"] = False
    else:
        result["items"] = read(True if items is None else items, (*path, "items"))
    if low:
        result["minItems"] = low
    if high is not None:
        result["maxItems"] = high
    return result


def _counts(
    schema: Mapping[str, Any], least: str, most: str, path: Path, fail: Fail
) -> tuple[int, int | None]:
    """At least 0, and the most or None."""
    low, high = schema.get(least, 0), schema.get(most)
    for name, count in ((least, low), (most, high)):
        if count is None:
            continue
        is_whole = isinstance(count, int | float) and not isinstance(count, bool)
        if not is_whole or count != int(count) or count < 0:
            raise fail((*path, name), f"expected a whole number from 0 on, got {count!r:.40}")
    if low > _MOST:
        raise fail((*path, least), f"expected at most {_MOST}, got {low}")
    if high is not None and low > high:
        raise fail((*path, least), f"expected at most {most} ({high}), got {low}")
    return int(low), None if high is None else min(int(high), _MOST)


def _bounds(schema: Mapping[str, Any], path: Path, fail: Fail) -> dict[str, float]:
    bounds = {}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if name not in schema:
            continue
        bound = schema[name]
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            raise fail((*path, name), f"expected a number, got {bound!r:.40}")
        if abs(bound) > _MAX_BOUND:
            raise fail((*path, name), f"expected at most ±{_MAX_BOUND}, got {bound!r:.40}")
        bounds[name] = bound
    return bounds
