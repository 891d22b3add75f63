"""A router with keys, over real gRPC and without workers: every call of every service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from router.__main__ import RunningRouter, running
from router.config import RouterConfig
from segue.api.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SegueError,
    Unauthenticated,
    Unavailable,
)
from segue.api.types import SessionId, TextInput
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to, is_serving
from segue.wire.status import rpc_errors

METHODS = pb.DESCRIPTOR.services_by_name["Sessions"].methods
KEYS = """
[tenants.acme]
keys = ["sk-acme"]
[tenants.blue]
keys = ["sk-blue"]
[tenants.few]
keys = ["sk-few"]
max_turns = 2
[tenants.ops]
keys = ["sk-ops"]
operator = true
"""
ACME, BLUE, OPERATOR, UNKNOWN = "sk-acme", "sk-blue", "sk-ops", "sk-unknown"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningRouter]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS)
    path.chmod(0o600)
    config = RouterConfig(port=0, metrics_port=0, drain_s=0.0, api_keys_file=str(path))
    async with running(config, "demo") as started:
        yield started


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def call(router: RunningRouter, name: str, metadata: Any) -> Message | None:
    """One call of a method with an empty request; of a stream, its first message."""
    (method,) = [one for one in METHODS if one.name == name]
    request = getattr(pb, method.input_type.name)()
    async with channel_to(router.address) as channel:
        stub = getattr(SessionsStub(channel), name)
        with rpc_errors("router"):
            if not method.server_streaming:
                reply: Message = await stub(request, metadata=metadata)
                return reply
            if method.client_streaming:
                start = pb.StartGenerate(request=pb.GenerateRequest(text="Hello"))
                command = pb.GenerateManyCommand(call=1, start=start)
                stream = stub(metadata=metadata)
                # The end of the commands would be the end of the turn.
                await stream.write(pb.GenerateManyCommands(commands=[command]))
            else:
                stream = stub(request, metadata=metadata)
            first: Message = await stream.read()
            stream.cancel()
            return first


def error_in(message: Message | None) -> int:
    """The status code of a turn of a stream."""
    assert isinstance(message, pb.GenerateManyEvents)
    return message.events[0].error.code


@pytest.mark.parametrize("method", [method.name for method in METHODS])
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", f"Bearer {UNKNOWN}"),),
        (("authorization", ACME),),
        (("authorization", f"Basic {ACME}"),),
        (("x-api-key", ACME),),
        (("authorization", f"Bearer {ACME}"), ("authorization", f"Bearer {BLUE}")),
        (("authorization", f"Bearer {'x' * 4_000}"),),
        (("authorization", "Bearer "),),
    ],
)
async def test_no_call_is_answered_without_a_key(
    router: RunningRouter, method: str, metadata: Any
) -> None:
    if method == "GenerateMany":
        # The stream may be opened; each turn needs a key.
        code = error_in(await call(router, method, metadata))
        assert code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        return
    with pytest.raises(Unauthenticated) as refused:
        await call(router, method, metadata)
    assert ACME not in str(refused.value)


@pytest.mark.parametrize("method", [method.name for method in METHODS])
async def test_every_call_is_answered_with_a_key(router: RunningRouter, method: str) -> None:
    metadata = (("authorization", f"bearer {ACME}"),)
    refused: type[SegueError] | None = None
    answer = None
    try:
        answer = await call(router, method, metadata)
    except SegueError as error:
        # An empty request is refused for what it is.
        refused = type(error)

    assert refused is not Unauthenticated
    if method == "GenerateMany":
        assert error_in(answer) != grpc.StatusCode.UNAUTHENTICATED.value[0]


async def test_only_an_operator_may_drain_a_worker(router: RunningRouter) -> None:
    async with Client(router.address, api_key=ACME) as client:
        with pytest.raises(PermissionDenied, match="expected an operator's API key"):
            await client.drain_worker("decode-0")
        with pytest.raises(NotFound, match="no worker is called 'decode-0'"):
            await client.with_key(OPERATOR).drain_worker("decode-0")


async def test_turns_of_one_stream_have_keys_of_their_own(router: RunningRouter) -> None:
    async with Client(router.address) as client:

        async def outcome(key: str | None) -> type[Exception]:
            with pytest.raises(SegueError) as raised:
                await client.with_key(key).generate(TextInput("Hello"))
            return raised.type

        outcomes = await asyncio.gather(*map(outcome, (ACME, BLUE, UNKNOWN, None)))

    assert outcomes == [Unavailable, Unavailable, Unauthenticated, Unauthenticated]


async def test_health_needs_no_key(router: RunningRouter) -> None:
    async with channel_to(router.address) as channel:
        assert not await is_serving(channel, 5.0)


async def test_sessions_of_another_tenant_do_not_exist(router: RunningRouter) -> None:
    table = router.router.table
    for name in ("acme/s", "acme/t", "blue/s"):
        table.add(table.of(SessionId(name)))
    async with (
        Client(router.address, api_key=ACME) as acme,
        Client(router.address, api_key=BLUE) as blue,
    ):
        assert [one.session_id for one in await acme.sessions()] == ["s", "t"]
        assert [one.session_id for one in await blue.sessions()] == ["s"]
        refused = {}
        for name in ("t", "unknown"):
            for ask in (blue.explain, blue.renew_session):
                with pytest.raises(NotFound) as missing:
                    await ask(name)
                refused[name, ask.__name__] = str(missing.value)
            assert not await blue.release_session(name)
        assert not await blue.release_session("../acme/t")
        assert not await blue.release_session("acme/t")
        # Another tenant's session is refused in the same words as an unknown one.
        for name in ("explain", "renew_session"):
            assert refused["t", name] == refused["unknown", name]
        assert await acme.release_session("t")


async def test_a_turn_of_another_tenant_cannot_be_cancelled(router: RunningRouter) -> None:
    async with (
        Client(router.address, api_key=ACME) as acme,
        Client(router.address, api_key=BLUE) as blue,
    ):
        router.router._admission.set_capacity(0)
        waiting = asyncio.create_task(acme.generate(TextInput("Hello"), turn_id="t"))
        while not len(router.router._admission.waiting):
            await asyncio.sleep(0.01)
        try:
            assert not await blue.cancel("t")
            assert await acme.cancel("t")
            assert (await waiting).end.finish_reason == "cancelled"
        finally:
            router.router._admission.set_capacity(None)


async def test_documents_are_their_tenants(router: RunningRouter) -> None:
    async with Client(router.address, api_key=ACME) as acme:
        assert await acme.keep_document("g", "a", b"first")
        assert await acme.keep_document("g", "b", b"second", previous="a")
        assert await acme.documents("g", "b") == [b"first", b"second"]
        assert await acme.documents("g", "b", alone=True) == [b"second"]

        blue = acme.with_key(BLUE)
        assert await blue.documents("g", "b") == []
        assert not await blue.delete_document("g", "b")
        assert await acme.delete_document("g", "b")
        assert not await acme.delete_document("g", "b")

        stranger = acme.with_key(None)
        for asking in (
            stranger.keep_document("g", "a", b""),
            stranger.documents("g", "a"),
            stranger.delete_document("g", "a"),
        ):
            with pytest.raises(Unauthenticated):
                await asking
        with pytest.raises(InvalidRequest, match="name must not be empty"):
            await acme.keep_document("g", "", b"")


async def test_a_tenant_reads_its_own_limit_of_turns(router: RunningRouter) -> None:
    for key, max_turns in (("sk-few", 2), (ACME, 0)):
        async with Client(router.address, api_key=key) as client:
            assert (await client.model()).max_turns == max_turns
