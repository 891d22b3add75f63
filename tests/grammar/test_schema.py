"""JSON schemas: what is enforced, what is rewritten, and what is refused, with its path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segue.api.errors import InvalidRequest
from segue.grammar.schema import parse_schema, read_schema


def read(schema: Any) -> Any:
    return read_schema(schema, "s").schema


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"minimum": 0.5, "type": "integer"}, {"type": "integer", "minimum": 1}),
        ({"minimum": 3}, {"type": "number", "minimum": 3}),
        ({"type": "integer", "exclusiveMaximum": 4}, {"type": "integer", "maximum": 3}),
        ({"type": ["integer", "number"]}, {"type": "number"}),
        ({"type": "string", "const": "a"}, {"enum": ["a"]}),
        ({"type": "integer", "enum": [1, "a", 2.0, True]}, {"enum": [1, 2.0]}),
        ({"allOf": [{"type": "null"}], "description": "x"}, {"type": "null"}),
        ({"anyOf": [{"type": "null"}, False]}, {"type": "null"}),
        ({"items": [{"type": "null"}]}, {"prefixItems": [{"type": "null"}], "type": "array"}),
        ({"type": "string", "format": "date", "maxLength": 9}, {"type": "string", "maxLength": 9}),
        ({"type": "string", "format": "made-up"}, {"type": "string"}),
        ({"type": "object", "required": ["a"]}, {"properties": {"a": {}}, "required": ["a"]}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"title": "x", "default": 3, "x-more": {}}, {}),
        ({"type": "object", "properties": {}}, {"const": {}}),
    ],
)
def test_schemas_that_mean_the_same_are_enforced_alike(schema: Any, same: Any) -> None:
    assert read(schema) == read(same)


def test_references_are_gathered_wherever_they_point() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"$ref": "#/properties/a"}},
        "patterns": {"x/y": {"type": "boolean"}},
        "additionalProperties": {"$ref": "#/patterns/x~1y"},
    }

    found = read(schema)

    assert found["properties"]["b"] == {"$ref": "#/$defs/s0"}
    assert found["additionalProperties"] == {"$ref": "#/$defs/s1"}
    assert found["$defs"] == {"s0": {"type": "null"}, "s1": {"type": "boolean"}}


def test_a_schema_may_contain_itself_if_it_can_end() -> None:
    tree = {"properties": {"more": {"type": "array", "items": {"$ref": "#"}}}, "required": ["more"]}

    read({"type": "object", **tree})
    with pytest.raises(InvalidRequest, match="contains itself without an end"):
        read({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})


@pytest.mark.parametrize(
    ("schema", "path", "says"),
    [
        (5, "", "expected a JSON schema"),
        (False, "", "allows no value"),
        ({"not": {}}, "not", "cannot be enforced"),
        ({"type": "objekt"}, "type", "expected one of string, integer"),
        ({"items": {"anyOf": [{}, {"if": {}}]}}, "items.anyOf.1.if", "cannot be enforced"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "cannot be enforced"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "properties.a.$ref", "is not in this"),
        ({"$ref": "http://a/b"}, "$ref", "a reference into this schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref", "form a circle"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "minimum": 3}, "minimum", "beside $ref"),
        ({"anyOf": [{}], "minLength": 3}, "minLength", "beside anyOf"),
        ({"anyOf": []}, "anyOf", "a list of schemas"),
        ({"allOf": [{}, {}]}, "allOf", "merge them"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "use anyOf"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf", "for numbers"),
        ({"type": "integer", "multipleOf": 2, "minimum": 1}, "multipleOf", "without bounds"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "", "no integer"),
        ({"type": "number", "minimum": 10**20}, "minimum", "expected at most"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength", "at most maxLength"),
        ({"type": "string", "pattern": "a(?=b)"}, "pattern", "lookarounds"),
        ({"type": "string", "pattern": "a^b"}, "pattern", "^ only at the start"),
        ({"type": "string", "pattern": "(a)\\1"}, "pattern", "references to groups"),
        ({"type": "string", "pattern": "a", "minLength": 2}, "", "together"),
        (
            {"type": "object", "properties": {"a": False}, "required": ["a"]},
            "properties.a",
            "false",
        ),
        (
            {"additionalProperties": False, "properties": {}, "required": ["a"]},
            "required",
            "describe it",
        ),
        ({"type": "object", "minProperties": 2}, "minProperties", "above 1"),
        (
            {"patternProperties": {"^a": {}}, "properties": {"b": {}}},
            "patternProperties",
            "one pattern",
        ),
        ({"pattern": "a", "minimum": 2}, "", "expected a type"),
        ({"properties": {"a": {"$id": "x"}}}, "properties.a.$id", "only at the root"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_path(
    schema: Any, path: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(schema)

    assert raised.value.field == ".".join(filter(None, ("s", path)))
    assert says in str(raised.value)


def test_a_schema_may_not_be_too_deep_or_too_large() -> None:
    deep: Any = {"type": "null"}
    for _ in range(33):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InvalidRequest, match="at most 32 schemas in each other") as raised:
        read(deep)
    assert raised.value.field == "s" + ".items" * 33
    with pytest.raises(InvalidRequest, match="at most 5000 schemas"):
        read({"anyOf": [{"type": "null"}] * 6000})
    with pytest.raises(InvalidRequest, match="at most 32 schemas in each other, got far more"):
        parse_schema("[" * 100_000, "s")


@pytest.mark.parametrize("text", ["{", "NaN", '{"minimum": Infinity}'])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="expected JSON") as raised:
        parse_schema(text, "s")
    assert raised.value.field == "s"


def test_branches_that_constants_tell_apart_are_anyof() -> None:
    kinds = [
        {"type": "object", "properties": {"k": {"const": k}}, "required": ["k"]} for k in ("a", "b")
    ]

    assert read({"oneOf": kinds}) == read({"anyOf": kinds})
    assert json.dumps(read({"oneOf": [{"type": "string"}, {"type": "null"}]}))
