"""One streamed answer, over gRPC and over HTTP, and when each of its tokens arrived.

Both clients only note what arrives and when. It is read after the measurement: parsing between two
arrivals would count as the gateway's time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import cast

import httptools

from segue import Client, Message, StopConditions, TokenDelta
from segue.api.types import ChatInput

QUESTION = "Count from one to one thousand, in words."
_OK = b"HTTP/1.1 200 "
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    asked_at: float
    first_at: float = 0.0
    took_s: list[float] = field(default_factory=list)
    """For each token, the time since its worker sent it."""
    num_events: int = 0
    """Events that carried tokens."""

    def add(self, text: str, now: float) -> None:
        """The texts of tokens are the times when they were sent."""
        sent = [float(word) for word in text.split()]
        if sent and not self.took_s:
            self.first_at = now
        self.num_events += bool(sent)
        self.took_s += [now - at for at in sent]


Unread = Callable[[], Answer]
"""Reads what arrived of one answer."""
AskForTokens = Callable[[int], Awaitable[Unread]]
"""Asks for an answer of this number of tokens."""


def over_grpc(client: Client) -> AskForTokens:
    async def ask(num_tokens: int) -> Unread:
        asked_at, pieces = time.monotonic(), list[tuple[float, str]]()
        chat = ChatInput(messages=(Message(role="user", content=QUESTION),))
        stop = StopConditions(max_tokens=num_tokens, ignore_eos=True)
        async for event in client.stream(chat, session_hint="", stop=stop):
            if isinstance(event, TokenDelta):
                pieces.append((time.monotonic(), event.text))
        return partial(_read_texts, asked_at, pieces)

    return ask


def _read_texts(asked_at: float, pieces: Iterable[tuple[float, str]]) -> Answer:
    answer = Answer(asked_at)
    for now, text in pieces:
        answer.add(text, now)
    return answer


class OverHttp:
    """A client that does as little as possible, so that the gateway is what is measured."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._host, self._port, self._model = host, port, model
        self._idle: list[_Connection] = []

    async def __call__(self, num_tokens: int) -> Unread:
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": QUESTION}],
                "stream": True,
                "max_tokens": num_tokens,
                "ignore_eos": True,
            }
        ).encode()
        # The gateway closes connections that have been idle for some seconds.
        self._idle = [connection for connection in self._idle if connection.is_open]
        connection = self._idle.pop() if self._idle else await self._connect()
        unread = await connection.ask(body)
        self._idle.append(connection)
        return unread

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


class _Connection(asyncio.Protocol):
    """A connection that stays open, with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pieces: list[tuple[float, bytes]] = []
        self._end = b""
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._done is not None
        if not self._pieces and not data.startswith(_OK):
            self._done.set_exception(RuntimeError(f"expected a stream, got {data!r}"))
        self._pieces.append((time.monotonic(), data))
        self._end = (self._end + data)[-len(_LAST_CHUNK) :]
        if self._end == _LAST_CHUNK:
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionResetError("the gateway hung up"))

    async def ask(self, body: bytes) -> Unread:
        assert self._transport is not None
        asked_at = time.monotonic()
        self._pieces, self._end = [], b""
        self._done = asyncio.get_running_loop().create_future()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        await self._done
        return partial(_read_response, asked_at, self._pieces)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _read_response(asked_at: float, pieces: Iterable[tuple[float, bytes]]) -> Answer:
    """From the bytes of an HTTP response that is a stream of events."""
    answer, now, rest = Answer(asked_at), 0.0, b""

    def on_body(body: bytes) -> None:
        nonlocal rest
        *events, rest = (rest + body).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                chunk = json.loads(event.removeprefix(b"data: "))
                answer.add(chunk["choices"][0]["delta"].get("content", ""), now)

    parser = httptools.HttpResponseParser(SimpleNamespace(on_body=on_body))
    for arrived_at, data in pieces:
        now = arrived_at
        parser.feed_data(data)
    return answer
