"""Sessions are listed in pages, and the SDK reads all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.__main__ import RunningRouter, running
from router.config import RouterConfig
from segue.api.errors import InvalidRequest
from segue.api.types import SessionId
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from segue.wire.status import rpc_errors

NAMES = [f"s{number}" for number in range(10_001)]


@pytest.fixture
async def router() -> AsyncIterator[RunningRouter]:
    """A router with 10,001 sessions."""
    async with running(RouterConfig(port=0, metrics_port=0), "demo") as running_router:
        table = running_router.router.table
        for name in NAMES:
            table.add(table.of(SessionId(name)))
        yield running_router


async def test_the_sdk_reads_all_pages(router: RunningRouter) -> None:
    async with Client(router.address) as client:
        listed = await client.sessions()

    assert [session.session_id for session in listed] == NAMES


async def test_a_page_has_the_requested_size_up_to_a_limit(router: RunningRouter) -> None:
    async with channel_to(router.address) as channel:
        list_sessions = SessionsStub(channel).ListSessions
        default = await list_sessions(pb.ListSessionsRequest())
        few = await list_sessions(pb.ListSessionsRequest(page_size=3))
        most = await list_sessions(pb.ListSessionsRequest(page_size=2**32 - 1))
        last = await list_sessions(pb.ListSessionsRequest(page_token=most.next_page_token))

    assert [len(page.sessions) for page in (default, few, most, last)] == [1_000, 3, 10_000, 1]
    assert [session.session_id for session in few.sessions] == NAMES[:3]
    assert last.sessions[0].session_id == NAMES[-1]
    assert last.next_page_token == ""


@pytest.mark.parametrize("token", ["next", "-1", "1.5", "9" * 20, "٣"])
async def test_an_unknown_page_token_is_refused(router: RunningRouter, token: str) -> None:
    request = pb.ListSessionsRequest(page_token=token)
    refused = pytest.raises(InvalidRequest, match="page_token must be the next_page_token")
    async with channel_to(router.address) as channel:
        with refused, rpc_errors("router"):
            await SessionsStub(channel).ListSessions(request)
