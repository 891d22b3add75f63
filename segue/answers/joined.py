"""Fewer parts of an answer, when several arrive at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from segue.answers.parts import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
)


def joined(parts: Iterable[AnswerPart]) -> tuple[AnswerPart, ...]:
    """The same with fewer parts: neighbouring texts of a kind as one, and as content a call that
    starts and is abandoned here.
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
