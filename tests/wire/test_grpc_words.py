"""The error that a client raises for an address where no router answers."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from segue.api.errors import DeadlineExceeded, InvalidRequest, SegueError, Unavailable
from segue.api.types import TextInput
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from segue.wire.grpc_words import error_in_words
from segue.wire.server import serving


class NotFoundPages(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def website() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFoundPages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("foo", "the router's address is HOST:PORT such as 127.0.0.1:7411, got 'foo'"),
        ("", "the router's address is HOST:PORT"),
        (":7411", "the router's address is HOST:PORT"),
        ("http://127.0.0.1:7411", "the router's address is HOST:PORT"),
        ("127.0.0.1:99999", "'99999' is not a valid port"),
        ("127.0.0.1:0", "'0' is not a valid port"),
        ("127.0.0.1:" + "9" * 5000, "is not a valid port"),
        ("127.0.0.1:x", "'x' is not a valid port"),
    ],
)
def test_an_invalid_address_is_refused_at_once(target: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Client(target)


@pytest.mark.parametrize("target", ["a_b:7411", "[::1]:7411", "dns:///router:7411", "unix:/r.sock"])
async def test_other_address_forms_of_grpc_are_accepted(target: str) -> None:
    async with Client(target) as client:
        assert client.target == target


async def errors_at(address: str, *, timeout_s: float = 20.0) -> list[SegueError]:
    """The errors of a short call and of a turn."""
    found = []
    async with Client(address) as client:
        turn = client.generate(TextInput("x"), timeout_s=timeout_s)
        for call in (client.status(timeout_s=timeout_s), turn):
            with pytest.raises(SegueError) as failed:
                await call
            found.append(failed.value)
    return found


async def test_a_web_server_does_not_speak_grpc(website: str) -> None:
    for error in await errors_at(website):
        assert type(error) is Unavailable
        assert str(error) == (
            f"router {website}: the server there does not speak gRPC: is it Segue's router?"
        )


async def test_a_worker_is_not_the_router() -> None:
    async with serving("127.0.0.1", 0, lambda address: []) as worker:
        for error in await errors_at(worker.address):
            assert type(error) is InvalidRequest
            assert "such as a worker, not the router: use the router's" in str(error)


class Slow(SessionsServicer):
    """Never ends, or reports by itself that the deadline has passed if asked to."""

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        raise DeadlineExceeded("turn 7 ran out of its time")

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        yield pb.GenerateEvent()
        await asyncio.Event().wait()

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyCommands], context: Any
    ) -> AsyncIterator[pb.GenerateManyEvents]:
        yield pb.GenerateManyEvents()
        await asyncio.Event().wait()


async def test_an_expired_deadline_has_one_text_whichever_side_notices() -> None:
    service = ("segue.v1.Sessions", lambda server: add_SessionsServicer_to_server(Slow(), server))
    async with serving("127.0.0.1", 0, lambda address: [service], grace_s=0) as running:
        for error in await errors_at(running.address, timeout_s=0.5):
            assert type(error) is DeadlineExceeded
            assert str(error) == f"router {running.address}: no complete answer within 0.5 s"


@pytest.mark.parametrize(
    ("code", "details", "kind", "words"),
    [
        ("UNAVAILABLE", "Stream removed (Socket closed)", Unavailable, "the connection broke"),
        ("UNAVAILABLE", "Socket closed", Unavailable, "the connection broke"),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", Unavailable, "the connection broke"),
        ("UNKNOWN", "Stream removed (Deadline Exceeded)", DeadlineExceeded, "no complete answer"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded, "no complete answer"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", Unavailable, "not speak gRPC"),
        ("UNIMPLEMENTED", "Method not found!", Unavailable, "does not have this method"),
        ("UNAVAILABLE", "keepalive watchdog timeout", Unavailable, "keepalive watchdog timeout"),
        ("UNAVAILABLE", "errors resolving foo:1: [...]", Unavailable, "unknown host name; check"),
        ("INTERNAL", "Internal error from Core", Unavailable, "ended the call early"),
        ("INTERNAL", "odd", SegueError, "odd"),
    ],
)
def test_grpcs_own_texts_become_plain_words(
    code: str, details: str, kind: type[SegueError], words: str
) -> None:
    nothing = grpc.aio.Metadata()
    failed = grpc.aio.AioRpcError(grpc.StatusCode[code], nothing, nothing, details)

    error = error_in_words(failed, "router x")

    assert type(error) is kind
    assert str(error).startswith("router x: ")
    assert words in str(error)
