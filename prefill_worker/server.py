"""A prefill worker's gRPC face: translate in, call, translate out."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from kv_transfer.server import WriterServicer
from kv_transfer.ticket import Ticket
from kv_transfer.wire import ticket_from_wire
from kv_transfer.writer import HandoffWriter
from segue.telemetry import about_turn
from segue.types import ShipReport, TurnId, TurnSpec, WorkerStatus
from segue.wire import worker_pb2 as pb
from segue.wire.convert_worker import report_to_wire, turn_from_wire, worker_to_wire
from segue.wire.server import Services
from segue.wire.transfer_pb2_grpc import add_HandoffWriterServicer_to_server
from segue.wire.worker_pb2_grpc import (
    PrefillWorkerServicer,
    add_PrefillWorkerServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]


class Prefiller(Protocol):
    """What is served: a `PrefillWorker`."""

    model_id: str

    async def prefill(self, turn: TurnSpec, ticket: Ticket) -> ShipReport: ...
    async def release(self, turn_id: TurnId) -> bool: ...
    def status(self) -> WorkerStatus: ...


class PrefillFace(PrefillWorkerServicer):
    def __init__(self, worker: Prefiller) -> None:
        self._worker = worker

    async def Prefill(self, request: pb.PrefillRequest, context: Context) -> pb.PrefillReply:
        turn, ticket = turn_from_wire(request.turn), ticket_from_wire(request.ticket)
        with about_turn(turn.turn_id):
            report = await self._worker.prefill(turn, ticket)
        return pb.PrefillReply(report=report_to_wire(report))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        was_here = await self._worker.release(TurnId(request.turn_id))
        return pb.ReleaseReply(was_here=was_here)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        status = worker_to_wire(self._worker.status())
        return pb.StatusReply(status=status, model_id=self._worker.model_id)


def services(worker: Prefiller, writer: HandoffWriter) -> Services:
    """What a prefill worker serves: the router's calls, and the fences of readers."""
    face, handoffs = PrefillFace(worker), WriterServicer(writer)
    return [
        (
            "segue.v1.PrefillWorker",
            lambda server: add_PrefillWorkerServicer_to_server(face, server),
        ),
        (
            "segue.v1.HandoffWriter",
            lambda server: add_HandoffWriterServicer_to_server(handoffs, server),
        ),
    ]
