"""The checkpoint's chat template: renders messages and tools to the text that the model reads.

A template is a program that ships with the checkpoint. It runs in jinja2's sandbox, with only the
names and filters that `transformers` provides.

To continue an assistant message that the client started, a mark is appended to the field that stays
open, the template runs, and the prompt is cut at the mark. `transformers` does the same for
`continue_final_message`, but our mark cannot occur in a client's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from jinja2.exceptions import SecurityError

from segue.api.errors import InvalidCheckpoint, InvalidRequest
from segue.api.types import ChatInput
from segue.text.conversation import Conversation, Json, JsonObject, read_conversation
from segue.text.replay.fold import fold_instructions
from segue.text.template.environment import RESERVED_NAMES, TemplateRaised, bounded
from segue.text.template.program import TemplateProgram
from segue.text.template.shield import END_MARK, ControlMarks
from segue.text.template.source import TemplateSource, read_template_source

_REASONING = ("reasoning_content", "thinking")
# A template that trims removes the space; then the prompt is trimmed as well.
_END = END_MARK + " "


class ChatTemplate:
    """One checkpoint's template, compiled."""

    def __init__(self, source: TemplateSource, marks: ControlMarks | None = None) -> None:
        """`marks` are the tokenizer's (`shield.py`). Raises InvalidCheckpoint if the source does
        not compile, or if it builds control tokens in a way that cannot be distinguished from a
        client's text.
        """
        self.marks = marks or ControlMarks()
        self.source = source
        self._reserved = RESERVED_NAMES | set(source.named_tokens)
        self._plain = self._compile(source.plain)
        self._with_tools = (
            self._plain if source.with_tools == source.plain else self._compile(source.with_tools)
        )

    def _compile(self, source: str) -> TemplateProgram:
        return TemplateProgram(source, self.source.named_tokens, self.source.origin, self.marks)

    @classmethod
    def from_folder(cls, folder: Path, marks: ControlMarks | None = None) -> ChatTemplate | None:
        """The folder's template, None if it has none. Raises InvalidCheckpoint."""
        source = read_template_source(folder)
        return None if source is None else cls(source, marks)

    def render(self, chat: ChatInput) -> str:
        """The prompt as text, up to the start of the answer. Raises InvalidRequest."""
        return self.marks.expand(self.render_marked(read_conversation(chat)))

    def render_marked(
        self, conversation: Conversation, *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt, with marks in place of control tokens. Raises InvalidRequest."""
        program = self.program(conversation.tools)
        variables = self.variables(conversation, add_generation_prompt=add_generation_prompt)
        text = self._run(program, variables)
        if conversation.continued_field:
            return cut_at_end(text, conversation, self.marks)
        return text

    def program(self, tools: list[JsonObject]) -> TemplateProgram:
        """Some checkpoints have a separate template for chats with tools."""
        return self._with_tools if tools else self._plain

    def variables(
        self, conversation: Conversation, *, add_generation_prompt: bool = True
    ) -> dict[str, object]:
        """All variables of the program. Raises InvalidRequest."""
        program = self.program(conversation.tools)
        options = self.options(program, conversation.tools, conversation.template_kwargs)
        messages = fold_instructions(conversation.messages, program)
        if conversation.continued_field:
            messages = open_last_message(messages, conversation.continued_field, program.source)
            add_generation_prompt = False
        return {**options, "messages": messages, "add_generation_prompt": add_generation_prompt}

    def options(
        self, program: TemplateProgram, tools: list[JsonObject], template_kwargs: JsonObject
    ) -> dict[str, object]:
        """All variables except messages. Raises InvalidRequest."""
        for name in template_kwargs:
            if name in self._reserved:
                raise InvalidRequest.at(
                    "chat_template_kwargs",
                    f"cannot set {name!r:.80}: only the router sets it; leave it out",
                )
        return {
            **program.named_tokens,
            **template_kwargs,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": True,
        }

    def _run(self, program: TemplateProgram, variables: Mapping[str, object]) -> str:
        try:
            context = program.template.new_context(dict(variables))
            return "".join(bounded(program.template.root_render_func(context)))
        except InvalidRequest:
            raise
        except TemplateRaised as refusal:
            raise InvalidRequest(
                "the checkpoint's chat template refuses these messages: "
                f"{self.marks.expand(str(refusal)):.500}"
            ) from None
        except SecurityError as error:
            raise InvalidCheckpoint(
                f"{self.source.origin} does what a chat template must not do: {error}"
            ) from None
        # A template is third-party code: it can raise anything.
        except Exception as error:
            raise InvalidRequest(
                f"the checkpoint's chat template cannot render these messages "
                f"({type(error).__name__}: {error!s:.500}): compare messages, tools, tool call "
                f"arguments and chat_template_kwargs with what {self.source.origin} reads"
            ) from None


def open_last_message(messages: list[JsonObject], field: str, source: str) -> list[JsonObject]:
    """Appends the mark to `field` of the last message. Raises InvalidRequest if it has none."""
    last = dict(messages[-1])
    fields = _REASONING if field in _REASONING else (field,)
    if last.get(field) is None or not any(name in source for name in fields):
        what = f"the chat template does not read {field}" if field in last else "it has none"
        raise InvalidRequest(
            f"expected a last message with {field} to be continued, but {what}: send the start "
            "of the answer there, or leave continue_final_message out"
        )
    for name in fields:
        last[name] = _open(last[name])
    return [*messages[:-1], last]


def cut_at_end(text: str, conversation: Conversation, marks: ControlMarks) -> str:
    """The prompt up to the mark. Raises InvalidRequest if the template left the message out."""
    at = text.rfind(END_MARK)
    start = _text(conversation.messages[-1][conversation.continued_field]).strip()
    if at < 0 or start not in marks.expand(text):
        raise InvalidRequest(
            "the last message cannot be continued: the chat template writes it differently, or "
            f"leaves {conversation.continued_field} out of it"
        )
    # Some templates write a field twice.
    kept = text[:at].replace(_END, "").replace(END_MARK, "")
    return kept if text.startswith(_END, at) else kept.rstrip()


def _open(value: Json) -> Json:
    if isinstance(value, list):
        part = cast("JsonObject", value[-1])
        return [*value[:-1], {**part, "text": cast("str", part["text"]) + _END}]
    return cast("str", value) + _END


def _text(value: Json) -> str:
    if isinstance(value, list):
        return cast("str", cast("JsonObject", value[-1])["text"])
    return cast("str", value)
