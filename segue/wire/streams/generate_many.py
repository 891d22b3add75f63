"""The server side of `GenerateMany`; `generate` is the client side."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from segue.api.checks import require_seconds
from segue.api.errors import InvalidRequest
from segue.process.tracing.context import within
from segue.v1 import session_pb2 as pb
from segue.wire.convert.trace import trace_from_wire
from segue.wire.streams.outbox import numbered
from segue.wire.streams.server import CallStream

Answer = Callable[[pb.GenerateRequest, float | None, str], AsyncGenerator[pb.GenerateEvent, None]]
"""Runs one turn with an optional timeout in seconds and its API key, which may be empty. Leaving
the iteration cancels it. The current trace context is the turn's own, if the client sent one.
"""

# Shortest time between two messages; events that arrive within it share a message.
_MIN_GAP_S = 0.002


async def generate_many(
    messages: AsyncIterator[pb.GenerateManyCommands], answer: Answer
) -> AsyncGenerator[pb.GenerateManyEvents, None]:
    """Yields the messages of `GenerateMany`. `answer` runs each turn."""

    def make_call(
        command: pb.GenerateManyCommand, emit: Callable[[pb.GenerateManyEvent], None]
    ) -> Coroutine[Any, Any, None]:
        if not command.HasField("start"):
            raise InvalidRequest(f"call {command.call}: expected a turn to start, or to stop")
        return run(command.start, emit)

    async def run(start: pb.StartGenerate, emit: Callable[[pb.GenerateManyEvent], None]) -> None:
        with within(trace_from_wire(start.trace) if start.HasField("trace") else None):
            async with contextlib.aclosing(
                answer(start.request, _timeout_s(start), start.api_key)
            ) as events:
                async for event in events:
                    emit(pb.GenerateManyEvent(event=event))
                    await stream.room()

    stream = CallStream(
        make_call,
        _is_last,
        lambda status: pb.GenerateManyEvent(error=status),
        min_gap_s=_MIN_GAP_S,
    )
    async with contextlib.aclosing(stream.run(messages)) as batches:
        async for number, events in numbered(batches):
            yield pb.GenerateManyEvents(events=events, number=number)


def _is_last(event: pb.GenerateManyEvent) -> bool:
    return event.HasField("error") or event.event.HasField("end")


def _timeout_s(start: pb.StartGenerate) -> float | None:
    """Raises InvalidRequest."""
    if not start.HasField("timeout_s"):
        return None
    require_seconds("timeout_s", start.timeout_s)
    return start.timeout_s
