"""Connections as no SDK makes them: over a real socket, before a fake cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from segue.api.turn import TurnEvent
from segue.gateway.__main__ import running_before
from segue.gateway.http.protocol import MAX_HEAD_BYTES, JoiningTransport, Protocol
from segue.gateway.ui.feed import MAX_VIEWERS
from tests.gateway.fake_client import FakeClient, delta, endless, says, started
from tests.gateway.faked import CONFIG

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"


class Wire:
    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, *pieces: bytes) -> bytes:
        """The answers, until the server closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(10):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    # So that they arrive one by one.
                    await asyncio.sleep(0.002)
                return await reader.read()
        finally:
            writer.close()


class Cluster(FakeClient):
    target = "none"


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    async with running_before(Cluster(says("Hello")), CONFIG) as gateway:  # type: ignore[arg-type]  # behaves as a client
        yield Wire(gateway.port)


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def error_of(answers: bytes) -> Any:
    return json.loads(answers.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "sent",
    [
        (CHAT + H2C + LENGTH + BODY,),
        (CHAT + H2C + LENGTH, BODY[:9], BODY[9:]),
        (CHAT + H2C + CHUNKED,),
        (CHAT[:30], CHAT[30:] + H2C[:50], H2C[50:] + LENGTH + BODY),
        (CHAT + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + BODY,),
        (HEALTH + H2C + b"\r\n" + CHAT + H2C + LENGTH + BODY,),
    ],
    ids=["whole", "in pieces", "chunked", "head in pieces", "websocket", "after another"],
)
async def test_an_offer_of_another_protocol_is_not_taken(
    wire: Wire, sent: tuple[bytes, ...]
) -> None:
    answers = await wire.send(*sent, HEALTH + CLOSE)

    assert set(statuses(answers)) == {200}
    assert answers.count(b"chat.completion") == 1


async def test_requests_may_wait_behind_each_other(wire: Wire) -> None:
    one = CHAT + LENGTH + BODY
    answers = await wire.send(one * 3 + HEALTH + CLOSE)

    assert statuses(answers) == [200] * 4
    assert answers.count(b"chat.completion") == 3


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "expected a request in HTTP/1.1"),
        (CHAT + b"Content-Length: -5\r\n\r\n", 400, "expected a request in HTTP/1.1"),
        (CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "expected a request in HTTP/1.1"),
        (HEALTH + b"X: " + b"a" * MAX_HEAD_BYTES, 431, "at most 65536 bytes"),
        (HEALTH + b"X: a\r\n" * (MAX_HEAD_BYTES // 6), 431, "at most 65536 bytes"),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, 431, "at most 65536 bytes"),
        (HEALTH + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, "at most 65536 bytes"),
        (HEALTH + b"X: a\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n", 431, "at most 65536 bytes"),
        (
            b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            431,
            "at most 65536 bytes",
        ),
        (b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "nvalid"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, "got CONNECT"),
    ],
    ids=[
        *("TLS", "negative length", "bad chunk", "one header", "many headers", "path"),
        *("one whole header", "many whole headers", "whole path", "no URL", "a proxy's"),
    ],
)
async def test_what_is_no_request_ends_the_connection(
    wire: Wire, sent: bytes, status: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = await wire.send(sent)

    assert statuses(answers) == [status]
    assert says in error_of(answers)["message"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("sent", [b"", HEALTH, CHAT + LENGTH + BODY[:-1]], ids=["", "head", "body"])
async def test_a_client_that_falls_silent_loses_its_connection(
    wire: Wire, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "stall_s", 0.05)
    answers = await wire.send(sent)

    assert statuses(answers) == [408]
    assert "got nothing for 0.05 s" in error_of(answers)["message"]


async def test_a_long_answer_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "stall_s", 0.05)
    body = BODY[:-1] + b', "stream": true}'
    async with running_before(Cluster(endless()), CONFIG) as gateway:  # type: ignore[arg-type]  # behaves as a client
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        # With the start of a next request behind it.
        writer.write(CHAT + b"Content-Length: %d\r\n\r\n" % len(body) + body + HEALTH)
        async with asyncio.timeout(10):
            read = b""
            while read.count(b"data: ") < 60:
                read += await reader.read(1000)
        writer.close()
        await writer.wait_closed()
    assert statuses(read) == [200]


async def test_viewers_of_the_status_page_that_close_leave_their_places() -> None:
    async with running_before(Cluster(says("Hello")), CONFIG) as gateway:  # type: ignore[arg-type]  # behaves as a client
        for _ in range(MAX_VIEWERS + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /ui/events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                read = await reader.readuntil(b"event: status\n")
                writer.close()
                while gateway.metrics.registry.get_sample_value("segue_http_requests_in_flight"):
                    await asyncio.sleep(0.001)
            assert statuses(read) == [200]


def torrent(answers: list[str]) -> Callable[[int], AsyncGenerator[TurnEvent, None]]:
    """More than all buffers hold, at once. Records how each answer ended."""

    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield started()
        try:
            while True:
                yield delta("more " * 20_000)
                await asyncio.sleep(0.001)
        finally:
            answers.append("stopped")

    return answer


@pytest.mark.parametrize("reads", [False, True])
async def test_a_client_that_reads_nothing_is_given_up_and_a_slow_one_is_not(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(Protocol, "unread_s", 0.5)
    answers: list[str] = []
    body = BODY[:-1] + b', "stream": true}'
    async with running_before(Cluster(torrent(answers)), CONFIG) as gateway:  # type: ignore[arg-type]  # behaves as a client
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=4096)
        writer.write(CHAT + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        ends_at = time.monotonic() + (1.25 if reads else 10.0)
        while not answers and time.monotonic() < ends_at:
            if reads:
                await reader.read(1 << 20)
            await asyncio.sleep(0.02)
        was_given_up = bool(answers)
        writer.transport.abort()

    assert was_given_up == (not reads)


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.is_closed = True


async def test_a_head_is_written_with_what_follows_it_at_once() -> None:
    written = Written()
    transport = JoiningTransport(written, asyncio.get_running_loop())  # type: ignore[arg-type]  # all that is used of one

    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert written.pieces == []
    transport.write(b"a")
    transport.write(b"b")
    assert written.pieces == [b"HTTP/1.1 200 OK\r\n\r\na", b"b"]


@pytest.mark.parametrize("closes", [False, True])
async def test_a_head_alone_is_not_kept(closes: bool) -> None:
    written = Written()
    transport = JoiningTransport(written, asyncio.get_running_loop())  # type: ignore[arg-type]  # all that is used of one

    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if closes:
        transport.close()
    else:
        await asyncio.sleep(0)

    assert written.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert written.is_closed is closes


@pytest.mark.parametrize("ending", [CLOSE, b"\r\n"], ids=["close", "keep"])
def test_a_body_that_is_too_large_is_answered_to_a_client_that_sends_it_all_first(
    ending: bytes,
) -> None:
    async def answer() -> bytes:
        config = replace(CONFIG, max_body_bytes=1000)
        async with running_before(Cluster(says("Hello")), config) as gateway:  # type: ignore[arg-type]  # behaves as a client
            head = CHAT + b"Content-Length: %d\r\n" % (8 << 20) + ending
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            async with asyncio.timeout(10):
                for _ in range(8):
                    writer.write(head + b"x" * (1 << 20))
                    head = b""
                    await writer.drain()
                    # So that a reset would arrive before the rest is sent.
                    await asyncio.sleep(0.005)
                answer = await reader.readuntil(b"\r\n\r\n")
                if ending == CLOSE:
                    await reader.read()
            writer.close()
            return answer

    assert statuses(asyncio.run(answer())) == [413]


async def test_a_client_that_never_ends_its_refused_body_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segue.gateway.http.protocol.LINGER_S", 0.2)
    config = replace(CONFIG, max_body_bytes=1000)
    async with running_before(Cluster(says("Hello")), config) as gateway:  # type: ignore[arg-type]  # behaves as a client
        head = CHAT + b"Content-Length: 5000\r\n" + CLOSE
        assert statuses(await Wire(gateway.port).send(head + b"x" * 50)) == [413]


async def test_a_stream_to_http_1_0_ends_with_the_connection_and_has_no_chunks(wire: Wire) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
    answers = await wire.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answered, _, streamed = answers.partition(b"\r\n\r\n")

    assert statuses(answers) == [200]
    assert b"transfer-encoding" not in answered
    assert b"connection: close" in answered
    assert streamed.startswith(b"data: {")
    assert streamed.endswith(b"data: [DONE]\n\n")


async def test_an_answer_of_known_length_says_it_to_http_1_0(wire: Wire) -> None:
    answers = await wire.send(CHAT.replace(b"1.1", b"1.0") + LENGTH + BODY)
    answered, _, body = answers.partition(b"\r\n\r\n")

    assert b"content-length: %d" % len(body) in answered
    assert json.loads(body)["object"] == "chat.completion"
