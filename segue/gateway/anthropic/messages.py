"""`POST /v1/messages`: the answer, whole or as a stream of events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence

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
from segue.gateway.http.answer import GatewayAnswer
from segue.gateway.http.errors import Failure, Json
from segue.gateway.http.stream import TextEvents, event
from segue.gateway.turns import AnswerStep

_SIGNATURE = "segue"
"""Clients send it back with the thinking. It is never read, but some clients require one."""


class MessagesAnswer(GatewayAnswer):
    def __init__(
        self, steps: AsyncGenerator[list[AnswerStep], None], *, model: str, request_id: str
    ) -> None:
        super().__init__(steps)
        self._model = model
        self._request_id = request_id
        self._prompt_tokens = 0
        self._is_started = False
        self._blocks = _BlockEvents()

    async def whole(self) -> Json:
        (step,) = await self._all_steps()
        assert step.end is not None, "an answer without an end"
        blocks = _whole_blocks(step.parts)
        has_calls = any(block["type"] == "tool_use" for block in blocks)
        return {
            **self._message(),
            "content": blocks,
            **_how_ended(step.end, has_calls=has_calls),
            "usage": _usage(step.end),
        }

    async def _events_of(self, steps: list[AnswerStep]) -> list[bytes]:
        events: list[bytes] = []
        for step in steps:
            if step.started is not None:
                self._prompt_tokens = step.started.prompt_tokens
            for part in step.parts:
                events += self._blocks.of(part)
            if step.end is not None:
                events += self._blocks.close()
                events += _last_events(step.end, has_calls=self._blocks.has_calls)
        if events and not self._is_started:
            events.insert(0, self.waiting())
        return events

    def failed(self, failure: Failure) -> bytes:
        return event("error", failure.anthropic(self._request_id))

    def waiting(self) -> bytes:
        """Keeps the stream alive: sends its first events, and then pings."""
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


def _last_events(end: TurnEnd, *, has_calls: bool) -> Iterator[bytes]:
    delta = _how_ended(end, has_calls=has_calls)
    yield event("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(end)})
    yield event("message_stop", {"type": "message_stop"})


def _how_ended(end: TurnEnd, *, has_calls: bool) -> Json:
    if end.finish_reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif end.stop_match:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if has_calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": end.stop_match or None}


def _usage(end: TurnEnd) -> Json:
    """Computed and cached prompt tokens are counted separately."""
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


def _whole_blocks(parts: Sequence[AnswerPart]) -> list[Json]:
    """`parts` are joined: all calls in them are complete."""
    blocks: list[Json] = []
    for part in parts:
        match part:
            case ReasoningText(text):
                blocks.append({"type": "thinking", "thinking": text, "signature": _SIGNATURE})
            case ContentText(text):
                blocks.append({"type": "text", "text": text})
            case CallStart():
                blocks.append(_new_block(part))
            case CallArguments(text=text):
                blocks[-1]["input"] = json.loads(text)
    return blocks


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
        """A block has only texts of one kind."""
        if self._texts is None:
            self._texts = TextEvents(lambda some: self._delta({"type": kind, name: some}))
        return self._texts.of(text)

    def _delta(self, delta: Json) -> bytes:
        return event(
            "content_block_delta",
            {"type": "content_block_delta", "index": self._index, "delta": delta},
        )
