"""The values that a tool's JSON schema allows for a parameter, as far as this decides how to read
a text.

Schemas come from clients: parts that are not understood allow everything, and a budget of steps
bounds the cost of schemas that refer to themselves or to each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

from segue.answers.tool_calls.literals import Json

Schema: TypeAlias = Mapping[str, Any]
Kinds: TypeAlias = frozenset[str]
"""A subset of null, boolean, integer, number, string, array, object, as the schema names them;
`anything` if it names none. A schema with number also allows integer.
"""

ANYTHING: Kinds = frozenset({"anything"})
_NUMBER: Kinds = frozenset({"number", "integer"})
_KINDS: dict[str, Kinds] = {
    name: kinds
    for kinds, names in (
        (frozenset({"null"}), "null none nil"),
        (frozenset({"boolean"}), "boolean bool"),
        (frozenset({"integer"}), "integer int uint long short unsigned bigint"),
        (_NUMBER, "number num numeric float double decimal"),
        (frozenset({"string"}), "string str text char varchar"),
        (frozenset({"array"}), "array list tuple"),
        (frozenset({"object"}), "object dict map"),
    )
    for name in names.split()
}
_TYPE_NAME = re.compile(r"([a-z]+)(?:\d*|\(.*\)|\[.+\]|<.+>)")
"""The part of int64, varchar(20), list[str] or array<int> that names the kind."""
# The kind of a schema without a type, inferred from members with values of certain types.
_KIND_HINTS: tuple[tuple[Kinds, tuple[type, ...], str], ...] = (
    (frozenset({"object"}), (Mapping,), "properties patternProperties additionalProperties"),
    (frozenset({"array"}), (Mapping, list), "items prefixItems"),
    (frozenset({"array"}), (int,), "minItems maxItems"),
    (frozenset({"string"}), (str,), "pattern"),
    (frozenset({"string"}), (int,), "minLength maxLength"),
    (_NUMBER, (int, float), "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"),
)

_MAX_STEPS = 20_000
_MAX_DEPTH = 64
_MAX_PARTS = 256


class Schemas:
    """The schemas of one function's parameters. References are resolved from `root`."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps_left = _MAX_STEPS

    @property
    def is_open(self) -> bool:
        """Whether any parameter is allowed: it names none, or allows others."""
        parts = self._parts(self._root)
        return not any(part.get("properties") for part in parts) or any(
            part.get("additionalProperties") is True or part.get("patternProperties")
            for part in parts
        )

    def of_parameter(self, name: str) -> Schema | None:
        """None if the function does not describe this parameter."""
        for part in self._parts(self._root):
            properties = part.get("properties")
            if isinstance(properties, Mapping) and name in properties:
                return _as_schema(properties[name])
        more = self._root.get("additionalProperties")
        return more if isinstance(more, Mapping) else None

    def kinds(self, schema: Schema) -> Kinds:
        self._steps_left = _MAX_STEPS
        return self._kinds(schema, _MAX_DEPTH)

    def allows(self, value: Json, schema: Schema) -> bool:
        self._steps_left = _MAX_STEPS
        return self._allows(value, schema, _MAX_DEPTH)

    def lists(self, text: str, schema: Schema) -> bool:
        """Whether the schema enumerates values that include this text."""
        return any(text in _enumerated(part) for part in self._parts(schema))

    def _kinds(self, schema: Schema, depth: int) -> Kinds:
        if self._is_spent(depth):
            return ANYTHING
        found = _narrowed([_kinds_by_type(schema), _kinds_by_values(schema)])
        for key in ("anyOf", "oneOf"):
            if branches := _schemas(schema.get(key)):
                either = frozenset().union(*(self._kinds(one, depth - 1) for one in branches))
                found = _narrowed([found, either])
        for one in (*_schemas(schema.get("allOf")), *self._referred(schema)):
            found = _narrowed([found, self._kinds(one, depth - 1)])
        if found == ANYTHING:
            found = _kinds_by_parts(schema)
        return found | {"null"} if schema.get("nullable") is True else found

    def _allows(self, value: Json, schema: Schema, depth: int) -> bool:
        if self._is_spent(depth):
            return True
        if value is None and schema.get("nullable") is True:
            return True
        kinds = _kinds_by_type(schema)
        if "anything" not in kinds and kind_of(value) not in kinds:
            return False
        if (values := _enumerated(schema)) and not any(_same(value, one) for one in values):
            return False
        for key in ("anyOf", "oneOf"):
            branches = _schemas(schema.get(key))
            if branches and not any(self._allows(value, one, depth - 1) for one in branches):
                return False
        others = (*_schemas(schema.get("allOf")), *self._referred(schema))
        return all(self._allows(value, one, depth - 1) for one in others) and self._allows_inside(
            value, schema, depth
        )

    def _allows_inside(self, value: Json, schema: Schema, depth: int) -> bool:
        if isinstance(value, list):
            items = schema.get("items")
            return not isinstance(items, Mapping) or all(
                self._allows(one, items, depth - 1) for one in value
            )
        if not isinstance(value, dict):
            return True
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        if isinstance(required, list) and not all(_is_in(name, value) for name in required):
            return False
        more = schema.get("additionalProperties", True)
        return all(
            self._allows(member, _as_schema(known[name]), depth - 1)
            if name in known
            else more is not False
            and (not isinstance(more, Mapping) or self._allows(member, more, depth - 1))
            for name, member in value.items()
        )

    def _parts(self, schema: Schema) -> list[Schema]:
        """A schema with all the schemas that it refers to, combines or chooses from."""
        parts = [schema]
        for part in parts:
            more = [*self._referred(part)]
            for key in ("allOf", "anyOf", "oneOf"):
                more += _schemas(part.get(key))
            parts += [one for one in more if not any(one is seen for seen in parts)]
            if len(parts) > _MAX_PARTS:
                break
        return parts

    def _referred(self, schema: Schema) -> tuple[Schema, ...]:
        """The target of `$ref`, if it is here. Definitions may also be next to the reference."""
        pointer = schema.get("$ref")
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            return ()
        steps = [unquote(one).replace("~1", "/").replace("~0", "~") for one in pointer.split("/")]
        for start in (self._root, schema):
            found: Any = start
            for step in steps[1:]:
                found = found.get(step) if isinstance(found, Mapping) else None
            if isinstance(found, Mapping):
                return (found,)
        return ()

    def _is_spent(self, depth: int) -> bool:
        self._steps_left -= 1
        return self._steps_left < 0 or depth <= 0


def kind_of(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _kinds_by_type(schema: Schema) -> Kinds:
    names = schema.get("type")
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not names:
        return ANYTHING
    return frozenset().union(*(_kinds_by_name(str(name).lower()) for name in names))


def _kinds_by_name(name: str) -> Kinds:
    found = _TYPE_NAME.fullmatch(name)
    return _KINDS.get(found[1], ANYTHING) if found else ANYTHING


def _kinds_by_values(schema: Schema) -> Kinds:
    values = _enumerated(schema)
    return frozenset(kind_of(value) for value in values) or ANYTHING


def _kinds_by_parts(schema: Schema) -> Kinds:
    hinted = (
        kinds
        for kinds, types, names in _KIND_HINTS
        if any(isinstance(schema.get(name), types) for name in names.split())
    )
    return frozenset().union(*hinted) or ANYTHING


def _enumerated(schema: Schema) -> Sequence[Any]:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else []


def _narrowed(constraints: Iterable[Kinds]) -> Kinds:
    """The kinds that satisfy all constraints; if they contradict each other, the first ones win."""
    found = ANYTHING
    for kinds in constraints:
        if "anything" in found:
            found = found | kinds if "anything" in kinds else kinds
        elif "anything" not in kinds:
            found = found & kinds or found
    return found


def _schemas(value: object) -> list[Schema]:
    if not isinstance(value, list):
        return []
    return [_as_schema(one) for one in value]


def _as_schema(value: object) -> Schema:
    # `true` allows everything, and so does anything that is not a schema.
    return value if isinstance(value, Mapping) else {}


def _same(value: Json, other: object) -> bool:
    """As in JSON: 1 equals 1.0, but true does not equal 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _is_in(name: object, value: dict[str, Json]) -> bool:
    return isinstance(name, str) and name in value
