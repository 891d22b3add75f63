"""How a parameter's text is read under its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.answers.tool_calls.literals import Json
from segue.answers.tool_calls.schema import Schemas
from segue.answers.tool_calls.values import read_value
from segue.text.conversation import MAX_NESTING

DEFINITIONS = {
    "$defs": {
        "P": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "Id": {"type": "string"},
        "a/b~c d": {"type": "integer"},
        "Node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
            "required": ["next"],
        },
        "Loop": {"$ref": "#/$defs/Loop"},
        "Wide": {"anyOf": [{"$ref": "#/$defs/Wide"}] * 8},
    },
    "definitions": {"Old": {"type": "array"}},
    "properties": {"other": {"type": "boolean"}},
}
NULL = {"type": "null"}


def read(text: str, schema: dict[str, Any] | None) -> Json:
    return read_value(text, schema, Schemas(DEFINITIONS))


def is_same(value: Json, other: Json) -> bool:
    return type(value) is type(other) and json.dumps(value) == json.dumps(other)


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        # Text is text, whatever it looks like.
        ("123", {"type": "string"}, "123"),
        ("123", {"type": "STRING"}, "123"),
        ('"quoted"', {"type": "string"}, '"quoted"'),
        ("null", {"type": "string"}, "null"),
        ('{"a": 1}', {"type": "string"}, '{"a": 1}'),
        ("02134", {"$ref": "#/$defs/Id"}, "02134"),
        (" a ", {"type": "string"}, " a "),
        # Numbers.
        ("7", {"type": "integer"}, 7),
        ("7", {"type": "INTEGER"}, 7),
        (" 7 ", {"type": "integer"}, 7),
        ("3.0", {"type": "integer"}, 3),
        ("1e3", {"type": "integer"}, 1000),
        ("3.0", {"type": "number"}, 3.0),
        ("3", {"type": "number"}, 3),
        ("007", {"type": "integer"}, 7),
        ("+5", {"type": "integer"}, 5),
        ("-0", {"type": "integer"}, 0),
        ("-0.0", {"type": "number"}, -0.0),
        (".5", {"type": "number"}, 0.5),
        ("1e-05", {"type": "number"}, 1e-05),
        ("12345678901234567890123", {"type": "integer"}, 12345678901234567890123),
        ('"7"', {"type": "integer"}, 7),
        ("1e999", {"type": "number"}, "1e999"),
        ("NaN", {"type": "number"}, "NaN"),
        ("-Infinity", {"type": "number"}, "-Infinity"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("many", {"type": "integer"}, "many"),
        ("1_000", {"type": "integer"}, 1000),
        ("-1_000.5", {"type": "number"}, -1000.5),
        ("1__0", {"type": "integer"}, "1__0"),
        ("_1", {"type": "integer"}, "_1"),
        ("1_000", {"type": ["string", "integer"]}, "1_000"),
        ("-inf", {"type": "number"}, "-inf"),
        ("7", {"type": "uint32"}, 7),
        ("7", {"type": "Long"}, 7),
        ("1.5", {"type": "numeric(10, 2)"}, 1.5),
        ("7", {"type": "varchar(20)"}, "7"),
        ("[7]", {"type": "varchar(20)"}, "[7]"),
        ("", {"type": "integer"}, ""),
        ("1.5", {"type": "integer"}, 1.5),
        # Booleans and null, as JSON and as Python print them.
        ("true", {"type": "boolean"}, True),
        ("True", {"type": "boolean"}, True),
        ("FALSE", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("None", {"type": ["integer", "null"]}, None),
        ("null", {"type": ["integer", "null"]}, None),
        ("", {"type": ["integer", "null"]}, None),
        ("None", {"type": "object", "nullable": True}, None),
        ("None", {"type": "integer"}, None),
        # Lists and objects.
        ("['a', 'b']", {"type": "array"}, ["a", "b"]),
        ("('a', None, True, 1.5,)", {"type": "array"}, ["a", None, True, 1.5]),
        (
            "[{'a': \"it's\", 'b': 'say \\'x\\''}]",
            {"type": "array"},
            [{"a": "it's", "b": "say 'x'"}],
        ),
        ("['\\x41\\u00e9\\n\\d']", {"type": "array"}, ["A\u00e9\n\\d"]),
        (
            "{1: 'a', -2.5: 'b', True: 'c', None : 'd'}",
            {"type": "object"},
            {"1": "a", "-2.5": "b", "true": "c", "null": "d"},
        ),
        ("{'a': nan, 'b': [-inf, inf]}", {"type": "object"}, {"a": "nan", "b": ["-inf", "inf"]}),
        ("{'a': 1_000, 'b': -2, 'c': 1e3}", {"type": "object"}, {"a": 1000, "b": -2, "c": 1e3}),
        ("{'a1': 'b', 'nano': 'info'}", {"type": "object"}, {"a1": "b", "nano": "info"}),
        ("{(1, 2): 3}", {"type": "object"}, "{(1, 2): 3}"),
        ("[nano]", {"type": "array"}, "[nano]"),
        ("[12:34]", {"type": "array"}, "[12:34]"),
        ("['a']", {"type": "list[str]"}, ["a"]),
        ("{'a': 1}", {"type": "dict[str, int]"}, {"a": 1}),
        ("[1]", {"type": "array<int>"}, [1]),
        ("[1]", {"type": "string[]"}, [1]),
        ('{"a": 1, "b": [1, 2,],}', {"type": "object"}, {"a": 1, "b": [1, 2]}),
        ('{"a": "two\nlines"}', {"type": "object"}, {"a": "two\nlines"}),
        ('{"zip": "02134", "n": "4"}', {"type": "object"}, {"zip": "02134", "n": "4"}),
        ('"{\\"a\\": 1}"', {"type": "object"}, {"a": 1}),
        ('{"a": NaN, "b": 1e999}', {"type": "object"}, {"a": "NaN", "b": "1e999"}),
        ('["\\ud83d\\ude80"]', {"type": "array"}, ["\N{ROCKET}"]),
        ('["\\ud800"]', {"type": "array"}, '["\\ud800"]'),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ("['a]", {"type": "array"}, "['a]"),
        ("[1]", {"type": "object"}, [1]),
        # More than one type.
        ("4", {"type": ["string", "null"]}, "4"),
        ("null", {"type": ["string", "null"]}, None),
        ("None", {"type": "string", "nullable": True}, None),
        ("none", {"type": ["string", "null"]}, "none"),
        ("", {"type": ["string", "null"]}, ""),
        ("4", {"anyOf": [{"type": "string"}, NULL]}, "4"),
        ('{"city": "Paris"}', {"anyOf": [{"type": "object"}, NULL]}, {"city": "Paris"}),
        ('{"a": 1}', {"oneOf": [{"$ref": "#/$defs/P"}, NULL]}, {"a": 1}),
        ('{"a": "x"}', {"anyOf": [{"$ref": "#/$defs/P"}, {"type": "string"}]}, '{"a": "x"}'),
        ("4", {"type": ["string", "integer"]}, 4),
        ("02134", {"type": ["string", "integer"]}, "02134"),
        ("1.0", {"type": ["string", "integer"]}, "1.0"),
        (" 4", {"type": ["string", "integer"]}, " 4"),
        ("1.5", {"type": ["string", "number"]}, 1.5),
        ("1.50", {"type": ["string", "number"]}, "1.50"),
        ("['a']", {"type": ["string", "array"]}, ["a"]),
        ("4", {"allOf": [{"type": ["string", "integer"]}, {"type": "integer"}]}, 4),
        ("4", {"allOf": [{"$ref": "#/$defs/Id"}], "description": "x"}, "4"),
        # Enumerated values.
        ("1", {"enum": [1, 2]}, 1),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("1", {"enum": [True, "a"]}, "1"),
        ("True", {"enum": [True, "a"]}, True),
        ("None", {"enum": ["a", None]}, None),
        ("None", {"enum": ["None", None]}, "None"),
        ("2.5", {"const": 2.5}, 2.5),
        ("4", {"const": "4"}, "4"),
        ("4", {"anyOf": [{"const": "4"}, {"type": "integer"}]}, "4"),
        ("5", {"anyOf": [{"const": "4"}, {"type": "integer"}]}, 5),
        # References.
        ('{"a": 1}', {"$ref": "#/$defs/P"}, {"a": 1}),
        ("7", {"$ref": "#/$defs/a~1b~0c%20d"}, 7),
        ("[1]", {"$ref": "#/definitions/Old"}, [1]),
        ("True", {"$ref": "#/properties/other"}, True),
        ("7", {"$ref": "#/$defs/Here", "$defs": {"Here": {"type": "integer"}}}, 7),
        ('{"next": {"next": null}}', {"$ref": "#/$defs/Node"}, {"next": {"next": None}}),
        ('{"a": 1}', {"$ref": "#/$defs/Missing"}, {"a": 1}),
        ("7", {"$ref": "#/$defs/Missing"}, "7"),
        ("7", {"$ref": "https://example.org/schema"}, "7"),
        ("7", {"$ref": "#/$defs/Loop"}, "7"),
        ("7", {"$ref": "#/$defs/Wide"}, "7"),
        ('{"a": 1}', {"$ref": "#/$defs/Loop"}, {"a": 1}),
        # No type, or one without information: lists and objects are read, and nothing is guessed.
        ("02134", {}, "02134"),
        ("4", {}, "4"),
        ("true", {"description": "any"}, "true"),
        ('{"a": "4"}', {}, {"a": "4"}),
        ("[1]", {"type": "any"}, [1]),
        ("4", {"type": "date"}, "4"),
        ("4", {"type": 7}, "4"),
        ("4", {"type": []}, "4"),
        ("4", {"anyOf": []}, "4"),
        ("4", {"enum": None, "anyOf": None, "allOf": 3, "properties": 1}, "4"),
        ('{"a": 1}', {"properties": {"a": {"type": "integer"}}}, {"a": 1}),
        ("[1]", {"items": {"type": "integer"}}, [1]),
        ("{'a': 1}", {"additionalProperties": {"type": "integer"}}, {"a": 1}),
        ("[1]", {"minItems": 1}, [1]),
        ('{"a": 1}', {"minLength": 1}, '{"a": 1}'),
        ("4", {"minimum": 0}, 4),
        ("2.5", {"exclusiveMaximum": 3.5}, 2.5),
        # No schema at all.
        ("02134", None, "02134"),
        ('{"a": 1}', None, '{"a": 1}'),
    ],
)
def test_a_text_is_read_as_its_schema_requires(
    text: str, schema: dict[str, Any] | None, value: Json
) -> None:
    assert is_same(read(text, schema), value)


@pytest.mark.parametrize(
    ("schema", "name", "found"),
    [
        ({"properties": {"a": {"type": "integer"}}}, "a", {"type": "integer"}),
        ({"properties": {"a": {"type": "integer"}}}, "b", None),
        ({"properties": {"a": True}}, "a", {}),
        ({"properties": None}, "a", None),
        ({"properties": []}, "a", None),
        ({"additionalProperties": {"type": "integer"}}, "b", {"type": "integer"}),
        ({"additionalProperties": False}, "b", None),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": NULL}}}}, "a", NULL),
        ({"allOf": [{"properties": {"a": NULL}}, {"$ref": "#"}]}, "a", NULL),
        ({"anyOf": [{"properties": {"b": {}}}, {"properties": {"a": NULL}}]}, "a", NULL),
    ],
)
def test_a_parameter_has_the_schema_that_the_function_gives_it(
    schema: dict[str, Any], name: str, found: object
) -> None:
    assert Schemas(schema).of_parameter(name) == found


def test_a_value_too_deep_for_a_conversation_stays_text() -> None:
    deep = "[" * (MAX_NESTING - 2) + "]" * (MAX_NESTING - 2)

    assert read(deep, {"type": "array"}) == deep
    assert read("[" * 100_000, {"type": "array"}) == "[" * 100_000
    assert read("[[[]]]", {"type": "array"}) == [[[]]]


SCHEMAS = st.recursive(
    st.sampled_from([{}, True, None, {"type": "string"}, {"type": 4}, {"$ref": "#/$defs/Loop"}]),
    lambda inner: st.dictionaries(
        st.sampled_from(
            ["type", "anyOf", "oneOf", "allOf", "enum", "const", "items", "properties", "$ref"]
        ),
        inner | st.lists(inner, max_size=3),
        max_size=3,
    ),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.sampled_from(["anyOf", "properties", "type"]), SCHEMAS))
def test_any_schema_and_any_text_can_be_read(text: str, schema: dict[str, Any]) -> None:
    json.dumps(read(text, schema), allow_nan=False)
