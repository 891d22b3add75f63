"""What a chat template may use: jinja2's sandbox with the names that `transformers` adds, and a
limited amount of time and output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from segue.api.errors import InvalidCheckpoint, InvalidRequest
from segue.text.conversation import Json
from segue.text.template.shield import ControlMarks

MAX_RENDER_S = 10.0
"""Rendering a million tokens takes about a second."""
MAX_CHARACTERS = 1 << 26
_LOOK_EVERY = 64


class TemplateRaised(jinja2.TemplateError):
    """A template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's part for training; here it only emits its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it without ClassVar

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_refusal
    environment.globals["strftime_now"] = _format_now
    return environment


def compile_template(
    source: str, origin: str, marks: ControlMarks | None = None
) -> jinja2.Template:
    """With `marks`, the template writes marks for control tokens. Raises InvalidCheckpoint."""
    return compile_tree(*parse_template(source, origin, marks))


def compile_tree(environment: jinja2.Environment, tree: nodes.Template) -> jinja2.Template:
    code = environment.compile(tree)
    return jinja2.Template.from_code(environment, code, environment.make_globals(None), None)


def tokens_looked_for(source: str, origin: str, marks: ControlMarks) -> frozenset[str]:
    """The control tokens that the template searches texts for. Raises InvalidCheckpoint."""
    return marks.looked_for(parse_template(source, origin, marks)[1])


def parse_template(
    source: str, origin: str, marks: ControlMarks | None = None
) -> tuple[jinja2.Environment, nodes.Template]:
    """As `compile_template`, but not compiled, with its own environment."""
    environment = _environment()
    try:
        tree = environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidCheckpoint(
            f"{origin}, line {error.lineno}: not a valid chat template: {error.message}"
        ) from None
    if marks:
        marks.mark_literals(tree)
    return environment, tree


def _to_json(
    value: Json,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML; models were trained on text without that."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_refusal(message: str) -> NoReturn:
    raise TemplateRaised(message)


def _format_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


RESERVED_NAMES = frozenset(
    {"messages", "tools", "documents", "chat_template", "add_generation_prompt"}
) | set(_environment().globals)
"""Names that only the router sets, including its functions."""


def bounded(
    pieces: Iterable[str],
    *,
    max_s: float = MAX_RENDER_S,
    max_characters: int = MAX_CHARACTERS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """The pieces as the template emits them. Raises InvalidRequest if it takes too long or writes
    too much: a template is a program, and a client chooses what it computes on.
    """
    ends_at = clock() + max_s
    num_characters = 0
    for number, piece in enumerate(pieces):
        num_characters += len(piece)
        if num_characters > max_characters:
            raise InvalidRequest(
                f"the chat template writes more than {max_characters} characters for this request: "
                "shorten messages and tools, or change chat_template_kwargs"
            )
        if not number % _LOOK_EVERY and clock() > ends_at:
            raise InvalidRequest(
                f"the chat template takes more than {max_s:g} s for this request: "
                "shorten messages and tools, or change chat_template_kwargs"
            )
        yield piece
