"""A compiled chat template, and the messages that it accepts, which are learned by probing it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import jinja2

from segue.api.errors import InvalidCheckpoint
from segue.text.assistant_text import AssistantText
from segue.text.conversation import Json, JsonObject
from segue.text.template.environment import compile_template, parse_template, tokens_looked_for
from segue.text.template.local import LocalTemplate
from segue.text.template.shield import ControlMarks

_NOTE = "a note"


class TemplateProgram:
    """A compiled template. Control tokens in its output are marks."""

    def __init__(
        self, source: str, named_tokens: Mapping[str, str], origin: str, marks: ControlMarks
    ) -> None:
        """Raises InvalidCheckpoint."""
        self.source = source
        self.named_tokens = {name: marks.mark(token) for name, token in named_tokens.items()}
        """Templates know these as `bos_token`, `eos_token` and so on."""
        self.template = compile_template(source, origin, marks)
        self.local = LocalTemplate(*parse_template(source, origin, marks))
        """The same program, for sessions (`session_prompt.py`)."""
        plain = compile_template(source, origin)
        _require_whole_tokens(self.template, plain, named_tokens, origin, marks)
        assistant_text = AssistantText(marks, tokens_looked_for(source, origin, marks))

        def changes(message: JsonObject) -> bool:
            return self._changes(plain, named_tokens, assistant_text.mark(message), message, marks)

        def written(message: JsonObject) -> str:
            return _attempt(plain, named_tokens, messages=[_USER, message]) or ""

        text = "a\n" + "".join(f"{token} b\n" for token in sorted(marks.answer_tokens)) + "c"
        assistant_text.searches_beside_reasoning = changes(_assistant_message(text, thinks=True))
        _learn_harmless(assistant_text, changes, written)
        self._accepted = {
            (role, is_first): self._writes(role, is_first)
            for role in ("system", "developer")
            for is_first in (True, False)
        }
        self._assistant_text = assistant_text

    def accepts(self, role: str, is_first: bool) -> bool:
        """Whether a message with this role is written, as the first or a later message."""
        return self._accepted.get((role, is_first), True)

    def mark_answer(self, message: JsonObject) -> JsonObject:
        return self._assistant_text.mark(message)

    def _changes(
        self,
        plain: jinja2.Template,
        named_tokens: Mapping[str, str],
        marked: JsonObject,
        message: JsonObject,
        marks: ControlMarks,
    ) -> bool:
        """Whether the template writes the marked message differently."""
        for last in (_USER, _GIVEN):
            expected = _attempt(plain, named_tokens, messages=[_USER, message, last])
            got = _attempt(self.template, self.named_tokens, messages=[_USER, marked, last])
            if (got and marks.expand(got)) != expected:
                return True
        return False

    def _writes(self, role: str, is_first: bool) -> bool:
        note: dict[str, Json] = {"role": role, "content": _NOTE}
        messages = [note, _USER] if is_first else [_USER, _ANSWERED, note, _USER]
        return _NOTE in (_attempt(self.template, self.named_tokens, messages=messages) or "")


def _assistant_message(text: str, *, thinks: bool) -> JsonObject:
    names = ("content", "reasoning_content", "thinking") if thinks else ("content",)
    return {**_ANSWERED, **dict.fromkeys(names, text)}


def _learn_harmless(
    assistant_text: AssistantText,
    changes: Callable[[JsonObject], bool],
    written: Callable[[JsonObject], str],
) -> None:
    """Finds tokens that the template searches for, but writes the same way if they are marked."""

    def is_same(*orders: list[str]) -> bool:
        texts = [end + " b\n".join(order) + end for order in orders for end in ("", "a")]
        asked = [
            _assistant_message(text, thinks=thinks) for text in texts for thinks in (True, False)
        ]
        return not any(changes(message) for message in asked)

    for token in sorted(assistant_text.looked_for):
        if token not in written(_assistant_message(token, thinks=False)):
            continue
        before = assistant_text.harmless
        assistant_text.harmless = before | {token}
        together = sorted(assistant_text.harmless)
        if not is_same([token], [token] * 2, together, together[::-1]):
            assistant_text.harmless = before
    free: frozenset[str] = frozenset()
    for token in sorted(assistant_text.harmless):
        assistant_text.mark_always(free | {token})
        others = sorted(assistant_text.looked_for - {token})
        between = [*others, token, *others[::-1]]
        if is_same([token, *between, token], [token, *between[::-1], token]):
            free |= {token}
    assistant_text.mark_always(free)


_USER: dict[str, Json] = {"role": "user", "content": "one"}
_ANSWERED: dict[str, Json] = {"role": "assistant", "content": "two"}
_REASONED: dict[str, Json] = {**_ANSWERED, "reasoning_content": "hm", "thinking": "hm"}
_CALLED: dict[str, Json] = {
    **_REASONED,
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"a": "x", "b": [1]}}}
    ],
}
_GIVEN: dict[str, Json] = {"role": "tool", "content": "three"}
_TOOL: dict[str, Json] = {"type": "function", "function": {"name": "f", "parameters": {}}}
_PROBES: list[list[dict[str, Json]]] = [
    [_USER],
    [{"role": "system", "content": "zero"}, _USER],
    [_USER, _ANSWERED, _USER, _REASONED, _USER],
    [_USER, _CALLED, _GIVEN, _GIVEN, _ANSWERED, _USER, _CALLED, _GIVEN],
    [{"role": "user", "content": [{"type": "text", "text": "one"}]}],
]


def _require_whole_tokens(
    marked: jinja2.Template,
    plain: jinja2.Template,
    named_tokens: Mapping[str, str],
    origin: str,
    marks: ControlMarks,
) -> None:
    """For input without control tokens, all those in the output are the template's: they must be
    marks."""
    named = {name: marks.mark(token) for name, token in named_tokens.items()}
    thinking: list[dict[str, object]] = [{}, {"enable_thinking": True}, {"enable_thinking": False}]
    for messages, tools, options in itertools.product(_PROBES, (None, [_TOOL]), thinking):
        variables: dict[str, object] = {"messages": messages, "tools": tools, **options}
        expected = _attempt(plain, named_tokens, **variables)
        got = _attempt(marked, named, **variables)
        if got != (None if expected is None else marks.mark(expected)):
            raise InvalidCheckpoint(
                f"{origin} builds control tokens from pieces, or compares with its own, so that "
                "they cannot be distinguished from a client's text: write each one whole, in one "
                "literal"
            )


def _attempt(
    template: jinja2.Template, named_tokens: Mapping[str, str], **variables: object
) -> str | None:
    """None if the template refuses the messages or fails in any way."""
    try:
        return template.render(
            {**named_tokens, "documents": None, "add_generation_prompt": True, **variables}
        )
    except Exception:
        return None
