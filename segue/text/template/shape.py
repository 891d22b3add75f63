"""How a chat template writes an assistant message, learned from a few short conversations.

In the next turn a template rewrites the end of the prompt, and some templates rewrite more:

    this turn    … user │ <|im_start|>assistant\\n │ <think>\\n\\n</think>\\n\\n │
    the next     … user │ <|im_start|>assistant\\n │ the answer … │ user │ …
                          header: the same         ▲ the shared prefix ends here

If the history has reasoning, a template may drop it when a user message follows. The prompts then
diverge at the first answer after the previous user message. A template does not declare its
behaviour, so we probe it: we render it with possible next messages, and compare tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segue.api.errors import InvalidRequest
from segue.api.types import Message, ToolCall
from segue.text.tokens.packed_ids import PackedIds

Ids = tuple[int, ...]

RenderIds = Callable[[tuple[Message, ...], bool], Ids]
"""Messages to token ids, with or without the generation prompt. May raise InvalidRequest."""

_CALL = ToolCall(name="look", arguments='{"at": "it"}', call_id="c1")
_ASKED = Message(role="user", content="one")
_ASKED_OTHER = Message(role="user", content="two")
_ANSWERED = Message(role="assistant", reasoning="hm", content="yes")
_CALLED = Message(role="assistant", reasoning="hm", tool_calls=(_CALL,))
_GIVEN = Message(role="tool", content="one", tool_call_id="c1")
_GIVEN_OTHER = Message(role="tool", content="two", tool_call_id="c1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateShape:
    """In token ids. Parts that a template does not have are empty."""

    generation: Ids
    """The generation prompt: ends a prompt whose answer is to be generated."""
    header: Ids
    """Starts `generation` and every assistant message in a history."""
    user: Ids
    """Starts a user message."""
    tool: Ids
    """Starts a tool message. May start like a user message."""
    rewritten_by_user: int
    """How many tokens at the prompt's end change when an answer and a user message follow."""
    rewritten_by_tool: int
    """The same for an answer with a call, and its result."""
    run_offset: int | None
    """A user message changes what came after the previous user message, from this offset on in the
    first answer's message. None if it only changes the last answer.
    """

    def branch_points(self, prompt: PackedIds) -> Iterator[int]:
        """The positions at which the next turn may diverge from this one, unordered; maybe at its
        end."""
        asked_at = self.asked_at(prompt)
        if asked_at is not None:
            yield len(prompt) - self.rewritten_by_tool
        first = None if self.run_offset is None else self._first_answer(prompt)
        if self.run_offset is not None and first is not None and first != asked_at:
            yield first + self.run_offset
        elif asked_at is not None:
            yield len(prompt) - self.rewritten_by_user

    def asked_at(self, prompt: PackedIds) -> int | None:
        """Where `generation` starts, if the prompt ends with it."""
        at = len(prompt) - len(self.generation)
        return at if self.generation and prompt.has(at, self.generation) else None

    def message_starts(self, prompt: PackedIds) -> Iterator[int]:
        """Where user and assistant messages start, the last one first."""
        marks = {ids[0] for ids in (self.header, self.user) if ids}
        end = len(prompt)
        while marks:
            found = max((prompt.find_last(mark, end) for mark in marks), default=-1)
            if found < 0:
                return
            yield found
            end = found

    def _first_answer(self, prompt: PackedIds) -> int | None:
        """The start of the first assistant message after the last user message."""
        first = None
        for at in self.message_starts(prompt):
            if prompt.has(at, self.header):
                first = at
            elif not (self.tool and prompt.has(at, self.tool)):
                break
        return first


def learn_shape(render: RenderIds, is_special: Callable[[int], bool]) -> TemplateShape | None:
    """None if the template refuses even a single message."""
    try:
        asked, plain = render((_ASKED,), True), render((_ASKED,), False)
        other = render((_ASKED_OTHER,), True)
    except InvalidRequest:
        return None
    start = _common(asked, plain)
    by_user = _shared(render, asked, (_ASKED, _ANSWERED, _ASKED))
    by_tool = _shared(render, asked, (_ASKED, _CALLED, _GIVEN))
    header = asked[start : min(by_user, by_tool)]
    if not (header and is_special(header[0])):
        # It identifies nothing: a user could have written it.
        header = ()
    run = _learn_run(render, header, asked[start:], is_special)
    return TemplateShape(
        generation=asked[start:],
        header=header,
        user=_from_special(asked[: _common(asked, other)], is_special),
        tool=run.tool,
        rewritten_by_user=len(asked) - max(by_user, start),
        rewritten_by_tool=len(asked) - max(by_tool, start),
        run_offset=run.offset,
    )


class _Run(NamedTuple):
    tool: Ids
    offset: int | None


def _learn_run(
    render: RenderIds, header: Ids, generation: Ids, is_special: Callable[[int], bool]
) -> _Run:
    """How a call and its result are written, and whether a later user message changes them."""
    run = (_ASKED, _CALLED, _GIVEN)
    try:
        given, other = render(run, True), render((*run[:-1], _GIVEN_OTHER), True)
        later = render((*run, _ANSWERED, _ASKED), True)
    except InvalidRequest:
        return _Run((), None)
    tool = _from_special(given[: _common(given, other)], is_special)
    shared = _common(given, later)
    if not header or shared >= len(given) - len(generation):
        return _Run(tool, None)
    packed = PackedIds(given)
    first = next((at for at in range(len(given)) if packed.has(at, header)), shared)
    return _Run(tool, min(max(shared - first, 0), len(generation)))


def _shared(render: RenderIds, prompt: Ids, messages: tuple[Message, ...]) -> int:
    """The length of the prefix shared with another prompt; all of it if that one is refused."""
    try:
        return _common(prompt, render(messages, True))
    except InvalidRequest:
        return len(prompt)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _from_special(ids: Ids, is_special: Callable[[int], bool]) -> Ids:
    """The last special token and what follows it; empty if there is none."""
    last = next((at for at in reversed(range(len(ids))) if is_special(ids[at])), len(ids))
    return ids[last:]
