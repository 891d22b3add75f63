"""The keywords of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.grammar.schema.kinds import Fail, Path, ReadSchema, Schema
from segue.grammar.schema.patterns import check_pattern


def read_object(schema: Mapping[str, Any], path: Path, fail: Fail, read: ReadSchema) -> Schema:
    properties = _properties(schema, path, fail)
    required = _required(schema, path, fail)
    more = schema.get("additionalProperties", not {"properties", "required"} & schema.keys())
    if schema.get("patternProperties"):
        return _by_pattern(schema, path, fail, read)
    for name in required:
        if name not in properties:
            if schema.get("additionalProperties") is False:
                raise fail((*path, "required"), f"{name!r:.80} is no property: describe it")
            properties[name] = schema.get("additionalProperties", True)
    if more is not False and properties and not isinstance(more, Mapping):
        more = bool(more)
    result: Schema = {
        "type": "object",
        "properties": {
            name: read(one, (*path, "properties", name))
            for name, one in properties.items()
            if one is not False
        },
        "required": required,
        "additionalProperties": more
        if isinstance(more, bool)
        else read(more, (*path, "additionalProperties")),
    }
    if missing := [name for name in required if name not in result["properties"]]:
        raise fail((*path, "properties", missing[0]), "is required and false: change one of them")
    if not result["properties"]:
        del result["properties"]
        if more is False:
            return {"enum": [{}]}
    return {**result, **_counts(schema, result, path, fail)}


def _properties(schema: Mapping[str, Any], path: Path, fail: Fail) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise fail((*path, "properties"), f"expected an object of schemas, got {properties!r:.80}")
    return dict(properties)


def _required(schema: Mapping[str, Any], path: Path, fail: Fail) -> list[str]:
    names = schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fail((*path, "required"), f"expected a list of names, got {names!r:.80}")
    return list(dict.fromkeys(names))


def _by_pattern(schema: Mapping[str, Any], path: Path, fail: Fail, read: ReadSchema) -> Schema:
    patterns = schema["patternProperties"]
    where = (*path, "patternProperties")
    others = {"properties", "required", "minProperties", "maxProperties"} & schema.keys()
    if (
        not isinstance(patterns, dict)
        or len(patterns) != 1
        or others
        or schema.get("additionalProperties", False) is not False
    ):
        raise fail(
            where,
            "expected one pattern, and none of properties, required, additionalProperties and "
            "counts beside it: nothing else can be enforced",
        )
    ((pattern, one),) = patterns.items()
    check_pattern(pattern, fail((*where, pattern), "").field)
    return {
        "type": "object",
        "patternProperties": {pattern: read(one, (*where, pattern))},
        "additionalProperties": False,
    }


def _counts(schema: Mapping[str, Any], made: Schema, path: Path, fail: Fail) -> Schema:
    known, required = len(made.get("properties", ())), len(made["required"])
    counts: Schema = {}
    for name in ("minProperties", "maxProperties"):
        count = schema.get(name)
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise fail((*path, name), f"expected a whole number from 0 on, got {count!r:.40}")
        counts[name] = count
    least, most = counts.pop("minProperties", 0), counts.get("maxProperties")
    is_open = made["additionalProperties"] is not False
    if most is not None and most < max(required, least):
        raise fail((*path, "maxProperties"), f"expected at least {max(required, least)}")
    if least > required:
        if is_open and least > 1:
            # A repeated name would count twice.
            raise fail((*path, "minProperties"), "cannot be enforced above 1: require names")
        if not is_open and least > known:
            raise fail((*path, "minProperties"), f"expected at most {known}, got {least}")
        counts["minProperties"] = least
    return counts
