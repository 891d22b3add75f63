"""Calls from one worker to others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

import grpc

from kv_transfer.layout import MemoryMap, require_same_layout
from kv_transfer.ticket import Checksums, Fence, PeerIdentity, Ticket, require_seal
from kv_transfer.wire import (
    checksums_to_wire,
    memory_map_from_wire,
    memory_map_to_wire,
    ticket_to_wire,
)
from segue.api.errors import DeadlineExceeded, StaleEpoch, Unavailable
from segue.api.prompt import PrefixName
from segue.api.turn import PrefillOutcome
from segue.api.types import Epoch, WorkerId
from segue.internal.v1 import transfer_pb2 as pb
from segue.internal.v1.transfer_pb2_grpc import (
    HandoffReaderStub,
    HandoffSourceStub,
    HandoffWriterStub,
)
from segue.process.tracing.context import outgoing_metadata
from segue.security.config import OPEN, Security
from segue.wire.channel import channel_to
from segue.wire.convert.same_names import message_of
from segue.wire.convert.turns import outcome_to_wire
from segue.wire.grpc_words import is_refused
from segue.wire.status import rpc_errors

if TYPE_CHECKING:
    # For type checking only: the generated module does not have these names at run time.
    from segue.internal.v1.transfer_pb2_grpc import HandoffReaderAsyncStub, HandoffWriterAsyncStub


class PeerCalls(Protocol):
    """Calls from one worker to others. They raise SegueErrors: Unavailable if there is no answer
    within `timeout_s`.
    """

    async def meet(self, ticket: Ticket, *, timeout_s: float) -> MemoryMap:
        """The memory map of the ticket's reader.

        Raises LayoutMismatch if the two cache layouts differ, StaleEpoch if another worker or
        another life answers at the reader's address, InvalidRequest if the ticket is not as the
        reader issued it.
        """
        ...

    async def greet(self, peer: PeerIdentity, *, timeout_s: float) -> None:
        """Meets the peer as a reader, before it has issued a ticket. Raises what `meet` raises."""
        ...

    async def commit(
        self,
        ticket: Ticket,
        checksums: Checksums,
        outcome: PrefillOutcome | None,
        *,
        timeout_s: float,
    ) -> None:
        """Returns when the reader has accepted the handoff. Call it after `Outgoing.finish`."""
        ...

    async def abort(self, ticket: Ticket, reason: str, *, timeout_s: float) -> None:
        """Reports to the reader that we have stopped. Call it after `Outgoing.stop` has returned.

        If the message is lost, the reader sends a fence.
        """
        ...

    async def fence(self, fence: Fence, *, timeout_s: float) -> bool:
        """Returns True when that life of the writer has stopped, or when another life answers, and
        False if the connection is refused: no process listens at its address."""
        ...

    async def pull(
        self, source: PeerIdentity, ticket: Ticket, prefix: PrefixName, *, timeout_s: float
    ) -> None:
        """Makes `source` ship a prefix into our ticket; returns when it has committed.

        Raises NotFound if it no longer holds the prefix.
        """
        ...

    async def read_prefix(
        self, source: PeerIdentity, prefix: PrefixName, *, timeout_s: float
    ) -> Sequence[bytes]:
        """The keys of the prefix's pages (`segue/api/prompt.py`). The caller compares their digest.

        Raises NotFound if `source` no longer holds the prefix.
        """
        ...

    async def close(self) -> None: ...


class Peers:
    """`PeerCalls` over gRPC. The event loop owns it. It meets each life of a reader once."""

    def __init__(self, memory_map: MemoryMap, security: Security = OPEN) -> None:
        self._memory_map = memory_map
        self._security = security
        self._channels: dict[WorkerId, tuple[str, grpc.aio.Channel]] = {}
        self._met: dict[WorkerId, tuple[MemoryMap, bytes]] = {}
        """Each reader's memory map and ticket key."""

    async def meet(self, ticket: Ticket, *, timeout_s: float) -> MemoryMap:
        memory_map, ticket_key = await self._meet(ticket.reader, timeout_s)
        require_seal(ticket, ticket_key)
        return memory_map

    async def greet(self, peer: PeerIdentity, *, timeout_s: float) -> None:
        await self._meet(peer, timeout_s)

    async def _meet(self, reader: PeerIdentity, timeout_s: float) -> tuple[MemoryMap, bytes]:
        known = self._met.get(reader.worker_id)
        if known is not None and known[0].epoch == reader.epoch:
            return known
        request = pb.MeetRequest(writer=memory_map_to_wire(self._memory_map))
        async with self._calling(reader, timeout_s) as channel:
            reply = await _reader(channel).Meet(request, timeout=timeout_s)
        theirs = memory_map_from_wire(reply.reader)
        _require_life(reader, theirs.worker_id, theirs.epoch)
        require_same_layout(self._memory_map, theirs)
        met = self._met[reader.worker_id] = theirs, reply.ticket_key
        return met

    async def commit(
        self,
        ticket: Ticket,
        checksums: Checksums,
        outcome: PrefillOutcome | None,
        *,
        timeout_s: float,
    ) -> None:
        request = pb.CommitRequest(
            ticket_id=ticket.ticket_id,
            epoch=ticket.reader.epoch,
            checksums=checksums_to_wire(checksums),
            outcome=outcome_to_wire(outcome) if outcome else None,
        )
        async with self._calling(ticket.reader, timeout_s) as channel:
            await _reader(channel).Commit(request, timeout=timeout_s, metadata=outgoing_metadata())

    async def abort(self, ticket: Ticket, reason: str, *, timeout_s: float) -> None:
        request = pb.AbortRequest(
            ticket_id=ticket.ticket_id, epoch=ticket.reader.epoch, reason=reason
        )
        async with self._calling(ticket.reader, timeout_s) as channel:
            await _reader(channel).Abort(request, timeout=timeout_s)

    async def fence(self, fence: Fence, *, timeout_s: float) -> bool:
        request = pb.FenceRequest(ticket_id=fence.ticket_id, writer_epoch=fence.writer.epoch)
        # One channel per call: fences are rare, and their writers are often gone for good.
        async with channel_to(fence.writer.address, self._security) as channel:
            writer: HandoffWriterAsyncStub = HandoffWriterStub(channel)
            with rpc_errors(fence.writer.address):
                try:
                    await writer.Fence(request, timeout=timeout_s)
                except grpc.aio.AioRpcError as error:
                    if is_refused(error):
                        return False
                    raise
        return True

    async def pull(
        self, source: PeerIdentity, ticket: Ticket, prefix: PrefixName, *, timeout_s: float
    ) -> None:
        request = pb.PullRequest(
            ticket=ticket_to_wire(ticket), prefix=message_of(pb.PrefixName, prefix)
        )
        async with self._calling(source, timeout_s) as channel:
            await HandoffSourceStub(channel).Pull(
                request, timeout=timeout_s, metadata=outgoing_metadata()
            )

    async def read_prefix(
        self, source: PeerIdentity, prefix: PrefixName, *, timeout_s: float
    ) -> Sequence[bytes]:
        request = pb.ReadPrefixRequest(prefix=message_of(pb.PrefixName, prefix))
        async with self._calling(source, timeout_s) as channel:
            reply = await HandoffSourceStub(channel).ReadPrefix(request, timeout=timeout_s)
        return reply.page_keys

    async def close(self) -> None:
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    @contextlib.asynccontextmanager
    async def _calling(
        self, peer: PeerIdentity, timeout_s: float
    ) -> AsyncIterator[grpc.aio.Channel]:
        """The channel for one call of at most `timeout_s`. A late peer is Unavailable:
        DeadlineExceeded would be the turn's own, which may have time left to go elsewhere.

        Its connection may be half open, so all calls on it end, and the next call opens another.
        """
        channel = self._channel(peer)
        try:
            with rpc_errors(peer.address):
                yield channel
        except DeadlineExceeded:
            if self._channels.get(peer.worker_id) == (peer.address, channel):
                del self._channels[peer.worker_id]
                await channel.close()
            raise Unavailable(
                f"{peer.worker_id} at {peer.address} did not answer within {timeout_s:g} s; place "
                "the turn again"
            ) from None

    def _channel(self, peer: PeerIdentity) -> grpc.aio.Channel:
        """The channel to the peer's address. Drops a channel to an earlier address."""
        address, channel = self._channels.get(peer.worker_id, ("", None))
        if channel is None or address != peer.address:
            channel = channel_to(peer.address, self._security)
            self._channels[peer.worker_id] = (peer.address, channel)
        return channel


def _reader(channel: grpc.aio.Channel) -> HandoffReaderAsyncStub:
    return HandoffReaderStub(channel)


def _require_life(expected: PeerIdentity, worker_id: WorkerId, epoch: Epoch) -> None:
    if (worker_id, epoch) != (expected.worker_id, expected.epoch):
        raise StaleEpoch(
            f"expected {expected.worker_id} in epoch {expected.epoch} at {expected.address}, "
            f"but {worker_id} in epoch {epoch} answered; reserve again"
        )
