"""The walk through a schema: references, combinations, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

from segue.api.checks import what_came
from segue.grammar.schema.kinds import (
    KEYWORDS,
    Schema,
    invalid,
    read_array,
    read_integer,
    read_number,
    read_string,
)
from segue.grammar.schema.objects import read_object
from segue.grammar.schema.values import are_disjoint, ends, json_types

MAX_DEPTH = 32
"""Of schemas in schemas."""
_MAX_SCHEMAS = 5_000

_COMBINING = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
_UNENFORCED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("contains", "minContains", "maxContains", "propertyNames", "unevaluatedProperties"),
    *("unevaluatedItems", "additionalItems", "$dynamicRef", "$recursiveRef"),
)
_SETTING_NOTHING = {"unevaluatedProperties": (True, False), "unevaluatedItems": (True, False)}
_ASSERTING = frozenset().union(*KEYWORDS.values())


@dataclass(frozen=True, slots=True)
class PreparedSchema:
    schema: Any
    """For xgrammar: a dictionary, or a boolean."""
    without_controls: bool
    """xgrammar would allow control characters in strings of a limited length."""
    patterns: dict[str, str]
    """Regular expressions in it, by their path."""


def read_schema(schema: Any, field: str) -> PreparedSchema:
    """`field`: the schema's own path in errors. Raises InvalidRequest with the path of a keyword
    that cannot be enforced.
    """
    return _Reader(schema, field).read_all()


def parse_schema(text: str, field: str) -> Any:
    """JSON text to a schema. Raises InvalidRequest."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise invalid(
            field, f"expected at most {MAX_DEPTH} schemas in each other, got far more: flatten it"
        ) from None
    except ValueError as error:
        raise invalid(field, f"expected JSON, got an error in it: {error}") from None


class _Reader:
    def __init__(self, root: Any, field: str) -> None:
        self._root = root
        self._field = field
        self._defs: Schema = {}
        self._names: dict[str, str] = {}
        """The definition of each reference."""
        self._waiting: list[tuple[str, Any, str]] = []
        self._num_schemas = 0
        self._depth = 0
        self._has_lengths = False
        self._patterns: dict[str, str] = {}

    def read_all(self) -> PreparedSchema:
        read = self._read(self._root, self._field)
        while self._waiting:
            name, schema, where = self._waiting.pop()
            self._defs[name] = self._read(schema, where)
        self._require_end(read)
        if self._defs:
            read = {**read, "$defs": self._defs}
        return PreparedSchema(read, self._has_lengths, self._patterns)

    def _read(self, schema: Any, where: str) -> Any:
        self._num_schemas += 1
        if self._num_schemas > _MAX_SCHEMAS:
            raise invalid(
                self._field, f"expected at most {_MAX_SCHEMAS} schemas in it: simplify it"
            )
        if self._depth > MAX_DEPTH:
            raise invalid(where, f"expected at most {MAX_DEPTH} schemas in each other: flatten it")
        self._depth += 1
        read = self._read_one(schema, where)
        self._depth -= 1
        return read

    def _read_one(self, schema: Any, where: str) -> Any:
        if schema is True or schema == {}:
            return {}
        if schema is False:
            raise invalid(where, "the schema false allows no value: leave it out")
        if not isinstance(schema, dict):
            raise invalid(where, f"expected a JSON schema, got {what_came(schema)}")
        self._refuse_unenforced(schema, where)
        found = [name for name in _COMBINING if name in schema]
        if not found:
            return self._by_type(schema, where)
        beside = [name for name in schema if name in _ASSERTING or name in found[1:]]
        if beside:
            raise invalid(
                f"{where}.{beside[0]}",
                f"cannot be enforced beside {found[0]}: move it into the schemas there",
            )
        return self._combined(found[0], schema, where)

    def _refuse_unenforced(self, schema: Schema, where: str) -> None:
        for name in _UNENFORCED:
            if name in schema and schema[name] not in _SETTING_NOTHING.get(name, ()):
                raise invalid(f"{where}.{name}", "cannot be enforced: leave it out, or rewrite it")
        if schema.get("uniqueItems") not in (None, False):
            raise invalid(f"{where}.uniqueItems", "cannot be enforced: leave it out")
        if where != self._field and "$id" in schema:
            raise invalid(f"{where}.$id", "expected an id only at the root: leave it out")

    def _combined(self, name: str, schema: Schema, where: str) -> Any:
        if name in ("enum", "const"):
            return self._listed(name, schema, where)
        if "type" in schema and name == "$ref":
            raise invalid(f"{where}.type", "cannot be enforced beside $ref: leave it out")
        where = f"{where}.{name}"
        if name == "$ref":
            return {"$ref": f"#/$defs/{self._defined(schema['$ref'], where)}"}
        branches = schema[name]
        if not isinstance(branches, list) or not branches:
            raise invalid(where, f"expected a list of schemas, got {what_came(branches)}")
        if "type" in schema:
            branches = [self._with_type(one, schema["type"], where) for one in branches]
        if name == "allOf" and len(branches) > 1:
            raise invalid(where, "several schemas cannot be enforced together: merge them")
        if name == "oneOf" and not are_disjoint(branches, self._resolved):
            raise invalid(
                where,
                "expected schemas of which at most one can hold, by their types or by a required "
                "property with different constants: use anyOf",
            )
        read = [
            self._read(one, f"{where}.{index}")
            for index, one in enumerate(branches)
            if one is not False
        ]
        if not read:
            raise invalid(where, "expected a schema that allows a value")
        return read[0] if len(read) == 1 else {"anyOf": read}

    def _with_type(self, branch: Any, names: Any, where: str) -> Any:
        if not isinstance(branch, dict) or "$ref" in branch:
            raise invalid(where, "expected no type beside it: move it into the schemas there")
        if branch.get("type", names) != names:
            raise invalid(where, "expected the same type as beside it: leave that out")
        return {**branch, "type": names}

    def _listed(self, name: str, schema: Schema, where: str) -> Schema:
        values = [schema["const"]] if name == "const" else schema["enum"]
        if not isinstance(values, list):
            raise invalid(f"{where}.{name}", f"expected a list of values, got {what_came(values)}")
        if "type" in schema:
            types = self._types(schema["type"], f"{where}.type")
            values = [one for one in values if json_types(one) & set(types)]
        if not values:
            raise invalid(f"{where}.{name}", "expected a value of the type, got none")
        return {"enum": values}

    def _by_type(self, schema: Schema, where: str) -> Any:
        if "type" in schema:
            types = self._types(schema["type"], f"{where}.type")
        else:
            types = [
                kind
                for kind, names in KEYWORDS.items()
                if names & schema.keys() and kind != "integer"
            ]
            if len(types) > 1:
                raise invalid(where, f"expected a type, since it is about {' and '.join(types)}")
            if not types:
                return {}
        read = [self._of_type(kind, schema, where) for kind in types]
        return read[0] if len(read) == 1 else {"anyOf": read}

    def _types(self, names: Any, where: str) -> list[str]:
        names = names if isinstance(names, list) else [names]
        for name in names:
            if not isinstance(name, str) or name not in KEYWORDS:
                raise invalid(where, f"expected one of {', '.join(KEYWORDS)}, got {name!r:.40}")
        if not names:
            raise invalid(where, "expected a type, got an empty list")
        return [name for name in dict.fromkeys(names) if name != "integer" or "number" not in names]

    def _of_type(self, kind: str, schema: Schema, where: str) -> Schema:
        match kind:
            case "string":
                read = read_string(schema, where)
                self._has_lengths |= "minLength" in read
                if "pattern" in read:
                    self._patterns[f"{where}.pattern"] = read["pattern"]
                return read
            case "integer":
                return read_integer(schema, where)
            case "number":
                return read_number(schema, where)
            case "array":
                return read_array(schema, where, self._read)
            case "object":
                return read_object(schema, where, self._read)
            case _:
                return {"type": kind}

    def _defined(self, pointer: Any, where: str) -> str:
        if pointer not in self._names:
            target, path = self._find(pointer, where)
            seen = {pointer}
            while isinstance(target, dict) and isinstance(target.get("$ref"), str):
                if target["$ref"] in seen:
                    raise invalid(where, f"the references from {pointer:.80} form a circle")
                seen.add(target["$ref"])
                target, path = self._find(target["$ref"], path)
            self._names[pointer] = name = f"s{len(self._names)}"
            self._waiting.append((name, target, path))
        return self._names[pointer]

    def _find(self, pointer: Any, where: str) -> tuple[Any, str]:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise invalid(
                where,
                f"expected a reference into this schema, such as #/$defs/a, got {pointer!r:.80}",
            )
        steps = [unquote(s).replace("~1", "/").replace("~0", "~") for s in pointer.split("/")[1:]]
        found = self._root
        for step in steps:
            if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, Mapping) and step in found:
                found = found[step]
            else:
                raise invalid(where, f"{pointer:.80} is not in this schema")
        return found, ".".join((self._field, *steps))

    def _resolved(self, schema: Any) -> Any:
        """Follows references, only to compare schemas."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema, _ = self._find(schema["$ref"], self._field)
        return schema

    def _require_end(self, root: Any) -> None:
        """Refuses a schema whose values always contain a value of the same schema: it has none."""
        ending: set[str] = set()
        while more := {n for n in self._defs.keys() - ending if ends(self._defs[n], ending)}:
            ending |= more
        if not ends(root, ending):
            endless = next(p for p, n in self._names.items() if n not in ending)
            raise invalid(
                self._field, f"{endless:.80} contains itself without an end: make it optional"
            )
