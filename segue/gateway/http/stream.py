"""Server-sent events: sends an answer while it is generated."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from segue.gateway.http.door import Visit, visit_of
from segue.gateway.http.errors import Failure
from segue.gateway.http.routes import failure_response

PING = b": waiting\n\n"
"""A comment, which clients skip."""
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Otherwise nginx buffers an answer.
    (b"x-accel-buffering", b"no"),
)


def data(value: Any) -> bytes:
    """An event without a name."""
    return b"data: " + to_json(value) + b"\n\n"


def event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)


class TextEvents:
    """Events that differ only in one text: the rest is encoded once."""

    def __init__(self, event_with: Callable[[str], bytes]) -> None:
        # Random, so that no client can have sent it.
        mark = secrets.token_hex(16)
        self._around = event_with(mark).split(to_json(mark))

    def of(self, text: str) -> bytes:
        return to_json(text).join(self._around)


class EventStream:
    """Sends each piece as it arrives, and `waiting()` after `ping_s` of silence, so that proxies
    keep the connection open. An error before the first piece has its own HTTP status; a later one
    becomes the stream's last event.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        failed: Callable[[Failure], bytes],
        *,
        waiting: Callable[[], bytes],
        ping_s: float,
    ) -> None:
        self._pieces = pieces
        self._failed = failed
        self._waiting = waiting
        self._ping_s = ping_s
        self._is_started = False
        self._is_sending = False
        self._sent_at = 0.0
        self._beating: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = visit_of(scope)
        self._sent_at = _now()
        self._beat_in(self._ping_s, visit, send)
        last = b""
        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if visit.has_ended:
                        # Sent in one write, and one packet, with the end of the body.
                        last += piece
                    else:
                        await self._send(piece, send)
        except Exception as error:
            failure = Failure.of(error)
            if not self._is_started and not last:
                await failure_response(Request(scope), failure)(scope, receive, send)
                return
            visit.status = failure.status
            last += self._failed(failure)
        finally:
            self._stop_beating()
        await self._send(last, send, more_body=False)

    async def _send(self, piece: bytes, send: Send, *, more_body: bool = True) -> None:
        self._is_sending = True
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
        await send({"type": "http.response.body", "body": piece, "more_body": more_body})
        self._is_sending = False
        self._sent_at = _now()

    def _beat_in(self, seconds: float, visit: Visit, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._beating = loop.call_later(seconds, self._beat, visit, send)

    def _beat(self, visit: Visit, send: Send) -> None:
        if (left_s := self._sent_at + self._ping_s - _now()) > 0:
            self._beat_in(left_s, visit, send)
        elif visit.has_started and not self._is_sending:
            self._pinging = asyncio.ensure_future(self._send(self._waiting(), send))
            self._beat_in(self._ping_s, visit, send)
        else:
            # Before a turn has started, it may still be refused with a status.
            self._beat_in(self._ping_s / 8, visit, send)

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._pinging is not None:
            self._pinging.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
