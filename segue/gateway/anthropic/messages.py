"""`POST /v1/messages`: the answer, whole or as a stream of events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, TypeAlias

from segue.answers import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
)
from segue.api.turn import FinishReason, TurnEnd
from segue.gateway.http.stream import TextEvents, event
from segue.gateway.turns import Step

Json: TypeAlias = dict[str, Any]

_SIGNATURE = "segue"
"""Clients send it back with the thinking. Nothing here reads it, but some clients require one."""


class MessagesAnswer:
    """The answer to one request."""

    def __init__(
        self, steps: AsyncGenerator[list[Step], None], *, model: str, request_id: str
    ) -> None:
        self._steps = steps
        self._model = model
        self._request_id = request_id
        self._prompt_tokens = 0
        self._is_started = False

    async def whole(self) -> Json:
        """Raises SegueErrors."""
        message = self._message()
        blocks = _Blocks()
        async with aclosing(self._steps) as steps:
            async for some in steps:
                for step in some:
                    for part in step.parts:
                        blocks.add(part)
                    if step.end is not None:
                        message |= self._how_ended(step.end, has_calls=blocks.has_calls)
                        message["usage"] = _usage(step.end)
        message["content"] = blocks.finished()
        return message

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Raises SegueErrors."""
        blocks = _BlockEvents()
        async with aclosing(self._steps) as steps:
            async for some in steps:
                events: list[bytes] = []
                for step in some:
                    if step.started is not None:
                        self._prompt_tokens = step.started.prompt_tokens
                    for part in step.parts:
                        events += blocks.of(part)
                    if step.end is not None:
                        events += blocks.close()
                        events += self._last(step.end, has_calls=blocks.has_calls)
                if events and not self._is_started:
                    events.insert(0, self.waiting())
                if events:
                    yield b"".join(events)

    def waiting(self) -> bytes:
        """What keeps the stream alive: its first events, and then pings."""
        ping = event("ping", {"type": "ping"})
        if self._is_started:
            return ping
        self._is_started = True
        return event("message_start", {"type": "message_start", "message": self._message()}) + ping

    def _message(self) -> Json:
        return {
            "id": f"msg_{self._request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_of(self._prompt_tokens, 0, 0),
        }

    def _last(self, end: TurnEnd, *, has_calls: bool) -> Iterator[bytes]:
        yield event(
            "message_delta",
            {
                "type": "message_delta",
                "delta": self._how_ended(end, has_calls=has_calls),
                "usage": _usage(end),
            },
        )
        yield event("message_stop", {"type": "message_stop"})

    def _how_ended(self, end: TurnEnd, *, has_calls: bool) -> Json:
        if end.finish_reason is FinishReason.LENGTH:
            reason = "max_tokens"
        elif end.stop_match:
            reason = "stop_sequence"
        else:
            reason = "tool_use" if has_calls else "end_turn"
        return {"stop_reason": reason, "stop_sequence": end.stop_match or None}


def _usage(end: TurnEnd) -> Json:
    """The prompt tokens that were computed count apart from those that were not."""
    cached = end.usage.cached_tokens + end.usage.pulled_tokens
    return _usage_of(end.usage.prompt_tokens - cached, cached, end.usage.completion_tokens)


def _usage_of(input_tokens: int, cached_tokens: int, output_tokens: int) -> Json:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def _new_block(part: AnswerPart) -> Json:
    match part:
        case ReasoningText():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case CallStart(name=name):
            call_id = f"toolu_{secrets.token_hex(12)}"
            return {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        case _:
            return {"type": "text", "text": ""}


class _Blocks:
    """The blocks of a whole answer."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._blocks: list[Json] = []
        self._arguments = ""

    def add(self, part: AnswerPart) -> None:
        match part:
            case ReasoningText(text):
                self._block("thinking", part)["thinking"] += text
            case ContentText(text):
                self._block("text", part)["text"] += text
            case CallStart():
                self._arguments = ""
                self._blocks.append(_new_block(part))
            case CallArguments(text=text):
                self._arguments += text
            case CallEnd():
                self._num_calls += 1
                self._blocks[-1]["input"] = json.loads(self._arguments or "{}")
            case CallAbandoned(text=text):
                # A stream has its fragments already.
                self._blocks.pop()
                self._block("text", part)["text"] += text

    @property
    def has_calls(self) -> bool:
        return self._num_calls > 0

    def finished(self) -> list[Json]:
        for block in self._blocks:
            if block["type"] == "thinking":
                block["signature"] = _SIGNATURE
        return self._blocks

    def _block(self, kind: str, part: AnswerPart) -> Json:
        if not self._blocks or self._blocks[-1]["type"] != kind:
            self._blocks.append(_new_block(part))
        return self._blocks[-1]


class _BlockEvents:
    """The events of an answer's blocks. One block is open at a time."""

    def __init__(self) -> None:
        self.has_calls = False
        self._index = -1
        self._open = ""
        self._texts: TextEvents | None = None
        """Of the open block."""

    def of(self, part: AnswerPart) -> Iterator[bytes]:
        match part:
            case ReasoningText(text):
                yield from self._ensure("thinking", part)
                yield self._text("thinking_delta", "thinking", text)
            case ContentText(text):
                yield from self._ensure("text", part)
                yield self._text("text_delta", "text", text)
            case CallStart():
                yield from self.close()
                yield from self._ensure("tool_use", part)
            case CallArguments(text=text):
                yield self._text("input_json_delta", "partial_json", text)
            case CallEnd():
                self.has_calls = True
                yield from self.close()
            case CallAbandoned():
                yield from self.close()

    def close(self) -> Iterator[bytes]:
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        self._open, self._texts = "", None
        yield event("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _ensure(self, kind: str, part: AnswerPart) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self.close()
        self._open = kind
        self._index += 1
        yield event(
            "content_block_start",
            {
                "type": "content_block_start",
                "index": self._index,
                "content_block": _new_block(part),
            },
        )

    def _text(self, kind: str, name: str, text: str) -> bytes:
        """A block has texts of one kind."""
        if self._texts is None:
            self._texts = TextEvents(lambda some: self._delta({"type": kind, name: some}))
        return self._texts.of(text)

    def _delta(self, delta: Json) -> bytes:
        return event(
            "content_block_delta",
            {"type": "content_block_delta", "index": self._index, "delta": delta},
        )
