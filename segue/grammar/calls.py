"""Grammars of tool calls, in the formats that `segue.answers` reads.

Qwen's format writes strings as they are, so they must not contain markup, which would be
indistinguishable from the call's own. Parameters come in the order of the schema, those that are
not required may be left out, and no others are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from segue.api.errors import InvalidRequest
from segue.grammar.schema import PreparedSchema, read_schema

Format: TypeAlias = dict[str, Any]
"""A part of a structural tag."""

MAX_SPACES = 8
"""Most characters of whitespace between two tokens of JSON. Without a limit, a model may repeat
them until the answer's limit."""
_MARKUP = ["<parameter", "</parameter", "<function", "</function", "tool_call>", "think>"]
_FORMATS = ("qwen3_coder", "hermes")
_NAME = re.compile(r"[^<>\r\n]{1,256}")
# Parts of a pattern that may match the start of markup.
_MATCHES_MARKUP = re.compile(r"[<.]|\[\^|\\[SWDx]|\\u")
_MOST_CHARACTERS = 2_000
_NOTHING = {"type": "object", "properties": {}}


def json_of(schema: Any) -> Format:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": MAX_SPACES}


class CallGrammars:
    """The grammars of one chat's tools, each of which is JSON text as in `ChatInput`."""

    def __init__(self, tools: Sequence[str], call_format: str) -> None:
        """`call_format`: as in `segue.answers.ParserNames`. Raises InvalidRequest."""
        self.has_lengths = False
        """Some string in JSON has a limited length (`PreparedSchema.without_controls`)."""
        self.patterns: dict[str, str] = {}
        if call_format == "none":
            raise InvalidRequest.at(
                "output.tool_calls",
                "expected a checkpoint whose template writes tool calls in a known format: use "
                "json_schema",
            )
        self._is_hermes = call_format == "hermes"
        self._functions: dict[str, tuple[str, Any]] = {}
        for index, tool in enumerate(tools):
            read = json.loads(tool)
            function = read.get("function", read)
            field = f"tools[{index}].function.parameters"
            self._functions[function["name"]] = (field, function.get("parameters"))

    def of(self, name: str, *, is_single: bool) -> Format:
        """Calls of all tools, or of the named one. Raises InvalidRequest."""
        if not self._functions:
            raise InvalidRequest.at("output.tool_calls", "expected a chat with tools, got none")
        if name and name not in self._functions:
            known = ", ".join(self._functions)
            raise InvalidRequest.at(
                "output.tool_calls.name", f"expected one of {known:.400}, got {name!r:.80}"
            )
        names = [name] if name else list(self._functions)
        calls = [self._call(one) for one in names]
        return {
            "type": "tags_with_separator",
            "tags": calls,
            "separator": "\n",
            "at_least_one": True,
            "stop_after_first": is_single,
        }

    def _call(self, name: str) -> Format:
        field, parameters = self._functions[name]
        if not _NAME.fullmatch(name):
            raise InvalidRequest.at(
                field.removesuffix("parameters") + "name",
                f"expected a name without <, > and line ends, got {name!r:.80}: rename the tool",
            )
        prepared = read_schema(parameters or _NOTHING, field)
        if not _is_object(prepared.schema):
            raise InvalidRequest.at(field, "expected the schema of an object")
        self.patterns.update(prepared.patterns)
        if self._is_hermes:
            self.has_lengths |= prepared.without_controls
            begin = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": '
            return _tag(begin, json_of(prepared.schema), "}\n</tool_call>")
        begin, content = f"<tool_call>\n<function={name}>\n", self._parameters(prepared, field)
        return _tag(begin, content, "</function>\n</tool_call>")

    def _parameters(self, prepared: PreparedSchema, field: str) -> Format:
        schema = prepared.schema
        if "$ref" in schema:
            schema = prepared.schema["$defs"][schema["$ref"].rpartition("/")[2]]
        properties, required = schema.get("properties", {}), schema.get("required", [])
        # Limits on the number of parameters are met by always writing some optional ones, or never.
        optional = [name for name in properties if name not in required]
        num_more = max(schema.get("minProperties", 0) - len(required), 0)
        required = [*required, *optional[:num_more]]
        most = schema.get("maxProperties", len(properties))
        unwritten = optional[max(most - len(required) + num_more, num_more) :]
        parts: list[Format] = []
        for name, one in properties.items():
            if name in unwritten:
                continue
            if not _NAME.fullmatch(name):
                raise InvalidRequest.at(
                    f"{field}.properties", f"cannot write the name {name!r:.80}"
                )
            content = self._value(one, prepared, f"{field}.properties.{name}")
            parameter = _tag(f"<parameter={name}>\n", content, "\n</parameter>\n")
            is_required = name in required
            parts.append(parameter if is_required else {"type": "optional", "content": parameter})
        if not parts:
            return {"type": "const_string", "value": ""}
        return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": parts}

    def _value(self, schema: Any, prepared: PreparedSchema, field: str) -> Format:
        """A value as templates write it: a string as it is, anything else as JSON."""
        defs = prepared.schema.get("$defs", {})
        branches = _flattened(schema, defs)
        strings = [one for one in branches if one.get("type") == "string"]
        others = [one for one in branches if one.get("type") != "string" and "enum" not in one]
        values = [value for one in branches for value in one.get("enum", ())]
        if not schema or any(set(one) <= {"type", "format"} for one in strings):
            # The parser reads a text as another type if that is possible and allowed.
            return {"type": "any_text", "excludes": _MARKUP}
        elements = [self._limited_text(one, field) for one in strings]
        elements += [{"type": "const_string", "value": _written(one, field)} for one in values]
        for one in others:
            self.has_lengths |= prepared.without_controls
            elements.append(json_of({**one, "$defs": defs} if defs else one))
        return elements[0] if len(elements) == 1 else {"type": "or", "elements": elements}

    def _limited_text(self, schema: Mapping[str, Any], field: str) -> Format:
        pattern = schema.get("pattern")
        if pattern is not None and _MATCHES_MARKUP.search(pattern):
            raise InvalidRequest.at(
                f"{field}.pattern",
                "expected a pattern without <, ., negated classes and escapes: in this "
                "checkpoint's tool calls it could match markup",
            )
        if pattern is not None:
            return {"type": "regex", "pattern": pattern}
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        if max(low, high or 0) > _MOST_CHARACTERS:
            if low > _MOST_CHARACTERS:
                raise InvalidRequest.at(
                    f"{field}.minLength", f"expected at most {_MOST_CHARACTERS}, got {low}"
                )
            high = _MOST_CHARACTERS
        return {"type": "regex", "pattern": f"[^<]{{{low},{high}}}"}


def _tag(begin: str, content: Format, end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _is_object(schema: Any) -> bool:
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return bool(schema.get("type") == "object" or schema.get("enum") == [{}])


def _flattened(schema: Any, defs: Mapping[str, Any], depth: int = 8) -> list[Mapping[str, Any]]:
    """The branches of unions, at any depth."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema and depth:
        return [one for branch in schema["anyOf"] for one in _flattened(branch, defs, depth - 1)]
    return [schema]


def _written(value: Any, field: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if any(markup in text for markup in _MARKUP):
        raise InvalidRequest.at(field, f"a tool call cannot contain the value {text!r:.80}")
    return text
