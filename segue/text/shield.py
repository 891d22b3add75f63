"""Keeps what a client wrote from being read as control tokens.

A chat template joins its own control tokens and the client's strings into one text, in which
"<|im_end|>" typed by a user looks like the end of the message. So before rendering, a *mark* (a
private-use character that occurs nowhere in the conversation) goes into each control token a client
wrote: `<‸|im_end|>`. The template carries it along unseen, and `Tokenizer.encode` drops the marks
after it has found the control tokens that are whole, which are the template's own.

Special tokens are shielded everywhere. `<think>`, `<tool_call>` and the like mean something in what
clients replay as assistant messages and explain in system prompts, so there they stay what they are
for transformers; in tool results, which strangers may write, they are shielded too.

What is not covered: a template that builds a control token out of a client's string and its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from segue.errors import InvalidRequest
from segue.text.conversation import Conversation, Json, JsonObject
from segue.text.tokenizer import Tokenizer, match_any

_MARKS = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class Shielded:
    """A conversation to render, and the mark to drop from what comes out."""

    conversation: Conversation
    mark: str


class Shield:
    """Knows which control tokens to break, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special = _match_breakable(tokenizer.special_tokens)
        self._control = _match_breakable(tokenizer.control_tokens)

    def cover(self, conversation: Conversation) -> Shielded:
        """Raises InvalidRequest if no private-use character is left to mark with."""
        mark = _choose_mark(conversation)
        messages = [
            _break_object(message, self._tokens_of(message), mark)
            for message in conversation.messages
        ]
        tools = [_break_object(tool, self._special, mark) for tool in conversation.tools]
        return Shielded(replace(conversation, messages=messages, tools=tools), mark)

    def _tokens_of(self, message: JsonObject) -> re.Pattern[str]:
        return self._control if message["role"] == "tool" else self._special


def _match_breakable(tokens: frozenset[str]) -> re.Pattern[str]:
    # A token of one character has no inside for a mark. Qwen's begin with "<".
    return match_any(token for token in tokens if len(token) > 1)


def _choose_mark(conversation: Conversation) -> str:
    strings = list(_strings([*conversation.messages, *conversation.tools]))
    for code in _MARKS:
        if not any(chr(code) in string for string in strings):
            return chr(code)
    raise InvalidRequest(
        "expected a conversation that leaves one private-use character (U+E000 to U+F8FF) unused, "
        "got all of them: send token ids instead"
    )


def _strings(value: Json) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)


def _break_object(value: JsonObject, tokens: re.Pattern[str], mark: str) -> JsonObject:
    """A copy with a mark in each of `tokens`, also in member names: templates print them."""
    return {
        _break_text(key, tokens, mark): _break(item, tokens, mark) for key, item in value.items()
    }


def _break(value: Json, tokens: re.Pattern[str], mark: str) -> Json:
    match value:
        case str():
            return _break_text(value, tokens, mark)
        case list():
            return [_break(item, tokens, mark) for item in value]
        case dict():
            return _break_object(value, tokens, mark)
        case _:
            return value


def _break_text(text: str, tokens: re.Pattern[str], mark: str) -> str:
    # Again until none is left: tokens may overlap, and one may lie inside another.
    while tokens.search(text):
        text = tokens.sub(lambda found: found[0][0] + mark + found[0][1:], text)
    return text
