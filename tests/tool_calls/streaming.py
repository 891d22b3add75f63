"""Answers in pieces, and what a stream gives of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from segue.answers import (
    AnswerParser,
    AnswerPart,
    CallArguments,
    ContentText,
    ReasoningText,
    gather,
)
from segue.api.types import Message

_TEXTS = (ReasoningText, ContentText, CallArguments)


def streamed(
    pieces: Iterable[str], *, is_whole: bool = True, **options: Any
) -> tuple[AnswerPart, ...]:
    """The parts of an answer that comes in these pieces. A text is pieces of one character."""
    parser = AnswerParser(**options)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return merged([*parts, *parser.finish(is_whole=is_whole)])


def read_answer(text: str, tools: Sequence[str], *, is_whole: bool = True) -> Message:
    """The message of a whole answer whose reasoning, if it has any, stays in the content."""
    parser = AnswerParser(tools=tools, reasoning="none", starts_in_reasoning=None)
    return gather(parser.push(text) + parser.finish(is_whole=is_whole))


def merged(parts: Iterable[AnswerPart]) -> tuple[AnswerPart, ...]:
    """Texts and arguments that go on as one part each: their cutting is that of the stream."""
    found: list[AnswerPart] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, _TEXTS) and isinstance(last, _TEXTS) and type(part) is type(last):
            if isinstance(part, CallArguments) and isinstance(last, CallArguments):
                found[-1] = CallArguments(part.index, last.text + part.text)
            else:
                found[-1] = type(part)(last.text + part.text)  # type: ignore[call-arg, arg-type]
        else:
            found.append(part)
    return tuple(found)


def cut(text: str, rng: random.Random) -> Iterator[str]:
    """The text in pieces of random sizes, mostly small ones."""
    num_cuts = rng.choice((1, 4, len(text) // 2))
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(num_cuts))
    for start, end in itertools.pairwise((0, *cuts, len(text))):
        yield text[start:end]
