"""The checkpoint's chat template: messages and tools to the text that the model reads.

A template is a program that came with the checkpoint, so it runs in jinja2's sandbox, with the
names and filters that `transformers` gives it and nothing else.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from segue.errors import InvalidCheckpoint, InvalidRequest
from segue.text.conversation import Conversation, Json, read_conversation
from segue.text.template_source import TemplateSource, read_template_source
from segue.types import ChatInput


class ChatTemplate:
    """The template of one checkpoint, compiled."""

    def __init__(self, source: TemplateSource) -> None:
        """Raises InvalidCheckpoint if the source does not compile."""
        self._source = source
        self._plain = _compile(source.plain, source.origin)
        self._with_tools = (
            self._plain
            if source.with_tools == source.plain
            else _compile(source.with_tools, source.origin)
        )

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate | None:
        """The folder's template, None if it has none. Raises InvalidCheckpoint."""
        source = read_template_source(folder)
        return None if source is None else cls(source)

    def render(self, chat: ChatInput) -> str:
        """The prompt as text, up to where the assistant begins to speak. Raises InvalidRequest."""
        return self.render_conversation(read_conversation(chat))

    def render_conversation(
        self, conversation: Conversation, *, add_generation_prompt: bool = True
    ) -> str:
        """As `render`, for messages that were checked (and perhaps shielded) before."""
        template = self._with_tools if conversation.tools else self._plain
        try:
            return template.render(
                **self._source.named_tokens,
                messages=conversation.messages,
                tools=conversation.tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=conversation.enable_thinking,
            )
        except _Refusal as refusal:
            raise InvalidRequest(
                f"the checkpoint's chat template refuses these messages: {refusal}"
            ) from None
        except SecurityError as error:
            raise InvalidCheckpoint(
                f"{self._source.origin} does what a chat template must not do: {error}"
            ) from None
        # A template is a program of someone else's: anything can come out of it.
        except Exception as error:
            raise InvalidRequest(
                f"the checkpoint's chat template cannot render these messages "
                f"({type(error).__name__}: {error}): compare messages, tools and tool call "
                f"arguments with what {self._source.origin} reads"
            ) from None


class _Refusal(jinja2.TemplateError):
    """A template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %}` tells trainers which part the assistant wrote; here it only passes on."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it without ClassVar

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str, origin: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_refusal
    environment.globals["strftime_now"] = _format_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidCheckpoint(
            f"{origin}, line {error.lineno}: not a valid chat template: {error.message}"
        ) from None


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
    raise _Refusal(message)


def _format_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
