"""The values of schemas: whether a schema has any, and whether two schemas share none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

Resolve = Callable[[Any], Any]
_TYPES = ("string", "integer", "number", "array", "object", "boolean", "null")


def are_disjoint(branches: Iterable[Any], resolve: Resolve) -> bool:
    """Whether no two branches share a value: then oneOf is anyOf. `resolve` follows a reference."""
    resolved = [resolve(one) for one in branches]
    return all(_two_are(one, other, resolve) for one, other in combinations(resolved, 2))


def _two_are(one: Any, other: Any, resolve: Resolve) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    if not _types(one) & _types(other):
        return True
    if (values := _values(one)) is not None and (others := _values(other)) is not None:
        return not values & others
    if _types(one) | _types(other) != {"object"}:
        return False
    names = set(_list(one, "required")) & set(_list(other, "required"))
    return any(_tells_apart(name, one, other, resolve) for name in names)


def _tells_apart(name: str, one: Any, other: Any, resolve: Resolve) -> bool:
    values = _values(resolve(_property(one, name)))
    others = _values(resolve(_property(other, name)))
    return values is not None and others is not None and not values & others


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name, True) if isinstance(properties, Mapping) else True


def _types(schema: Mapping[str, Any]) -> set[str]:
    names = schema.get("type")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list):
        if (values := _values(schema)) is None:
            return set(_TYPES)
        names = [name for value in values for name in json_types(json.loads(value))]
    # An integer is a number.
    return set(names) | ({"integer"} if "number" in names else set())


def _values(schema: Any) -> set[str] | None:
    """The values that the schema lists, as JSON; None if it lists none."""
    if not isinstance(schema, Mapping):
        return None
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(listed, list):
        return None
    return {json.dumps(_plain(one), sort_keys=True) for one in listed}


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list(schema: Mapping[str, Any], name: str) -> list[str]:
    value = schema.get(name)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def ends(schema: Any, ending: set[str]) -> bool:
    """Whether a schema that was read has a value of finite size, if the definitions `ending` do."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2] in ending
    if "anyOf" in schema:
        return any(ends(one, ending) for one in schema["anyOf"])
    if schema.get("type") == "array":
        low, first = schema.get("minItems", 0), schema.get("prefixItems", [])
        needed = [*first[:low], *([schema["items"]] if low > len(first) else [])]
        return all(ends(one, ending) for one in needed)
    needed = [schema["properties"][name] for name in schema.get("required", ())]
    return all(ends(one, ending) for one in needed)


def json_types(value: Any) -> set[str]:
    """As in JSON schema, where 2.0 is an integer, and an integer is a number."""
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"integer", "number"} if value.is_integer() else {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
        case _:
            return {"object"}
