"""Calls to a worker that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from kv_transfer.peers.calls import Peers
from kv_transfer.ticket import PeerIdentity, Ticket, TicketId
from segue.api.errors import Unavailable
from segue.api.types import Epoch, PageId, SlotId, TurnId, WorkerId
from segue.wire.server import free_port
from tests.faults.cluster.network import LISTEN, Network, front_of, pair_of
from tests.kv_transfer.world import World

PAIR = pair_of("prefill-0", "decode-0")


class Reader:
    """Answers each call with an empty message, which is what `Abort` and `Commit` expect."""

    def __init__(self) -> None:
        self.num_calls = 0

    async def answer(self, request: bytes, context: object) -> bytes:
        self.num_calls += 1
        return b""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(self.answer)
        handlers = {"Abort": method, "Commit": method}
        name = "segue.internal.v1.HandoffReader"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
        port = free_port(LISTEN, 0)
        server.add_insecure_port(f"{LISTEN}:{port}")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


def ticket_at(port: int) -> Ticket:
    return Ticket(
        ticket_id=TicketId("t"),
        turn_id=TurnId("turn"),
        reader=PeerIdentity(worker_id=WorkerId("decode-0"), epoch=Epoch(1), address=front_of(port)),
        resident_tokens=0,
        page_ids=(PageId(1),),
        slot_id=SlotId(1),
        expires_in_s=60.0,
    )


async def test_a_half_open_connection_costs_its_calls_and_not_the_next_one() -> None:
    reader, network = Reader(), Network(lambda local: "prefill-0")
    peers = Peers(World().node("prefill-0").memory_map)
    async with reader.serving() as port, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(network.close)
        stack.push_async_callback(peers.close)
        await network.front("decode-0", port)
        ticket = ticket_at(port)
        await peers.abort(ticket, "over", timeout_s=5.0)

        network.silence(PAIR)
        longer = asyncio.create_task(peers.commit(ticket, {}, None, timeout_s=30.0))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=r"decode-0 at .* did not answer within 0\.2 s"):
            await peers.commit(ticket, {}, None, timeout_s=0.2)
        with pytest.raises(Unavailable):
            await longer
        await peers.abort(ticket, "again", timeout_s=5.0)

    assert reader.num_calls == 2
