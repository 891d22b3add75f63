"""The form of an answer: the formats that clients ask for, and the grammar that workers receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from segue.api.checks import require, require_type
from segue.api.errors import InvalidRequest
from segue.api.messages import require_text

MAX_FORMAT_BYTES = 256 << 10
"""Limit for a schema, a regular expression or a grammar, in UTF-8."""
MAX_CHOICES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    or_tool_calls: bool = False
    """The answer may instead call the chat's tools."""


@dataclass(frozen=True, slots=True)
class JsonSchema(_Format):
    """JSON that is valid by this schema (JSON text). docs/http.md lists the keywords."""

    schema: str

    def __post_init__(self) -> None:
        _check_text("json_schema", self.schema)


@dataclass(frozen=True, slots=True)
class JsonObject(_Format):
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class Regex(_Format):
    """A text that matches all of this regular expression."""

    pattern: str

    def __post_init__(self) -> None:
        _check_text("regex", self.pattern)


@dataclass(frozen=True, slots=True)
class Ebnf(_Format):
    """A text of this grammar, in the EBNF of llama.cpp (GBNF); it starts with the rule `root`."""

    grammar: str

    def __post_init__(self) -> None:
        _check_text("ebnf", self.grammar)


@dataclass(frozen=True, slots=True)
class Choice(_Format):
    """One of these texts."""

    choices: tuple[str, ...]

    def __post_init__(self) -> None:
        require_type("choice", self.choices, (list, tuple), 'a tuple such as ("yes", "no")')
        if not 1 <= len(self.choices) <= MAX_CHOICES:
            raise InvalidRequest.at(
                "output.choice",
                f"expected 1 to {MAX_CHOICES} texts, got {len(self.choices)}",
            )
        for text in self.choices:
            _check_text("choice", text)


@dataclass(frozen=True, slots=True)
class ToolCalls(_Format):
    """One or more calls of the chat's tools, without other text."""

    name: str = ""
    """The only tool that may be called. Empty: any."""
    is_single: bool = False
    """Exactly one call."""

    def __post_init__(self) -> None:
        require_text("output.tool_calls.name", self.name)
        require_type("is_single", self.is_single, bool, "True or False")


OutputFormat: TypeAlias = JsonSchema | JsonObject | Regex | Ebnf | Choice | ToolCalls


def _check_text(kind: str, text: str) -> None:
    field = f"output.{kind}"
    require_text(field, text)
    if not text:
        raise InvalidRequest.at(field, "expected a text, got an empty one")
    if len(text.encode()) > MAX_FORMAT_BYTES:
        raise InvalidRequest.at(
            field,
            f"expected at most {MAX_FORMAT_BYTES} bytes, got {len(text.encode())}: shorten it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Restricts the tokens of an answer. Equal grammars are compiled once."""

    text: str
    """A structural tag of xgrammar, in JSON."""
    after_reasoning: bool = False
    """The prompt ends inside reasoning, and the grammar starts after its end."""
    without_controls: bool = False
    """Excludes tokens with control characters other than line ends, such as tabs."""

    def __post_init__(self) -> None:
        require(bool(self.text), "expected the text of a grammar, got an empty one")
