"""The parts of an answer, in the order in which they become certain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from segue.api.types import Message, ToolCall


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """Continues the reasoning. Empty text: there was none between its tags."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """Calls are numbered from 0. Each ends with CallEnd or CallAbandoned before the next starts."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A fragment. Up to CallEnd, a call's fragments are one JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int


@dataclass(frozen=True, slots=True)
class CallAbandoned:
    """The call was cut off, is not JSON after all, or gives a parameter two values. It must not be
    run: in the message it is content, and starts with this text. A client that streams has received
    some of its fragments.
    """

    index: int
    text: str


AnswerPart: TypeAlias = (
    ReasoningText | ContentText | CallStart | CallArguments | CallEnd | CallAbandoned
)


def gather(parts: Iterable[AnswerPart]) -> Message:
    """The assistant message of a whole answer."""
    content: list[str] = []
    reasoning: list[str] | None = None
    calls: list[ToolCall] = []
    name, arguments = "", [""]
    for part in parts:
        match part:
            case ReasoningText():
                reasoning = [] if reasoning is None else reasoning
                reasoning.append(part.text)
            case ContentText() | CallAbandoned():
                content.append(part.text)
            case CallStart():
                name, arguments = part.name, []
            case CallArguments():
                arguments.append(part.text)
            case CallEnd():
                calls.append(ToolCall(name=name, arguments="".join(arguments)))
    return Message(
        role="assistant",
        content="".join(content),
        tool_calls=tuple(calls),
        reasoning=None if reasoning is None else "".join(reasoning),
    )


def joined(parts: Iterable[AnswerPart]) -> tuple[AnswerPart, ...]:
    """Joins adjacent texts of the same kind, and turns a call that starts and is abandoned here
    into content.
    """
    arrived = list(parts)
    if len(arrived) == 1 and isinstance(arrived[0], ContentText):
        # Almost always.
        return (arrived[0],)
    whole: list[AnswerPart] = []
    for kind, run in groupby(_without_abandoned(arrived), key=_kind):
        some = list(run)
        text = "".join(part.text for part in some if not isinstance(part, CallStart | CallEnd))
        match some[0]:
            case ReasoningText():
                # Empty reasoning is none: the APIs leave it out.
                whole += [ReasoningText(text)] if text else []
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
    started = {part.index for part in parts if isinstance(part, CallStart)}
    dropped = {part.index for part in parts if isinstance(part, CallAbandoned)} & started
    for part in parts:
        match part:
            case CallAbandoned(index, text) if index in dropped:
                yield ContentText(text)
            case CallStart(index=index) | CallArguments(index=index) if index in dropped:
                pass
            case _:
                yield part
