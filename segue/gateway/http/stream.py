"""Server-sent events: an answer that is sent while it is generated."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure


def data(value: Any) -> bytes:
    """An event without a name."""
    return b"data: " + to_json(value) + b"\n\n"


def event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)


class TextEvents:
    """Events that differ in one text alone: all around it is encoded once."""

    def __init__(self, event_with: Callable[[str], bytes]) -> None:
        # No client can have sent it.
        mark = secrets.token_hex(16)
        self._around = event_with(mark).split(to_json(mark))

    def of(self, text: str) -> bytes:
        return to_json(text).join(self._around)


class EventStream(Response):
    """Sends each piece of bytes as it comes. Errors become the stream's last event."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        failed: Callable[[Failure], bytes],
    ) -> None:
        super().__init__()
        self._first = first
        self._rest = rest
        self._failed = failed
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        # Otherwise nginx collects an answer before it passes it on.
        self.headers["x-accel-buffering"] = "no"

    @classmethod
    async def of(
        cls, pieces: AsyncGenerator[bytes, None], failed: Callable[[Failure], bytes]
    ) -> EventStream:
        """Waits for the first piece: an error before it has a status of its own."""
        return cls(await anext(pieces), pieces, failed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._rest):
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await send(_body(self._first))
            try:
                async for piece in self._rest:
                    await send(_body(piece))
            except Exception as error:
                failure = Failure.of(error)
                visit_of(scope).status = failure.status
                await send(_body(self._failed(failure)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _body(piece: bytes) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": True}
