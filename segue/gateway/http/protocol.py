"""uvicorn's HTTP protocol, hardened against hostile clients and fixed for some others.

- The head of a request is limited in bytes and time, and a body may not stall. uvicorn would buffer
  any number of bytes for any time.
- A request that offers an upgrade to HTTP/2 (the first request of Java's clients does) is answered
  in HTTP/1.1. uvicorn would lose its body.
- Bytes that are not HTTP get an error in the usual form.
- A stream to HTTP/1.0, which has no chunks, ends with its connection.
- A client that does not read its answer is disconnected. uvicorn would hold the answer until the
  connection closes.
- If a request is answered before its end (its body is too large), the rest is read for at most 10 s
  before the connection closes. Closing earlier would reset the connection, and the client would
  never see the answer.
- The head of a response is sent together with the data that follows it. uvicorn makes two system
  calls, each of which wakes the client.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

import httptools
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from segue.gateway.http.errors import Failure

MAX_HEAD_BYTES = 64 << 10
"""For the request line and the headers together."""
# Long enough for any well-behaved client.
STALL_S = 75.0
LINGER_S = 10.0
UNREAD_S = 30.0
"""How long a client may read nothing while its buffers are full. The same as for a gRPC stream
(segue/wire/status.py)."""
_HEAD = b"HTTP/1.1 "
_OFFERS = (b"upgrade", b"http2-settings", b"connection")


class JoiningTransport:
    """Wraps the connection's transport: a head waits for the data written right after it, and a
    close waits until the request has been received."""

    is_receiving = False
    """A request's body is incomplete."""
    is_lingering = False

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        if not self.is_receiving:
            self._transport.close()
        elif not self.is_lingering:
            self.is_lingering = True
            self._loop.call_later(LINGER_S, self._transport.close)

    def close_now(self) -> None:
        self._flush()
        self._transport.close()

    def received(self) -> None:
        """Called when the whole request has arrived."""
        self.is_receiving = False
        if self.is_lingering:
            self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HeadTooLarge(Exception):
    pass


class Protocol(HttpToolsProtocol):
    stall_s = STALL_S
    unread_s = UNREAD_S
    _own: JoiningTransport
    _is_in_head = True
    _num_head_bytes = 0
    _stall: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._own = JoiningTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._own))
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._stop_watching_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            if not self._num_head_bytes:
                self._watch()
            self._num_head_bytes += len(data)
        else:
            self._watch()
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
            if self._is_in_head:
                _check_head(self._num_head_bytes)
        except httptools.HttpParserError as error:
            # Of an error in a method below, the parser says only that there was one.
            if isinstance(reason := error.__context__ or error, HeadTooLarge):
                self._refuse(431, str(reason))
            else:
                self._refuse(
                    400, f"expected a request in HTTP/1.1, got something else ({reason!s:.200})"
                )
        except HeadTooLarge as error:
            self._refuse(431, str(error))

    def on_headers_complete(self) -> None:
        # A whole head may have come at once.
        lines = sum(len(b": \r\n") + len(name) + len(value) for name, value in self.headers)
        _check_head(len(self.url) + lines)
        if not self.parser.should_upgrade():
            self._is_in_head, self._num_head_bytes = False, 0
            self._own.is_receiving = True
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0":
                _send_without_chunks(self.cycle)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._is_in_head = True
            self._stop_watching()
            super().on_message_complete()
            self._own.received()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._stop_watching_reader()
        super().resume_writing()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.unread_s, self._give_reader_up, left)

    def _give_reader_up(self, num_bytes: int) -> None:
        """Aborts the connection unless the client has read some of the buffer."""
        if self.transport.get_write_buffer_size() < num_bytes:
            self._watch_reader()
        else:
            self.transport.abort()

    def _stop_watching_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offered:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(
                        405, "expected a request for a path, got CONNECT: this is no proxy"
                    )
                    return
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                # As in uvicorn: a request after the last one is dropped.
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
                data = data[cast("int", offered.args[0]) :]

    def _head_without_offer(self) -> bytes:
        start = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        kept = (b"%s: %s\r\n" % one for one in self.headers if one[0] not in _OFFERS)
        return b"".join((start, *kept, b"\r\n"))

    def _watch(self) -> None:
        self._stop_watching()
        self._stall = self.loop.call_later(self.stall_s, self._stalled)

    def _stop_watching(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        if self._is_in_head and self._is_answering():
            # The next request is not read until this answer is complete.
            self._watch()
        else:
            self._refuse(408, f"expected a whole request, got nothing for {self.stall_s:g} s")

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Closes the connection, with an error unless an answer has started."""
        if self.transport.is_closing():
            return
        if not (self.cycle is not None and self.cycle.response_started and self._is_answering()):
            body = to_json(Failure(status=status, message=message).openai())
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self._own.close_now()


def _check_head(num_bytes: int) -> None:
    if num_bytes > MAX_HEAD_BYTES:
        raise HeadTooLarge(
            f"expected a request line and headers of at most {MAX_HEAD_BYTES} bytes: send less"
        )


def _send_without_chunks(cycle: RequestResponseCycle) -> None:
    """uvicorn closes the connection after an answer to HTTP/1.0, but would send it in chunks."""
    send, is_unsized = cycle.send, False

    async def plain(message: Any) -> None:
        nonlocal is_unsized
        if message["type"] == "http.response.start":
            is_unsized = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if is_unsized:
                cycle.chunked_encoding, cycle.keep_alive = False, False
        elif is_unsized:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    # The application calls this attribute.
    cycle.send = plain  # type: ignore[method-assign]
