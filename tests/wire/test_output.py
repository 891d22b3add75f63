"""Output formats, grammars and errors about a field survive the wire."""

from __future__ import annotations

import pytest

from segue.api.errors import InvalidRequest
from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import (
    Choice,
    Ebnf,
    Grammar,
    JsonObject,
    JsonSchema,
    OutputFormat,
    Regex,
    Sampling,
    SessionId,
    StopConditions,
    StopRules,
    TextInput,
    ToolCalls,
    TurnId,
    TurnRequest,
)
from segue.v1 import session_pb2 as pb
from segue.wire.convert.request import request_from_wire, request_to_wire
from segue.wire.convert.turns import turn_from_wire, turn_to_wire
from segue.wire.error_details import error_from_wire, error_to_wire

FORMATS: list[OutputFormat] = [
    JsonSchema('{"type": "object"}', or_tool_calls=True),
    JsonObject(),
    Regex("é+"),
    Ebnf('root ::= "a"'),
    Choice(("a", "b")),
    ToolCalls(),
    ToolCalls("look", is_single=True),
]


@pytest.mark.parametrize("output", FORMATS)
def test_a_format_survives_the_wire(output: OutputFormat) -> None:
    request = TurnRequest(
        session_id=SessionId(""),
        turn_id=TurnId("t"),
        input=TextInput("a"),
        stop=StopConditions(max_tokens=9, min_tokens=3),
        output=output,
    )

    read = request_from_wire(request_to_wire(request), default_turn_id=TurnId("x"), default_seed=1)

    assert read.output == output
    assert read.stop == request.stop


def test_a_request_without_a_format_has_none_and_an_empty_one_is_refused() -> None:
    wire = pb.GenerateRequest(text="a")
    read = request_from_wire(wire, default_turn_id=TurnId("x"), default_seed=1)
    assert read.output is None

    wire.output.or_tool_calls = True
    with pytest.raises(InvalidRequest, match="expected one of json_schema") as raised:
        request_from_wire(wire, default_turn_id=TurnId("x"), default_seed=1)
    assert raised.value.field == "output"


@pytest.mark.parametrize("grammar", [None, Grammar(text="{}", after_reasoning=True)])
def test_a_workers_turn_has_its_grammar(grammar: Grammar | None) -> None:
    turn = TurnSpec(
        turn_id=TurnId("t"),
        session_id=SessionId("s"),
        context=Prompt((1, 2)),
        sampling=Sampling(),
        stop=StopRules(max_tokens=9, min_tokens=2),
        grammar=grammar,
    )

    assert turn_from_wire(turn_to_wire(turn), lambda name: Prompt()) == turn


def test_an_error_names_its_field_to_clients_of_every_language() -> None:
    error = InvalidRequest.at("output.json_schema.properties.a", "cannot be enforced")

    read = error_from_wire(error_to_wire(error))

    assert isinstance(read, InvalidRequest)
    assert (read.field, str(read)) == (error.field, str(error))
    assert error_from_wire(error_to_wire(InvalidRequest("other"))).__dict__.get("field", "") == ""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: JsonSchema(""), "expected a text, got an empty one"),
        (lambda: Regex("a" * 300_000), "at most 262144 bytes, got 300000"),
        (lambda: Choice(()), "expected 1 to 1024 texts, got 0"),
        (lambda: StopConditions(min_tokens=-1), "min_tokens must be between 0 and"),
        (lambda: StopConditions(min_tokens=5, max_tokens=4), r"at most max_tokens \(4\), got 5"),
    ],
)
def test_values_that_cannot_be_served_are_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidRequest, match=says):
        make()
