"""The keywords of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.grammar.schema.kinds import ReadSchema, Schema, check_pattern, invalid


def read_object(schema: Mapping[str, Any], where: str, read: ReadSchema) -> Schema:
    properties = _properties(schema, where)
    required = _required(schema, where)
    more = schema.get("additionalProperties", not {"properties", "required"} & schema.keys())
    if schema.get("patternProperties"):
        return _by_pattern(schema, where, read)
    for name in required:
        if name not in properties:
            if schema.get("additionalProperties") is False:
                raise invalid(f"{where}.required", f"{name!r:.80} is no property: describe it")
            properties[name] = schema.get("additionalProperties", True)
    if more is not False and properties and not isinstance(more, Mapping):
        more = bool(more)
    result: Schema = {
        "type": "object",
        "properties": {
            name: read(one, f"{where}.properties.{name}")
            for name, one in properties.items()
            if one is not False
        },
        "required": required,
        "additionalProperties": more
        if isinstance(more, bool)
        else read(more, f"{where}.additionalProperties"),
    }
    if missing := [name for name in required if name not in result["properties"]]:
        raise invalid(
            f"{where}.properties.{missing[0]}", "is required and false: change one of them"
        )
    if not result["properties"]:
        del result["properties"]
        if more is False:
            return {"enum": [{}]}
    return {**result, **_counts(schema, result, where)}


def _properties(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise invalid(
            f"{where}.properties", f"expected an object of schemas, got {properties!r:.80}"
        )
    return dict(properties)


def _required(schema: Mapping[str, Any], where: str) -> list[str]:
    names = schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid(f"{where}.required", f"expected a list of names, got {names!r:.80}")
    return list(dict.fromkeys(names))


def _by_pattern(schema: Mapping[str, Any], where: str, read: ReadSchema) -> Schema:
    patterns = schema["patternProperties"]
    where = f"{where}.patternProperties"
    others = {"properties", "required", "minProperties", "maxProperties"} & schema.keys()
    if (
        not isinstance(patterns, dict)
        or len(patterns) != 1
        or others
        or schema.get("additionalProperties", False) is not False
    ):
        raise invalid(
            where,
            "expected one pattern, and none of properties, required, additionalProperties and "
            "counts beside it: nothing else can be enforced",
        )
    ((pattern, one),) = patterns.items()
    check_pattern(pattern, f"{where}.{pattern}")
    return {
        "type": "object",
        "patternProperties": {pattern: read(one, f"{where}.{pattern}")},
        "additionalProperties": False,
    }


def _counts(schema: Mapping[str, Any], made: Schema, where: str) -> Schema:
    known, required = len(made.get("properties", ())), len(made["required"])
    counts: Schema = {}
    for name in ("minProperties", "maxProperties"):
        count = schema.get(name)
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise invalid(
                f"{where}.{name}", f"expected a whole number from 0 on, got {count!r:.40}"
            )
        counts[name] = count
    least, most = counts.pop("minProperties", 0), counts.get("maxProperties")
    is_open = made["additionalProperties"] is not False
    if most is not None and most < max(required, least):
        raise invalid(f"{where}.maxProperties", f"expected at least {max(required, least)}")
    if least > required:
        if is_open and least > 1:
            # A repeated name would count twice.
            raise invalid(f"{where}.minProperties", "cannot be enforced above 1: require names")
        if not is_open and least > known:
            raise invalid(f"{where}.minProperties", f"expected at most {known}, got {least}")
        counts["minProperties"] = least
    return counts
