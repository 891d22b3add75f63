"""Whether values of one schema are never values of another: then oneOf is anyOf."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

Resolve = Callable[[Any], Any]
_TYPES = ("string", "integer", "number", "array", "object", "boolean", "null")


def are_disjoint(branches: Iterable[Any], resolve: Resolve) -> bool:
    """`resolve` follows a reference to its schema."""
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
        names = [_type_of(json.loads(value)) for value in values]
    # An integer is a number.
    return set(names) | ({"integer"} if "number" in names else set())


def _type_of(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "array" if isinstance(value, list) else "object"


def _values(schema: Any) -> set[str] | None:
    """The values that it lists, as JSON; None if it lists none."""
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
