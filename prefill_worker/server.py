"""A prefill worker's gRPC face: translate in, call, translate out."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from kv_transfer.ticket import Ticket
from kv_transfer.wire import ticket_from_wire
from segue.cluster_status import WorkerStatus
from segue.telemetry import about_turn
from segue.turn import PrefixHolder, ShipReport, TurnSpec
from segue.types import TurnId
from segue.wire import worker_pb2 as pb
from segue.wire.convert_worker import (
    holder_from_wire,
    report_to_wire,
    turn_from_wire,
    worker_to_wire,
)
from segue.wire.server import Services
from segue.wire.worker_pb2_grpc import (
    PrefillWorkerServicer,
    add_PrefillWorkerServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]


class Prefiller(Protocol):
    """What is served: a `PrefillWorker`."""

    model_id: str

    async def prefill(
        self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None
    ) -> ShipReport: ...
    async def release(self, turn_id: TurnId) -> bool: ...
    def status(self) -> WorkerStatus: ...


class PrefillFace(PrefillWorkerServicer):
    def __init__(self, worker: Prefiller) -> None:
        self._worker = worker

    async def Prefill(self, request: pb.PrefillRequest, context: Context) -> pb.PrefillReply:
        turn, ticket = turn_from_wire(request.turn), ticket_from_wire(request.ticket)
        holder = holder_from_wire(request.holder) if request.HasField("holder") else None
        with about_turn(turn.turn_id):
            report = await self._worker.prefill(turn, ticket, holder)
        return pb.PrefillReply(report=report_to_wire(report))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        was_here = await self._worker.release(TurnId(request.turn_id))
        return pb.ReleaseReply(was_here=was_here)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        status = worker_to_wire(self._worker.status())
        return pb.StatusReply(status=status, model_id=self._worker.model_id)


def services(worker: Prefiller) -> Services:
    """What the router calls."""
    face = PrefillFace(worker)
    return [
        (
            "segue.v1.PrefillWorker",
            lambda server: add_PrefillWorkerServicer_to_server(face, server),
        ),
    ]
