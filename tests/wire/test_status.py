"""Errors cross a real gRPC connection as a status, and arrive as the same error."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from segue import errors
from segue.wire import session_pb2 as pb
from segue.wire.server import channel_to, serving
from segue.wire.session_pb2_grpc import (
    SessionsServicer,
    SessionsStub,
    add_SessionsServicer_to_server,
)
from segue.wire.status import rpc_errors, status_of

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SegueError)
]


class Failing(SessionsServicer):
    """Raises what it is told to, from a unary and from a streaming method."""

    def __init__(self) -> None:
        self.error: BaseException = errors.SegueError("nothing yet")
        self.was_left = asyncio.Event()

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelReply:
        raise self.error

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        try:
            yield pb.GenerateEvent()
            if request.text != "hang":
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.was_left.set()


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, SessionsStub]]:
    servicer = Failing()
    service = (
        "segue.v1.Sessions",
        lambda server: add_SessionsServicer_to_server(servicer, server),
    )
    async with (
        serving("127.0.0.1", 0, lambda address: [service]) as running,
        channel_to(running.address) as channel,
    ):
        yield servicer, SessionsStub(channel)


@pytest.mark.parametrize("kind", ALL)
async def test_a_raised_error_arrives_as_itself(
    failing: tuple[Failing, SessionsStub], kind: type[errors.SegueError]
) -> None:
    servicer, stub = failing
    servicer.error = kind("expected this, got that")

    with pytest.raises(kind, match=r"^expected this, got that$"), rpc_errors("peer"):
        await stub.Cancel(pb.CancelRequest())


async def test_a_hint_when_to_retry_travels_along(failing: tuple[Failing, SessionsStub]) -> None:
    servicer, stub = failing
    servicer.error = errors.Overloaded.after("full", retry_after_s=2.5)

    with pytest.raises(errors.Overloaded) as refused, rpc_errors("peer"):
        await stub.Cancel(pb.CancelRequest())

    assert refused.value.retry_after_s == 2.5


async def test_a_stream_may_fail_after_it_began(failing: tuple[Failing, SessionsStub]) -> None:
    servicer, stub = failing
    servicer.error = errors.Unavailable("decode-0 is gone")
    call = stub.Generate(pb.GenerateRequest())

    assert await call.read() == pb.GenerateEvent()
    with pytest.raises(errors.Unavailable), rpc_errors("peer"):
        await call.read()


async def test_a_bug_is_internal_and_says_what_it_was(
    failing: tuple[Failing, SessionsStub],
) -> None:
    servicer, stub = failing
    servicer.error = KeyError("page 7")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Cancel(pb.CancelRequest())

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "KeyError: 'page 7'" in str(failed.value.details())


async def test_a_client_that_hangs_up_ends_the_method_at_once(
    failing: tuple[Failing, SessionsStub],
) -> None:
    servicer, stub = failing
    call = stub.Generate(pb.GenerateRequest(text="hang"))
    await call.read()

    call.cancel()

    async with asyncio.timeout(5):
        await servicer.was_left.wait()


async def test_nobody_there_is_unavailable_and_names_the_peer() -> None:
    async with channel_to("127.0.0.1:1") as channel:
        with (
            pytest.raises(errors.Unavailable, match="router at home"),
            rpc_errors("router at home"),
        ):
            await SessionsStub(channel).Cancel(pb.CancelRequest(), timeout=5)


class Hanging(SessionsServicer):
    def __init__(self) -> None:
        self.was_asked = asyncio.Event()

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelReply:
        self.was_asked.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_closing_a_channel_fails_its_calls_without_cancelling_their_callers() -> None:
    servicer = Hanging()
    service = ("segue.v1.Sessions", lambda server: add_SessionsServicer_to_server(servicer, server))

    async def call(stub: SessionsStub) -> None:
        with rpc_errors("decode-0"):
            await stub.Cancel(pb.CancelRequest())

    async with serving("127.0.0.1", 0, lambda address: [service], grace_s=0) as running:
        channel = channel_to(running.address)
        closed, cancelled = (asyncio.ensure_future(call(SessionsStub(channel))) for _ in range(2))
        await servicer.was_asked.wait()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

        await channel.close()

        with pytest.raises(errors.Unavailable, match="decode-0: the connection was closed"):
            await closed


async def test_a_taken_port_is_refused_by_name() -> None:
    async with serving("127.0.0.1", 0, lambda address: []) as running:
        port = int(running.address.rsplit(":", 1)[1])

        with pytest.raises(errors.InvalidConfig, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving("127.0.0.1", port, lambda address: []):
                pass


@pytest.mark.parametrize("kind", ALL)
def test_errors_pickle_and_have_a_status(kind: type[errors.SegueError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what")))

    assert (type(error), str(error)) == (kind, "what")
    assert isinstance(status_of(error), grpc.StatusCode)
