"""What this process says to its peers: meets them, commits, aborts, fences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import grpc

from kv_transfer.layout import MemoryMap, require_same_layout
from kv_transfer.seal import require_seal
from kv_transfer.ticket import Checksums, Fence, PeerIdentity, Ticket
from kv_transfer.wire import (
    checksums_to_wire,
    memory_map_from_wire,
    memory_map_to_wire,
    ticket_to_wire,
)
from segue.errors import StaleEpoch
from segue.internal.v1 import transfer_pb2 as pb
from segue.internal.v1.transfer_pb2_grpc import (
    HandoffReaderStub,
    HandoffSourceStub,
    HandoffWriterStub,
)
from segue.turn import ShipReport
from segue.types import Epoch, SampledToken, WorkerId
from segue.wire.channel import channel_to
from segue.wire.convert_events import sampled_to_wire
from segue.wire.convert_turns import report_to_wire
from segue.wire.status import rpc_errors

if TYPE_CHECKING:
    # Names of the stubs' types only: the generated module does not have them at run time.
    from segue.internal.v1.transfer_pb2_grpc import HandoffReaderAsyncStub, HandoffWriterAsyncStub


class _Met(NamedTuple):
    """What a reader said of itself."""

    memory_map: MemoryMap
    ticket_key: bytes


class Peers:
    """The event loop owns it. Every call raises SegueErrors and waits `timeout_s` at most."""

    def __init__(self, memory_map: MemoryMap) -> None:
        self._memory_map = memory_map
        self._channels: dict[WorkerId, tuple[str, grpc.aio.Channel]] = {}
        self._met: dict[WorkerId, _Met] = {}

    async def meet(self, ticket: Ticket, *, timeout_s: float) -> MemoryMap:
        """The memory map of the ticket's reader: asked for once per life, then remembered.

        Raises LayoutMismatch when bytes of ours mean something else there, StaleEpoch when the
        worker at that address is another, or another life, than the ticket names, InvalidRequest
        when the ticket is not as the reader issued it.
        """
        met = await self._meet(ticket.reader, timeout_s)
        require_seal(ticket, met.ticket_key)
        return met.memory_map

    async def _meet(self, reader: PeerIdentity, timeout_s: float) -> _Met:
        known = self._met.get(reader.worker_id)
        if known is not None and known.memory_map.epoch == reader.epoch:
            return known
        request = pb.MeetRequest(writer=memory_map_to_wire(self._memory_map))
        with rpc_errors(reader.address):
            reply = await self._reader(reader).Meet(request, timeout=timeout_s)
        theirs = memory_map_from_wire(reply.reader)
        _require_life(reader, theirs.worker_id, theirs.epoch)
        require_same_layout(self._memory_map, theirs)
        met = _Met(theirs, reply.ticket_key)
        self._met[reader.worker_id] = met
        return met

    async def commit(
        self,
        ticket: Ticket,
        checksums: Checksums,
        first_token: SampledToken,
        report: ShipReport,
        *,
        timeout_s: float,
    ) -> None:
        """Returns when the reader has taken the handoff. Send it after `Outgoing.finish`."""
        request = pb.CommitRequest(
            ticket_id=ticket.ticket_id,
            epoch=ticket.reader.epoch,
            checksums=checksums_to_wire(checksums),
            first_token=sampled_to_wire(first_token),
            report=report_to_wire(report),
        )
        with rpc_errors(ticket.reader.address):
            await self._reader(ticket.reader).Commit(request, timeout=timeout_s)

    async def abort(self, ticket: Ticket, reason: str, *, timeout_s: float) -> None:
        """Tells the reader that we have stopped. Send it after `Outgoing.stop` has returned.

        If it does not get through, the reader's fence will ask.
        """
        request = pb.AbortRequest(
            ticket_id=ticket.ticket_id, epoch=ticket.reader.epoch, reason=reason
        )
        with rpc_errors(ticket.reader.address):
            await self._reader(ticket.reader).Abort(request, timeout=timeout_s)

    async def fence(self, fence: Fence, *, timeout_s: float) -> None:
        """Returns when that life of the writer has stopped, or another life answers."""
        request = pb.FenceRequest(ticket_id=fence.ticket_id, writer_epoch=fence.writer.epoch)
        # A channel for one call: fences are rare, and their writers often gone for good.
        async with channel_to(fence.writer.address) as channel:
            writer: HandoffWriterAsyncStub = HandoffWriterStub(channel)
            with rpc_errors(fence.writer.address):
                await writer.Fence(request, timeout=timeout_s)

    async def pull(
        self,
        source: PeerIdentity,
        ticket: Ticket,
        token_ids: Sequence[int],
        *,
        timeout_s: float,
    ) -> int:
        """Has `source` ship a prefix into our ticket; returns the bytes when it has committed.

        Raises NotFound when it does not hold the prefix any more.
        """
        request = pb.PullRequest(ticket=ticket_to_wire(ticket), token_ids=token_ids)
        with rpc_errors(source.address):
            stub = HandoffSourceStub(self._channel(source))
            reply = await stub.Pull(request, timeout=timeout_s)
        return reply.shipped_bytes

    async def close(self) -> None:
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _reader(self, reader: PeerIdentity) -> HandoffReaderAsyncStub:
        return HandoffReaderStub(self._channel(reader))

    def _channel(self, peer: PeerIdentity) -> grpc.aio.Channel:
        """To that worker's address; one to an earlier address is dropped."""
        address, channel = self._channels.get(peer.worker_id, ("", None))
        if channel is None or address != peer.address:
            channel = channel_to(peer.address)
            self._channels[peer.worker_id] = (peer.address, channel)
        return channel


def _require_life(expected: PeerIdentity, worker_id: WorkerId, epoch: Epoch) -> None:
    if (worker_id, epoch) != (expected.worker_id, expected.epoch):
        raise StaleEpoch(
            f"expected {expected.worker_id} in epoch {expected.epoch} at {expected.address}, "
            f"{worker_id} in epoch {epoch} answered; reserve again"
        )
