"""Builds the grammar of a turn from the format that its client wants. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from segue.api.types import (
    Choice,
    Ebnf,
    Grammar,
    JsonObject,
    JsonSchema,
    OutputFormat,
    Regex,
    ToolCalls,
)
from segue.grammar.calls import CallGrammars, Format, json_of
from segue.grammar.schema import check_pattern, parse_schema, read_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """What a grammar is built from."""

    output: OutputFormat
    tools: tuple[str, ...] = ()
    """The chat's, if the answer may call them."""
    call_format: str = "none"
    after_reasoning: bool = False

    @property
    def size_bytes(self) -> int:
        return len(repr(self))


@dataclass(frozen=True, slots=True)
class BuiltGrammar:
    grammar: Grammar
    patterns: dict[str, str]
    """Regular expressions in it, by the path that the client knows."""
    field: str
    """The field that it was built from."""


def build(spec: GrammarSpec) -> BuiltGrammar:
    """Raises InvalidRequest with the path of the part that cannot be served."""
    output = spec.output
    patterns: dict[str, str] = {}
    without_controls = False
    calls = None
    may_call = output.or_tool_calls and spec.tools and spec.call_format != "none"
    if isinstance(output, ToolCalls) or may_call:
        calls = CallGrammars(spec.tools, spec.call_format)
    if isinstance(output, ToolCalls):
        assert calls is not None
        field, form = "output.tool_calls", calls.of(output.name, is_single=output.is_single)
    else:
        field, form, patterns, without_controls = _form_of(output)
    if calls is not None:
        if not isinstance(output, ToolCalls):
            form = _one_of([calls.of("", is_single=False), form])
        patterns = {**patterns, **calls.patterns}
        without_controls |= calls.has_lengths
    if spec.after_reasoning:
        # Templates write an empty line after the reasoning.
        form = {"type": "sequence", "elements": [{"type": "regex", "pattern": "\\n{0,2}"}, form]}
    text = json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)
    grammar_of = Grammar(
        text=text, after_reasoning=spec.after_reasoning, without_controls=without_controls
    )
    return BuiltGrammar(grammar_of, patterns, field)


def _form_of(
    output: JsonSchema | JsonObject | Regex | Ebnf | Choice,
) -> tuple[str, Format, dict[str, str], bool]:
    """Field, form, patterns in it, and whether strings in it have lengths."""
    match output:
        case JsonSchema(schema=text):
            field = "output.json_schema"
            prepared = read_schema(parse_schema(text, field), field)
            form = json_of(prepared.schema)
            return field, form, prepared.patterns, prepared.without_controls
        case JsonObject():
            return "output.json_object", json_of({"type": "object"}), {}, False
        case Regex(pattern=pattern):
            field = "output.regex"
            form = {"type": "regex", "pattern": check_pattern(pattern, field)}
            return field, form, {}, False
        case Ebnf(grammar=grammar):
            return "output.ebnf", {"type": "grammar", "grammar": grammar}, {}, False
        case Choice(choices=choices):
            return "output.choice", _one_of([_text(one) for one in choices]), {}, False


def _one_of(formats: list[Format]) -> Format:
    return formats[0] if len(formats) == 1 else {"type": "or", "elements": formats}


def _text(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}
