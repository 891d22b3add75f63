"""Errors cross a real gRPC connection as a status, and arrive as the same error."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segue.api import errors
from segue.api.types import TextInput
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipServicer, add_MembershipServicer_to_server
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import (
    SessionsServicer,
    SessionsStub,
    add_SessionsServicer_to_server,
)
from segue.wire.channel import channel_to
from segue.wire.error_details import status_of
from segue.wire.server import Services, serving
from segue.wire.status import _abort, rpc_errors

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SegueError)
]


class Failing(SessionsServicer):
    """Raises a chosen error, from a unary and from a streaming method."""

    def __init__(self) -> None:
        self.error: BaseException = errors.SegueError("nothing yet")
        self.was_left = asyncio.Event()

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
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


SERVED: dict[str, str] = {}


@pytest.fixture
def address(failing: tuple[Failing, SessionsStub]) -> str:
    """The address at which `failing` is served."""
    return SERVED["address"]


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
        SERVED["address"] = running.address
        yield servicer, SessionsStub(channel)


@pytest.mark.parametrize("kind", ALL)
async def test_a_raised_error_arrives_as_itself(
    failing: tuple[Failing, SessionsStub], kind: type[errors.SegueError]
) -> None:
    servicer, stub = failing
    servicer.error = kind("expected this, got that")

    with pytest.raises(kind, match=r"^expected this, got that$"), rpc_errors("peer"):
        await stub.Cancel(pb.CancelRequest())


@pytest.mark.parametrize("character", ["x", "ß", "字", "😀", "\n", "\x00"])
async def test_a_very_long_message_is_cut_and_arrives(
    failing: tuple[Failing, SessionsStub], character: str
) -> None:
    servicer, stub = failing
    servicer.error = errors.NotFound("no turn " + character * 100_000)

    with pytest.raises(errors.NotFound, match=r"^no turn ") as refused, rpc_errors("peer"):
        await stub.Cancel(pb.CancelRequest())

    assert len(str(refused.value)) < 5000


async def test_a_retry_hint_is_sent_along(failing: tuple[Failing, SessionsStub]) -> None:
    servicer, stub = failing
    servicer.error = errors.Overloaded.after("full", retry_after_s=2.5)

    with pytest.raises(errors.Overloaded) as refused, rpc_errors("peer"):
        await stub.Cancel(pb.CancelRequest())

    assert refused.value.retry_after_s == 2.5


async def test_a_stream_may_fail_after_it_started(failing: tuple[Failing, SessionsStub]) -> None:
    servicer, stub = failing
    servicer.error = errors.Unavailable("decode-0 is gone")
    call = stub.Generate(pb.GenerateRequest())

    assert await call.read() == pb.GenerateEvent()
    with pytest.raises(errors.Unavailable), rpc_errors("peer"):
        await call.read()


async def test_a_bug_is_an_internal_error_with_its_message(
    failing: tuple[Failing, SessionsStub],
) -> None:
    servicer, stub = failing
    servicer.error = KeyError("page 7")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Cancel(pb.CancelRequest())

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "KeyError: 'page 7'" in str(failed.value.details())


async def test_a_method_that_a_service_lacks_is_unimplemented_and_no_bug(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())

    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caplog.records == []


async def test_a_client_that_disconnects_ends_the_method_at_once(
    failing: tuple[Failing, SessionsStub],
) -> None:
    servicer, stub = failing
    call = stub.Generate(pb.GenerateRequest(text="hang"))
    await call.read()

    call.cancel()

    async with asyncio.timeout(5):
        await servicer.was_left.wait()


async def test_an_unreachable_server_is_unavailable_and_names_the_peer() -> None:
    async with channel_to("127.0.0.1:1") as channel:
        with (
            pytest.raises(errors.Unavailable, match="router at home"),
            rpc_errors("router at home"),
        ):
            await SessionsStub(channel).Cancel(pb.CancelRequest(), timeout=5)


async def test_a_message_that_is_too_large_is_refused_for_good_with_both_sizes() -> None:
    servicer = Failing()

    def services_at(address: str) -> Services:
        add = add_SessionsServicer_to_server
        return [("segue.v1.Sessions", lambda server: add(servicer, server))]

    request = pb.GenerateRequest(text="x" * 300_000)
    async with (
        serving("127.0.0.1", 0, services_at, max_receive_bytes=200_000) as running,
        Client(running.address) as client,
    ):
        with pytest.raises(
            errors.ContextOverflow, match=r"has 30\d\d\d\d bytes.* at most 200000"
        ) as found:
            await client.generate(TextInput(request.text))

    assert running.address not in str(found.value)
    assert not found.value.retry_is_safe


async def test_the_client_refuses_a_message_that_no_server_accepts() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(errors.InvalidRequest, match=rf"67\d+ bytes.* at most {64 << 20}"):
            await client.generate(TextInput("x" * (64 << 20)))


class Hanging(SessionsServicer):
    def __init__(self) -> None:
        self.was_asked = asyncio.Event()

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
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


GARBAGE = (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe")


def of_this_loop(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Without what gRPC kept for an earlier test's loop: the current loop runs and is not
    closed.
    """
    return [
        record
        for record in caplog.records
        if not (record.exc_info and str(record.exc_info[1]) == "Event loop is closed")
    ]


@pytest.mark.parametrize("octets", GARBAGE)
@pytest.mark.parametrize("method", ["Cancel", "Generate"])
async def test_an_undecodable_message_is_an_invalid_argument_without_a_traceback(
    failing: tuple[Failing, SessionsStub],
    caplog: pytest.LogCaptureFixture,
    address: str,
    method: str,
    octets: bytes,
) -> None:
    async with channel_to(address) as channel:
        if method == "Cancel":
            call = channel.unary_unary(f"/segue.v1.Sessions/{method}")(octets)
        else:
            call = channel.unary_stream(f"/segue.v1.Sessions/{method}")(octets)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call if method == "Cancel" else call.read())

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{len(octets)} bytes are not a message of this method" in str(refused.value.details())
    assert of_this_loop(caplog) == []


async def test_an_undecodable_message_ends_a_stream_after_earlier_messages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models: list[str] = []

    class Listening(MembershipServicer):
        async def Join(
            self, request_iterator: AsyncIterator[worker_pb2.Heartbeat], context: Any
        ) -> AsyncIterator[worker_pb2.ClusterView]:
            async for heartbeat in request_iterator:
                models.append(heartbeat.model_id)
                yield worker_pb2.ClusterView()

    async def messages() -> AsyncIterator[bytes]:
        yield worker_pb2.Heartbeat(model_id="one").SerializeToString()
        yield b"\xff\xff\xff"

    service = (
        "segue.internal.v1.Membership",
        lambda server: add_MembershipServicer_to_server(Listening(), server),
    )
    async with (
        serving("127.0.0.1", 0, lambda address: [service]) as running,
        channel_to(running.address) as channel,
    ):
        call = channel.stream_stream("/segue.internal.v1.Membership/Join")(messages())
        assert await call.read() == b""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert models == ["one"]
    assert of_this_loop(caplog) == []


@pytest.mark.parametrize("octets", GARBAGE)
async def test_probes_get_the_same_answer_and_still_work(
    address: str, caplog: pytest.LogCaptureFixture, octets: bytes
) -> None:
    async with channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(octets)
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        seen = await watching.read()
        watching.cancel()

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert seen.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("error", [errors.NotFound("gone"), KeyError("a bug")])
async def test_a_caller_that_left_before_the_answer_causes_no_error(error: Exception) -> None:
    class Left:
        async def abort(self, *arguments: object) -> None:
            raise grpc.aio.InternalError("execute_batch")

    with pytest.raises(asyncio.CancelledError):
        await _abort(Left(), error)  # type: ignore[arg-type]  # as much of a context as is asked


async def test_a_caller_that_leaves_during_the_answer_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grpcs = logging.getLogger("grpc._cython.cygrpc")
    async with serving("127.0.0.1", 0, lambda address: []):
        grpcs.error(
            "ExecuteBatchError raised in core by servicer method [/segue.v1.Sessions/Cancel]"
        )
        grpcs.error("Unexpected [KeyError] raised by servicer method [/segue.v1.Sessions/Cancel]")

    assert [record.getMessage()[:10] for record in caplog.records] == ["Unexpected"]
