"""The gRPC faces of a reader and of a writer. Errors travel as `segue.wire.status` maps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from kv_transfer.layout import require_same_layout
from kv_transfer.reader import HandoffReader
from kv_transfer.source import PrefixSource
from kv_transfer.ticket import CommittedHandoff, TicketId
from kv_transfer.wire import (
    checksums_from_wire,
    memory_map_from_wire,
    memory_map_to_wire,
    ticket_from_wire,
)
from kv_transfer.writer import HandoffWriter
from segue.turn import ShipReport
from segue.types import Epoch, SampledToken
from segue.wire import transfer_pb2 as pb
from segue.wire import transfer_pb2_grpc as rpc
from segue.wire.convert_events import sampled_from_wire
from segue.wire.convert_turns import report_from_wire

Context = grpc.aio.ServicerContext[Any, Any]

OnCommit = Callable[[CommittedHandoff, SampledToken, ShipReport], None]
"""Takes over pages and slot, on the event loop and at once: between the commit and this call
nothing else runs, so no cancellation can leave them without an owner. Must not raise."""


class ReaderServicer(rpc.HandoffReaderServicer):
    def __init__(self, reader: HandoffReader, on_commit: OnCommit) -> None:
        self._reader = reader
        self._on_commit = on_commit

    async def Meet(self, request: pb.MeetRequest, context: Context) -> pb.MeetReply:
        ours = self._reader.memory_map
        require_same_layout(ours, memory_map_from_wire(request.writer))
        return pb.MeetReply(reader=memory_map_to_wire(ours))

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommitReply:
        first_token = sampled_from_wire(request.first_token)
        report = report_from_wire(request.report)
        committed = await self._reader.commit(
            TicketId(request.ticket_id),
            Epoch(request.epoch),
            checksums_from_wire(request.checksums),
        )
        self._on_commit(committed, first_token, report)
        return pb.CommitReply()

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortReply:
        self._reader.abort(TicketId(request.ticket_id), Epoch(request.epoch), request.reason)
        return pb.AbortReply()


class WriterServicer(rpc.HandoffWriterServicer):
    def __init__(self, writer: HandoffWriter) -> None:
        self._writer = writer

    async def Fence(self, request: pb.FenceRequest, context: Context) -> pb.FenceReply:
        # A ticket of another life is fenced by that life's death.
        if request.writer_epoch == self._writer.epoch:
            await self._writer.fence(TicketId(request.ticket_id))
        return pb.FenceReply(writer_epoch=self._writer.epoch)


class SourceServicer(rpc.HandoffSourceServicer):
    def __init__(self, source: PrefixSource) -> None:
        self._source = source

    async def Pull(self, request: pb.PullRequest, context: Context) -> pb.PullReply:
        num_bytes = await self._source.ship(
            ticket_from_wire(request.ticket), tuple(request.token_ids)
        )
        return pb.PullReply(shipped_bytes=num_bytes)
