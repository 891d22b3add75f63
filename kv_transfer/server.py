"""The gRPC services of a reader, a writer and a source of prefixes.

Errors travel as `segue.wire.status` maps them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from kv_transfer.layout import require_same_layout
from kv_transfer.peers.members import Members
from kv_transfer.ranks.leading import Writer
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import Ticket
from kv_transfer.wire import (
    checksums_from_wire,
    memory_map_from_wire,
    memory_map_to_wire,
    ticket_from_wire,
    ticket_id_from_wire,
)
from segue.api.checks import require
from segue.api.prompt import PrefixName
from segue.api.types import Epoch, WorkerId
from segue.internal.v1 import transfer_pb2 as pb
from segue.internal.v1 import transfer_pb2_grpc as rpc
from segue.process.tracing.context import from_metadata, within
from segue.wire.convert.same_names import value_of
from segue.wire.convert.turns import outcome_from_wire

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_REASON_CHARS = 1000


class ReaderServicer(rpc.HandoffReaderServicer):
    def __init__(
        self,
        reader: HandoffReader,
        *,
        vocab_size: int,
        require_life: Callable[[WorkerId, Epoch], Awaitable[None]],
    ) -> None:
        """`vocab_size`: the model's, to check the first token of a commit. `require_life`: see
        `Members`.
        """
        self._reader = reader
        self._require_life = require_life
        self._vocab_size = vocab_size

    async def Meet(self, request: pb.MeetRequest, context: Context) -> pb.MeetResponse:
        ours, theirs = self._reader.memory_map, memory_map_from_wire(request.writer)
        # Only members get the addresses: a process that knows them can write into the cache.
        await self._require_life(theirs.worker_id, theirs.epoch)
        require_same_layout(ours, theirs)
        self._reader.met(theirs)
        key = self._reader.ticket_key
        return pb.MeetResponse(reader=memory_map_to_wire(ours), ticket_key=key)

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommitResponse:
        outcome = outcome_from_wire(request.outcome) if request.HasField("outcome") else None
        if outcome is not None:
            token_id = outcome.first_token.token_id
            require(
                token_id < self._vocab_size,
                f"the first token is {token_id}, but the model's ids go from 0 to "
                f"{self._vocab_size - 1}",
            )
        await self._reader.commit(
            ticket_id_from_wire(request.ticket_id),
            Epoch(request.epoch),
            checksums_from_wire(request.checksums),
            outcome,
        )
        return pb.CommitResponse()

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        self._reader.abort(
            ticket_id_from_wire(request.ticket_id),
            Epoch(request.epoch),
            request.reason[:_MAX_REASON_CHARS],
        )
        return pb.AbortResponse()


class WriterServicer(rpc.HandoffWriterServicer):
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def Fence(self, request: pb.FenceRequest, context: Context) -> pb.FenceResponse:
        ticket_id = ticket_id_from_wire(request.ticket_id)
        # A ticket of another life needs no fence: that life has ended.
        if request.writer_epoch == self._writer.epoch:
            await self._writer.fence(ticket_id)
        return pb.FenceResponse()


Lend = Callable[[Ticket, PrefixName], Awaitable[None]]
ReadKeys = Callable[[PrefixName], Awaitable[Sequence[bytes]]]


class SourceServicer(rpc.HandoffSourceServicer):
    def __init__(self, lend: Lend, read_keys: ReadKeys, members: Members) -> None:
        self._lend = lend
        self._read_keys = read_keys
        self._members = members

    async def Pull(self, request: pb.PullRequest, context: Context) -> pb.PullResponse:
        ticket = ticket_from_wire(request.ticket)
        await self._members.require(ticket.reader)
        with within(from_metadata(context.invocation_metadata())):
            await self._lend(ticket, value_of(PrefixName, request.prefix))
        return pb.PullResponse()

    async def ReadPrefix(
        self, request: pb.ReadPrefixRequest, context: Context
    ) -> pb.ReadPrefixResponse:
        page_keys = await self._read_keys(value_of(PrefixName, request.prefix))
        return pb.ReadPrefixResponse(page_keys=page_keys)
