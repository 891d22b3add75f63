"""A decode worker's gRPC service: converts each request, calls the worker, converts the reply."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc

from decode_worker.memory.residency import MAX_LEASE_S, Residency
from decode_worker.stream import TurnRunner, turn_stream
from kv_transfer.ticket import PeerIdentity
from segue.api.checks import MAX_SESSION_CHARS, require, require_name, require_number
from segue.api.cluster.drain import MAX_DRAIN_S, Adopted
from segue.api.cluster.status import WorkerStatus
from segue.api.prompt import PrefixName
from segue.api.types import SessionId
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.worker_pb2_grpc import (
    DecodeWorkerServicer,
    add_DecodeWorkerServicer_to_server,
)
from segue.wire.convert.drain import adopted_to_wire, prefixes_from_wire
from segue.wire.convert.same_names import value_of
from segue.wire.convert.worker import worker_to_wire
from segue.wire.membership_calls import drained
from segue.wire.server import Services
from segue.wire.streams.outbox import numbered
from segue.worker.process.serving import Presence

Context = grpc.aio.ServicerContext[Any, Any]


class Decoder(TurnRunner, Protocol):
    """The interface of a `DecodeWorker` to its gRPC service."""

    model_id: str
    residency: Residency
    presence: Presence

    def status(self) -> WorkerStatus: ...
    async def adopt(
        self,
        session_id: SessionId,
        source: PeerIdentity,
        prefixes: Sequence[PrefixName],
        *,
        lease_s: float,
        timeout_s: float,
    ) -> Adopted: ...


class DecodeFace(DecodeWorkerServicer):
    def __init__(self, worker: Decoder) -> None:
        self._worker = worker

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Context
    ) -> AsyncIterator[pb.TurnEvents]:
        async with contextlib.aclosing(turn_stream(self._worker).run(request_iterator)) as batches:
            async for number, events in numbered(batches):
                yield pb.TurnEvents(events=events, number=number)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        status = worker_to_wire(self._worker.status())
        return pb.StatusResponse(status=status, model_id=self._worker.model_id)

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseResponse:
        lease_s = request.lease_s if request.HasField("lease_s") else None
        pause_s = request.pause_s if request.HasField("pause_s") else None
        session_id, residency = SessionId(request.session_id), self._worker.residency
        if request.only_longer:
            require(pause_s is None, "only_longer and pause_s exclude each other: leave one out")
            expires_in_s = residency.extend(session_id, lease_s)
        else:
            expires_in_s = residency.renew(session_id, lease_s, pause_s)
        return pb.RenewLeaseResponse(expires_in_s=expires_in_s)

    async def EndLease(self, request: pb.EndLeaseRequest, context: Context) -> pb.EndLeaseResponse:
        left_s = self._worker.residency.end(SessionId(request.session_id))
        return pb.EndLeaseResponse(left_s=left_s)

    async def ForkLease(
        self, request: pb.ForkLeaseRequest, context: Context
    ) -> pb.ForkLeaseResponse:
        self._worker.residency.fork(SessionId(request.parent_id), SessionId(request.child_id))
        return pb.ForkLeaseResponse()

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        return await drained(self._worker.presence, request)

    async def Adopt(self, request: pb.AdoptRequest, context: Context) -> pb.AdoptResponse:
        require_name("session_id", request.session_id, max_chars=MAX_SESSION_CHARS)
        require_number("lease_s", request.lease_s, 0.0, MAX_LEASE_S)
        require_number("timeout_s", request.timeout_s, 0.0, MAX_DRAIN_S)
        adopted = await self._worker.adopt(
            SessionId(request.session_id),
            value_of(PeerIdentity, request.source),
            prefixes_from_wire(request.prefixes),
            lease_s=request.lease_s,
            timeout_s=request.timeout_s,
        )
        return adopted_to_wire(adopted)


def services(worker: Decoder) -> Services:
    """The services that the router calls."""
    face = DecodeFace(worker)
    return [
        (
            "segue.internal.v1.DecodeWorker",
            lambda server: add_DecodeWorkerServicer_to_server(face, server),
        ),
    ]
