"""One streamed answer, over gRPC and over HTTP, and when each of its tokens arrived."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Protocol

import httptools

from segue.api.types import ChatInput
from segue.sdk.client import Client, Message, StopConditions, TokenDelta

QUESTION = "Count from one to one thousand, in words."
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"


@dataclass(slots=True)
class Answer:
    asked_at: float
    first_at: float = 0.0
    took_s: list[float] = field(default_factory=list)
    """For each token, the time since its worker sent it."""

    def add(self, text: str, now: float) -> None:
        """The texts of tokens are the times when they were sent."""
        sent = [float(word) for word in text.split()]
        if sent and not self.took_s:
            self.first_at = now
        self.took_s += [now - at for at in sent]


class AskForTokens(Protocol):
    async def __call__(self, num_tokens: int) -> Answer: ...


class OverGrpc:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, num_tokens: int) -> Answer:
        answer = Answer(time.monotonic())
        chat = ChatInput(messages=(Message(role="user", content=QUESTION),))
        stop = StopConditions(max_tokens=num_tokens, ignore_eos=True)
        async for event in self._client.stream(chat, session_hint="", stop=stop):
            if isinstance(event, TokenDelta):
                answer.add(event.text, time.monotonic())
        return answer


class OverHttp:
    """A client that does as little as possible, so that the gateway is what is measured."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._host, self._port, self._model = host, port, model
        self._idle: list[_Connection] = []

    async def __call__(self, num_tokens: int) -> Answer:
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": QUESTION}],
                "stream": True,
                "max_tokens": num_tokens,
                "ignore_eos": True,
            }
        ).encode()
        connection = self._idle.pop() if self._idle else await self._connect()
        answer = await connection.ask(body)
        self._idle.append(connection)
        return answer

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
        self._answer = Answer(0.0)
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionResetError("the gateway hung up"))

    def on_body(self, body: bytes) -> None:
        now = time.monotonic()
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                chunk = json.loads(event.removeprefix(b"data: "))
                self._answer.add(chunk["choices"][0]["delta"].get("content", ""), now)

    def on_message_complete(self) -> None:
        assert self._done is not None
        if self._parser.get_status_code() == 200:
            self._done.set_result(None)
        else:
            self._done.set_exception(
                RuntimeError(f"{self._parser.get_status_code()}: {self._rest!r}")
            )

    async def ask(self, body: bytes) -> Answer:
        assert self._transport is not None
        self._answer = Answer(time.monotonic())
        self._parser, self._rest = httptools.HttpResponseParser(self), b""
        self._done = asyncio.get_running_loop().create_future()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        await self._done
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
