"""The form of an answer, to protobuf and back."""

from __future__ import annotations

from segue.api.errors import InvalidRequest
from segue.api.types import Choice, Ebnf, JsonObject, JsonSchema, OutputFormat, Regex, ToolCalls
from segue.v1 import session_pb2 as pb


def output_to_wire(output: OutputFormat) -> pb.OutputFormat:
    wire = pb.OutputFormat(or_tool_calls=output.or_tool_calls)
    match output:
        case JsonSchema(schema=schema):
            wire.json_schema = schema
        case JsonObject():
            wire.json_object.SetInParent()
        case Regex(pattern=pattern):
            wire.regex = pattern
        case Ebnf(grammar=grammar):
            wire.ebnf = grammar
        case Choice(choices=choices):
            wire.choice.texts.extend(choices)
            wire.choice.SetInParent()
        case ToolCalls(name=name, is_single=is_single):
            wire.tool_calls.name = name
            wire.tool_calls.single = is_single
            wire.tool_calls.SetInParent()
    return wire


def output_from_wire(wire: pb.OutputFormat) -> OutputFormat:
    """Raises InvalidRequest."""
    or_calls = wire.or_tool_calls
    match wire.WhichOneof("format"):
        case "json_schema":
            return JsonSchema(wire.json_schema, or_tool_calls=or_calls)
        case "json_object":
            return JsonObject(or_tool_calls=or_calls)
        case "regex":
            return Regex(wire.regex, or_tool_calls=or_calls)
        case "ebnf":
            return Ebnf(wire.ebnf, or_tool_calls=or_calls)
        case "choice":
            return Choice(tuple(wire.choice.texts), or_tool_calls=or_calls)
        case "tool_calls":
            return ToolCalls(
                wire.tool_calls.name, is_single=wire.tool_calls.single, or_tool_calls=or_calls
            )
        case _:
            raise InvalidRequest.at(
                "output",
                "expected one of json_schema, json_object, regex, ebnf, choice and tool_calls, "
                "got none: leave output out for an answer of any form",
            )
