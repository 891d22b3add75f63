"""A decode worker's gRPC face: translate in, call, translate out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import grpc

from decode_worker.residency import Residency
from kv_transfer.ticket import PeerIdentity, Ticket
from kv_transfer.wire import ticket_to_wire
from segue.cluster_status import WorkerStatus
from segue.telemetry import about_turn
from segue.turn import TokenDelta, TurnResult, TurnSpec
from segue.types import Epoch, SessionId, TurnId, WorkerId
from segue.wire import worker_pb2 as pb
from segue.wire.convert_events import delta_to_wire
from segue.wire.convert_worker import result_to_wire, turn_from_wire, worker_to_wire
from segue.wire.server import Services
from segue.wire.worker_pb2_grpc import DecodeWorkerServicer, add_DecodeWorkerServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


class Decoder(Protocol):
    """What is served: a `DecodeWorker`."""

    model_id: str
    residency: Residency

    async def reserve(
        self, turn: TurnSpec, writer: PeerIdentity, *, deadline_s: float | None
    ) -> tuple[Ticket, int]: ...
    async def prefill_here(self, turn: TurnSpec, max_computed_tokens: int) -> int: ...
    def decode(self, turn_id: TurnId) -> AsyncGenerator[TokenDelta | TurnResult, None]: ...
    async def release(self, turn_id: TurnId) -> bool: ...
    def status(self) -> WorkerStatus: ...


class DecodeFace(DecodeWorkerServicer):
    def __init__(self, worker: Decoder) -> None:
        self._worker = worker

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:
        turn = turn_from_wire(request.turn)
        writer = PeerIdentity(
            worker_id=WorkerId(request.writer_id),
            epoch=Epoch(request.writer_epoch),
            address=request.writer_address,
        )
        with about_turn(turn.turn_id):
            ticket, checkpoint_tokens = await self._worker.reserve(
                turn, writer, deadline_s=context.time_remaining()
            )
        return pb.ReserveReply(ticket=ticket_to_wire(ticket), checkpoint_tokens=checkpoint_tokens)

    async def PrefillHere(
        self, request: pb.PrefillHereRequest, context: Context
    ) -> pb.PrefillHereReply:
        turn = turn_from_wire(request.turn)
        with about_turn(turn.turn_id):
            computed_tokens = await self._worker.prefill_here(turn, request.max_computed_tokens)
        return pb.PrefillHereReply(computed_tokens=computed_tokens)

    async def Decode(
        self, request: pb.DecodeRequest, context: Context
    ) -> AsyncIterator[pb.DecodeEvent]:
        async with contextlib.aclosing(self._worker.decode(TurnId(request.turn_id))) as events:
            async for event in events:
                if isinstance(event, TokenDelta):
                    yield pb.DecodeEvent(delta=delta_to_wire(event))
                else:
                    yield pb.DecodeEvent(end=result_to_wire(event))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        was_here = await self._worker.release(TurnId(request.turn_id))
        return pb.ReleaseReply(was_here=was_here)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        status = worker_to_wire(self._worker.status())
        return pb.StatusReply(status=status, model_id=self._worker.model_id)

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseReply:
        lease_s = request.lease_s if request.HasField("lease_s") else None
        pause_s = request.pause_s if request.HasField("pause_s") else None
        expires_in_s = self._worker.residency.renew(SessionId(request.session_id), lease_s, pause_s)
        return pb.RenewLeaseReply(expires_in_s=expires_in_s)

    async def EndLease(self, request: pb.EndLeaseRequest, context: Context) -> pb.EndLeaseReply:
        return pb.EndLeaseReply(was_here=self._worker.residency.end(SessionId(request.session_id)))

    async def ForkLease(self, request: pb.ForkLeaseRequest, context: Context) -> pb.ForkLeaseReply:
        self._worker.residency.fork(SessionId(request.parent_id), SessionId(request.child_id))
        return pb.ForkLeaseReply()


def services(worker: Decoder) -> Services:
    """What the router calls."""
    face = DecodeFace(worker)
    return [
        (
            "segue.v1.DecodeWorker",
            lambda server: add_DecodeWorkerServicer_to_server(face, server),
        ),
    ]
