"""Values of schemas: whether there are any, and of which type they are."""

from __future__ import annotations

from typing import Any


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


def has_type(value: Any, types: list[str]) -> bool:
    """As in JSON schema, where 2.0 is an integer."""
    match value:
        case None:
            kinds = {"null"}
        case bool():
            kinds = {"boolean"}
        case int():
            kinds = {"integer", "number"}
        case float():
            kinds = {"integer", "number"} if value.is_integer() else {"number"}
        case str():
            kinds = {"string"}
        case list():
            kinds = {"array"}
        case _:
            kinds = {"object"}
    return bool(kinds & set(types))
