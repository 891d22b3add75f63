"""Random JSON schemas, from a seed: what can be enforced, and nothing else."""

from __future__ import annotations

import random
from typing import Any

_NAMES = ("name", "city", "count", "tags", "code", "next", "é", "a b")
_PATTERNS = ("^[a-z]{2,4}$", "[0-9]{1,3}-[A-Z]", "^(red|green|blue)$", "^x+y?$")
_WORDS = ("Anna", "yes", 'a "quote"', "line\nend", "Zürich", "")


def random_schema(seed: int) -> dict[str, Any]:
    source = random.Random(seed)
    schema = _object(source, 3)
    if source.random() < 0.4:
        schema["$defs"] = {"item": _schema(source, 1), "tree": _tree()}
        name = source.choice(("item", "tree"))
        schema["properties"]["ref"] = {"$ref": f"#/$defs/{name}"}
        schema["required"] = [*schema["required"], "ref"]
    return schema


def _tree() -> dict[str, Any]:
    branch = {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}
    return {
        "type": "object",
        "properties": {"leaf": {"type": "boolean"}, "branch": branch},
        "required": ["leaf", "branch"],
    }


def _schema(source: random.Random, depth: int) -> dict[str, Any]:
    makers = [_string, _integer, _number, _enum, _nullable]
    if depth:
        makers += [_array, _object, _any_of, _tuple]
    return source.choice(makers)(source, depth)


def _object(source: random.Random, depth: int) -> dict[str, Any]:
    names = source.sample(_NAMES, source.randint(1, 3))
    required = [name for name in names if source.random() < 0.7]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(source, depth - 1) for name in names},
        "required": required,
    }
    if source.random() < 0.5:
        schema["additionalProperties"] = False
    elif source.random() < 0.2:
        schema["minProperties"] = max(len(required), 1)
    return schema


def _array(source: random.Random, depth: int) -> dict[str, Any]:
    low = source.randint(0, 2)
    items = _schema(source, depth - 1)
    return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}


def _tuple(source: random.Random, depth: int) -> dict[str, Any]:
    first = [_schema(source, 0) for _ in range(2)]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": 1}


def _string(source: random.Random, depth: int) -> dict[str, Any]:
    low = source.randint(0, 3)
    return source.choice(
        (
            {"type": "string", "minLength": low, "maxLength": low + 5},
            {"type": "string", "pattern": source.choice(_PATTERNS)},
            {"type": "string", "format": source.choice(("date", "uuid", "email", "ipv4"))},
            {"type": "string", "maxLength": 12, "description": "A short text."},
        )
    )


def _integer(source: random.Random, depth: int) -> dict[str, Any]:
    low = source.randint(-200, 100)
    return source.choice(
        (
            {"type": "integer", "minimum": low, "maximum": low + source.randint(0, 300)},
            {"type": "integer", "exclusiveMinimum": low - 0.5, "exclusiveMaximum": low + 9},
            {"type": "integer", "multipleOf": source.randint(2, 9)},
        )
    )


def _number(source: random.Random, depth: int) -> dict[str, Any]:
    low = source.choice((-3.5, -1, 0, 0.25, 12))
    return source.choice(
        (
            {"type": "number", "minimum": low, "maximum": low + 2.5},
            {"type": "number", "exclusiveMinimum": low, "maximum": low + 1},
            {"type": "number", "minimum": low, "exclusiveMaximum": low + 10},
        )
    )


def _enum(source: random.Random, depth: int) -> dict[str, Any]:
    values: list[Any] = [*_WORDS, 0, -7, 2.5, 0.1, None, True, [], {"a": [1]}]
    if source.random() < 0.3:
        return {"const": source.choice(values)}
    return {"enum": source.sample(values, source.randint(1, 4))}


def _nullable(source: random.Random, depth: int) -> dict[str, Any]:
    return {"type": ["string", "null"], "maxLength": 6}


def _any_of(source: random.Random, depth: int) -> dict[str, Any]:
    if source.random() < 0.5:
        return {"anyOf": [_schema(source, depth - 1) for _ in range(2)]}
    kinds = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "value": _schema(source, depth - 1)},
            "required": ["kind", "value"],
        }
        for kind in ("one", "two")
    ]
    return {"oneOf": kinds}
