"""An answer's text as parts: reasoning, content, tool calls.

Stands in for the incremental parser until it exists: with tools, or inside reasoning, the parts
come when the answer has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeAlias

from segue.answers.tool_calls import read_answer
from segue.api.messages import THINK_END, THINK_START, split_reasoning


@dataclass(frozen=True, slots=True)
class ReasoningText:
    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int


@dataclass(frozen=True, slots=True)
class CallAbandoned:
    """The call was cut off: in a message it is content, with this text."""

    index: int
    text: str


AnswerPart: TypeAlias = (
    ReasoningText | ContentText | CallStart | CallArguments | CallEnd | CallAbandoned
)


class Parser(Protocol):
    def push(self, text: str) -> list[AnswerPart]: ...

    def finish(self, *, is_whole: bool) -> list[AnswerPart]: ...


class PlainParser:
    """For text that is not an answer to a chat: all of it is content."""

    def push(self, text: str) -> list[AnswerPart]:
        return [ContentText(text)] if text else []

    def finish(self, *, is_whole: bool) -> list[AnswerPart]:
        return []


class HeldParser:
    def __init__(self, tools: Sequence[str], *, starts_in_reasoning: bool) -> None:
        self._tools = tools
        self._is_held = bool(tools) or starts_in_reasoning
        self._starts_in_reasoning = starts_in_reasoning
        self._text = ""

    def push(self, text: str) -> list[AnswerPart]:
        if self._is_held:
            self._text += text
            return []
        return [ContentText(text)] if text else []

    def finish(self, *, is_whole: bool) -> list[AnswerPart]:
        return list(self._parts(is_whole)) if self._is_held else []

    def _parts(self, is_whole: bool) -> Iterator[AnswerPart]:
        said = self._text
        if self._starts_in_reasoning or said.startswith(THINK_START) or THINK_END in said:
            thought, said = split_reasoning(said)
            if thought:
                yield ReasoningText(thought)
        message = read_answer(said, self._tools, is_whole=is_whole)
        if message.content:
            yield ContentText(message.content)
        for index, call in enumerate(message.tool_calls):
            yield CallStart(index, call.name)
            yield CallArguments(index, call.arguments)
            yield CallEnd(index)


def joined(parts: Iterable[AnswerPart]) -> tuple[AnswerPart, ...]:
    """The same with fewer parts: neighbouring texts of a kind as one, and as content a call that
    starts and is abandoned here.
    """
    whole: list[AnswerPart] = []
    for kind, run in groupby(_without_abandoned(list(parts)), key=_kind):
        some = list(run)
        text = "".join(part.text for part in some if not isinstance(part, CallStart | CallEnd))
        match some[0]:
            case ReasoningText():
                whole.append(ReasoningText(text))
            case ContentText():
                whole.append(ContentText(text))
            case CallArguments(index=index):
                whole.append(CallArguments(index, text))
            case _:
                assert kind is None
                whole += some
    return tuple(whole)


def _kind(part: AnswerPart) -> object:
    match part:
        case CallArguments(index=index):
            return index
        case ReasoningText() | ContentText():
            return type(part)
        case _:
            return None


def _without_abandoned(parts: Sequence[AnswerPart]) -> Iterator[AnswerPart]:
    begun = {part.index for part in parts if isinstance(part, CallStart)}
    dropped = {part.index for part in parts if isinstance(part, CallAbandoned)} & begun
    for part in parts:
        match part:
            case CallAbandoned(index, text) if index in dropped:
                yield ContentText(text)
            case CallStart(index=index) | CallArguments(index=index) if index in dropped:
                pass
            case _:
                yield part
