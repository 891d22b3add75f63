"""The cluster's secret: who has it may join and call workers; all others are refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from segue.api.cluster.status import WorkerStatus
from segue.api.errors import InvalidConfig, Unauthenticated, Unavailable
from segue.api.types import Epoch, Role, WorkerId
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.internal.v1.transfer_pb2_grpc import (
    HandoffReaderServicer,
    HandoffReaderStub,
    add_HandoffReaderServicer_to_server,
)
from segue.internal.v1.worker_pb2_grpc import (
    MembershipServicer,
    MembershipStub,
    add_MembershipServicer_to_server,
)
from segue.security.config import OPEN, Security, SecurityConfig
from segue.security.secret import METADATA, ClusterSecret
from segue.wire.channel import channel_to, is_serving
from segue.wire.server import RunningServer, serving
from segue.wire.status import rpc_errors
from segue.wire.streams.join import stay_joined

SECRET = ClusterSecret("the-secret-of-this-cluster")
WORKER = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(5), address="127.0.0.1:7000"
)
INSIDE = Security(secret=SECRET)
OUTSIDE = {
    "none": OPEN,
    "another one": Security(secret=ClusterSecret("the-secret-of-another-one")),
    "its beginning": Security(secret=ClusterSecret("the-secret-of-this")),
}


class Internal(MembershipServicer, HandoffReaderServicer):
    """A streaming and a unary method of internal services, which count their calls."""

    num_calls = 0

    async def Join(
        self, request_iterator: AsyncIterator[worker_pb2.Heartbeat], context: object
    ) -> AsyncIterator[worker_pb2.ClusterView]:
        self.num_calls += 1
        yield worker_pb2.ClusterView()

    async def Abort(
        self, request: transfer_pb2.AbortRequest, context: object
    ) -> transfer_pb2.AbortResponse:
        self.num_calls += 1
        return transfer_pb2.AbortResponse()


@pytest.fixture
async def internal() -> Internal:
    return Internal()


@pytest.fixture
async def server(internal: Internal) -> AsyncIterator[RunningServer]:
    services = [
        (
            "segue.internal.v1.Membership",
            lambda server: add_MembershipServicer_to_server(internal, server),
        ),
        (
            "segue.internal.v1.HandoffReader",
            lambda server: add_HandoffReaderServicer_to_server(internal, server),
        ),
    ]
    async with serving("127.0.0.1", 0, lambda address: services, security=INSIDE) as running:
        yield running


async def call(address: str, security: Security) -> None:
    async with channel_to(address, security) as channel:
        with rpc_errors("the worker"):
            await HandoffReaderStub(channel).Abort(transfer_pb2.AbortRequest(), timeout=5)


async def join(address: str, security: Security) -> int:
    with contextlib.suppress(Unavailable):
        return await try_to_join(address, security)
    # Refused while its first message was being sent. Workers try again, too.
    return await try_to_join(address, security)


async def try_to_join(address: str, security: Security) -> int:
    async def heartbeats() -> AsyncIterator[worker_pb2.Heartbeat]:
        yield worker_pb2.Heartbeat()

    async with channel_to(address, security) as channel:
        with rpc_errors("the router"):
            views = MembershipStub(channel).Join(heartbeats(), timeout=5)
            return len([view async for view in views])


async def test_who_has_the_secret_is_answered(server: RunningServer, internal: Internal) -> None:
    await call(server.address, INSIDE)

    assert await join(server.address, INSIDE) == 1
    assert internal.num_calls == 2


@pytest.mark.parametrize("who", OUTSIDE)
async def test_who_has_not_is_refused_in_words(
    server: RunningServer, internal: Internal, who: str
) -> None:
    for ask in (call, join):
        with pytest.raises(Unauthenticated, match="expected its secret, got") as refused:
            await ask(server.address, OUTSIDE[who])
        assert "--cluster-secret-file" in str(refused.value)
        assert SECRET.text not in str(refused.value)

    assert internal.num_calls == 0


async def test_two_secrets_are_none(server: RunningServer, internal: Internal) -> None:
    async with channel_to(server.address, INSIDE) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HandoffReaderStub(channel).Abort(
                transfer_pb2.AbortRequest(), timeout=5, metadata=((METADATA, SECRET.text),)
            )

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert internal.num_calls == 0


async def test_health_stays_open(server: RunningServer) -> None:
    async with channel_to(server.address) as channel:
        assert not await is_serving(channel, 5.0)


async def test_a_message_is_not_read_before_the_secret(server: RunningServer) -> None:
    async with channel_to(server.address) as channel:
        send = channel.unary_unary("/segue.internal.v1.HandoffReader/Abort")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(b"\xff" * 100, timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_port_that_others_reach_needs_a_secret() -> None:
    with pytest.raises(InvalidConfig, match=r"listening on 0\.0\.0\.0 needs a cluster secret"):
        async with serving("0.0.0.0", 0, lambda address: []):
            pass


def test_no_text_shows_the_secret() -> None:
    for shown in (repr(INSIDE), str(SECRET), f"{SECRET}"):
        assert "the-secret" not in shown
    assert pickle.loads(pickle.dumps(INSIDE)) == INSIDE


def test_random_secrets_differ() -> None:
    first, second = Security().with_secret(), Security().with_secret()

    assert first.secret is not None
    assert first != second
    assert first.with_secret() is first


def test_a_secret_comes_from_the_file_or_else_the_environment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    file.write_text("the-secret-in-the-file\n")
    file.chmod(0o644)
    environment = {"SEGUE_CLUSTER_SECRET": "the-secret-of-the-environment"}

    with caplog.at_level(logging.WARNING):
        of_file = SecurityConfig(cluster_secret_file=str(file)).security(environment)
    of_environment = SecurityConfig().security(environment)

    assert of_file.secret == ClusterSecret("the-secret-in-the-file")
    assert of_environment.secret == ClusterSecret("the-secret-of-the-environment")
    assert SecurityConfig().security({}).secret is None
    assert "every user can read the cluster secret" in caplog.text
    assert "the-secret" not in caplog.text


@pytest.mark.parametrize("text", ["short", "with a space between", "x" * 257, "nön-ascii-secret-x"])
def test_a_secret_that_cannot_be_sent_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(0o600)

    with pytest.raises(InvalidConfig, match="16 to 256 printable ASCII") as refused:
        SecurityConfig(cluster_secret_file=str(file)).security({})

    assert text not in str(refused.value)


def test_a_secret_file_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidConfig, match="cannot read the cluster secret in /nowhere: No such"):
        SecurityConfig(cluster_secret_file="/nowhere").security({})


async def test_a_worker_with_another_secret_says_why_it_does_not_join(
    server: RunningServer, internal: Internal, caplog: pytest.LogCaptureFixture
) -> None:
    leaving = asyncio.Event()
    joining = asyncio.create_task(
        stay_joined(
            server.address,
            status=lambda: WORKER,
            model_id="m1",
            heartbeat_s=0.05,
            on_view=lambda workers: None,
            leaving=leaving,
            security=OUTSIDE["another one"],
        )
    )
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(10):
            while not caplog.records:
                await asyncio.sleep(0.01)
    leaving.set()
    await joining

    (record,) = caplog.records
    assert "expected its secret, got another one" in vars(record)["error"]
    assert internal.num_calls == 0
