"""The walk through a schema: references, combinations, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.grammar.schema.disjoint import are_disjoint
from segue.grammar.schema.kinds import (
    KEYWORDS,
    Path,
    Schema,
    read_array,
    read_integer,
    read_number,
    read_string,
)
from segue.grammar.schema.objects import read_object
from segue.grammar.schema.values import ends, has_type

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
class Prepared:
    schema: Any
    """For xgrammar: a dictionary, or a boolean."""
    without_controls: bool
    """xgrammar would allow control characters in strings of a limited length."""
    patterns: dict[str, str]
    """Regular expressions in it, by their path."""


def read_schema(schema: Any, field: str) -> Prepared:
    """`field`: the schema's own path in errors. Raises InvalidRequest with the path of what cannot
    be enforced.
    """
    return _Reader(schema, field).read_all()


def parse_schema(text: str, field: str) -> Any:
    """JSON text to a schema. Raises InvalidRequest."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise InvalidRequest.at(
            field, f"expected at most {MAX_DEPTH} schemas in each other, got far more: flatten it"
        ) from None
    except ValueError as error:
        raise InvalidRequest.at(field, f"expected JSON, got an error in it: {error}") from None


class _Reader:
    def __init__(self, root: Any, field: str) -> None:
        self._root = root
        self._field = field
        self._defs: Schema = {}
        self._names: dict[str, str] = {}
        """The definition of each reference."""
        self._waiting: list[tuple[str, Any, Path]] = []
        self._num_schemas = 0
        self._has_lengths = False
        self._patterns: dict[str, str] = {}

    def read_all(self) -> Prepared:
        read = self._read(self._root, ())
        while self._waiting:
            name, schema, path = self._waiting.pop()
            self._defs[name] = self._read(schema, path)
        self._require_end(read)
        if self._defs:
            read = {**read, "$defs": self._defs}
        return Prepared(read, self._has_lengths, self._patterns)

    def _fail(self, path: Path, message: str) -> InvalidRequest:
        return InvalidRequest.at(".".join((self._field, *path)), message)

    def _read(self, schema: Any, path: Path) -> Any:
        self._num_schemas += 1
        if self._num_schemas > _MAX_SCHEMAS:
            raise self._fail((), f"expected at most {_MAX_SCHEMAS} schemas in it: simplify it")
        if sum(1 for step in path if step in _NESTING) > MAX_DEPTH:
            raise self._fail(
                path, f"expected at most {MAX_DEPTH} schemas in each other: flatten it"
            )
        if schema is True or schema == {}:
            return {}
        if schema is False:
            raise self._fail(path, "the schema false allows no value: leave it out")
        if not isinstance(schema, dict):
            raise self._fail(path, f"expected a JSON schema, got {what_came(schema)}")
        self._refuse_unenforced(schema, path)
        found = [name for name in _COMBINING if name in schema]
        if not found:
            return self._by_type(schema, path)
        beside = [name for name in schema if name in _ASSERTING or name in found[1:]]
        if beside:
            raise self._fail(
                (*path, beside[0]),
                f"cannot be enforced beside {found[0]}: move it into the schemas there",
            )
        return self._combined(found[0], schema, path)

    def _refuse_unenforced(self, schema: Schema, path: Path) -> None:
        for name in _UNENFORCED:
            if name in schema and schema[name] not in _SETTING_NOTHING.get(name, ()):
                raise self._fail((*path, name), "cannot be enforced: leave it out, or rewrite it")
        if schema.get("uniqueItems") not in (None, False):
            raise self._fail((*path, "uniqueItems"), "cannot be enforced: leave it out")
        if path and "$id" in schema:
            raise self._fail((*path, "$id"), "expected an id only at the root: leave it out")

    def _combined(self, name: str, schema: Schema, path: Path) -> Any:
        where = (*path, name)
        if name in ("enum", "const"):
            return self._listed(name, schema, path)
        if "type" in schema and name == "$ref":
            raise self._fail((*path, "type"), "cannot be enforced beside $ref: leave it out")
        if name == "$ref":
            return {"$ref": f"#/$defs/{self._defined(schema['$ref'], where)}"}
        branches = schema[name]
        if not isinstance(branches, list) or not branches:
            raise self._fail(where, f"expected a list of schemas, got {what_came(branches)}")
        if "type" in schema:
            branches = [self._with_type(one, schema["type"], where) for one in branches]
        if name == "allOf" and len(branches) > 1:
            raise self._fail(where, "several schemas cannot be enforced together: merge them")
        if name == "oneOf" and not are_disjoint(branches, self._resolved):
            raise self._fail(
                where,
                "expected schemas of which at most one can hold, by their types or by a required "
                "property with different constants: use anyOf",
            )
        read = [
            self._read(one, (*where, str(index)))
            for index, one in enumerate(branches)
            if one is not False
        ]
        if not read:
            raise self._fail(where, "expected a schema that allows a value")
        return read[0] if len(read) == 1 else {"anyOf": read}

    def _with_type(self, branch: Any, names: Any, where: Path) -> Any:
        if not isinstance(branch, dict) or "$ref" in branch:
            raise self._fail(where, "expected no type beside it: move it into the schemas there")
        if branch.get("type", names) != names:
            raise self._fail(where, "expected the same type as beside it: leave that out")
        return {**branch, "type": names}

    def _listed(self, name: str, schema: Schema, path: Path) -> Schema:
        values = [schema["const"]] if name == "const" else schema["enum"]
        if not isinstance(values, list):
            raise self._fail((*path, name), f"expected a list of values, got {what_came(values)}")
        if "type" in schema:
            types = self._types(schema["type"], (*path, "type"))
            values = [one for one in values if has_type(one, types)]
        if not values:
            raise self._fail((*path, name), "expected a value of the type, got none")
        return {"enum": values}

    def _by_type(self, schema: Schema, path: Path) -> Any:
        if "type" in schema:
            types = self._types(schema["type"], (*path, "type"))
        else:
            types = [
                kind
                for kind, names in KEYWORDS.items()
                if names & schema.keys() and kind != "integer"
            ]
            if len(types) > 1:
                raise self._fail(path, f"expected a type, since it is about {' and '.join(types)}")
            if not types:
                return {}
        read = [self._of_type(kind, schema, path) for kind in types]
        return read[0] if len(read) == 1 else {"anyOf": read}

    def _types(self, names: Any, path: Path) -> list[str]:
        names = names if isinstance(names, list) else [names]
        for name in names:
            if not isinstance(name, str) or name not in KEYWORDS:
                raise self._fail(path, f"expected one of {', '.join(KEYWORDS)}, got {name!r:.40}")
        if not names:
            raise self._fail(path, "expected a type, got an empty list")
        return [name for name in dict.fromkeys(names) if name != "integer" or "number" not in names]

    def _of_type(self, kind: str, schema: Schema, path: Path) -> Schema:
        match kind:
            case "string":
                read = read_string(schema, path, self._fail)
                self._has_lengths |= "minLength" in read
                if "pattern" in read:
                    where = ".".join((self._field, *path, "pattern"))
                    self._patterns[where] = read["pattern"]
                return read
            case "integer":
                return read_integer(schema, path, self._fail)
            case "number":
                return read_number(schema, path, self._fail)
            case "array":
                return read_array(schema, path, self._fail, self._read)
            case "object":
                return read_object(schema, path, self._fail, self._read)
            case _:
                return {"type": kind}

    def _defined(self, pointer: Any, where: Path) -> str:
        if pointer not in self._names:
            target, path = self._find(pointer, where)
            seen = {pointer}
            while isinstance(target, dict) and isinstance(target.get("$ref"), str):
                if target["$ref"] in seen:
                    raise self._fail(where, f"the references from {pointer:.80} form a circle")
                seen.add(target["$ref"])
                target, path = self._find(target["$ref"], path)
            self._names[pointer] = name = f"s{len(self._names)}"
            self._waiting.append((name, target, path))
        return self._names[pointer]

    def _find(self, pointer: Any, where: Path) -> tuple[Any, Path]:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise self._fail(
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
                raise self._fail(where, f"{pointer:.80} is not in this schema")
        return found, tuple(steps)

    def _resolved(self, schema: Any) -> Any:
        """Follows references, for a comparison only."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema, _path = self._find(schema["$ref"], ())
        return schema

    def _require_end(self, root: Any) -> None:
        """A schema whose values contain a value of the same schema, always, has no values."""
        ending: set[str] = set()
        while more := {n for n in self._defs.keys() - ending if ends(self._defs[n], ending)}:
            ending |= more
        if not ends(root, ending):
            endless = next(p for p, n in self._names.items() if n not in ending)
            raise self._fail((), f"{endless:.80} contains itself without an end: make it optional")


_NESTING = frozenset(
    {
        *("properties", "items", "prefixItems", "additionalProperties", "patternProperties"),
        *("anyOf", "oneOf", "allOf"),
    }
)
