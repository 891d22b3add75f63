"""A decode worker's gRPC service: converts each request, calls the worker, converts the reply."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import grpc

from decode_worker.memory.residency import MAX_LEASE_S, Residency
from decode_worker.turn import Emit, MemoryReserved, PromptSource, TurnNews
from kv_transfer.ticket import PeerIdentity
from kv_transfer.wire import ticket_to_wire
from segue.api.checks import require, require_number
from segue.api.cluster.drain import MAX_DRAIN_S, Adopted, HeldSession
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import InvalidRequest, SegueError
from segue.api.prompt import PrefixName, Prompt
from segue.api.turn import ComputedOnDecode, PrefillStarted, TokenDelta, TurnResult, TurnSpec
from segue.api.types import SessionId
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.worker_pb2_grpc import (
    DecodeWorkerServicer,
    add_DecodeWorkerServicer_to_server,
)
from segue.process.telemetry import about_turn
from segue.process.tracing.context import within
from segue.wire.convert.drain import adopted_to_wire, prefixes_from_wire
from segue.wire.convert.events import delta_to_wire
from segue.wire.convert.same_names import message_of, value_of
from segue.wire.convert.trace import trace_from_wire
from segue.wire.convert.turns import result_to_wire, turn_from_wire
from segue.wire.convert.worker import worker_to_wire
from segue.wire.error_details import error_to_wire
from segue.wire.membership_calls import drained
from segue.wire.server import Services
from segue.wire.streams.outbox import numbered
from segue.wire.streams.server import CallStream
from segue.worker.process.serving import Presence

Context = grpc.aio.ServicerContext[Any, Any]


class Decoder(Protocol):
    """The interface of a `DecodeWorker` to its gRPC service."""

    model_id: str
    residency: Residency
    presence: Presence

    def find_prefix(self, prefix: PrefixName) -> Prompt: ...
    async def answer(
        self, turn: TurnSpec, source: PromptSource, emit: Emit, *, timeout_s: float
    ) -> None: ...
    def status(self) -> WorkerStatus: ...
    async def adopt(
        self, session: HeldSession, source: PeerIdentity, *, timeout_s: float
    ) -> Adopted: ...


class DecodeFace(DecodeWorkerServicer):
    def __init__(self, worker: Decoder) -> None:
        self._worker = worker

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Context
    ) -> AsyncIterator[pb.TurnEvents]:
        stream = CallStream(
            self._make_call,
            is_last=lambda event: event.WhichOneof("event") in ("end", "error"),
            failed=lambda status: pb.TurnEvent(error=status),
        )
        async with contextlib.aclosing(stream.run(request_iterator)) as batches:
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
        require_number("lease_s", request.lease_s, 0.0, MAX_LEASE_S)
        require_number("timeout_s", request.timeout_s, 0.0, MAX_DRAIN_S)
        session = HeldSession(
            session_id=SessionId(request.session_id),
            prefixes=prefixes_from_wire(request.prefixes),
            expires_in_s=request.lease_s,
        )
        source = value_of(PeerIdentity, request.source)
        adopted = await self._worker.adopt(session, source, timeout_s=request.timeout_s)
        return adopted_to_wire(adopted)

    def _make_call(
        self, command: pb.TurnCommand, emit: Callable[[pb.TurnEvent], None]
    ) -> Coroutine[Any, Any, None]:
        if command.WhichOneof("command") != "start":
            raise InvalidRequest(f"call {command.call}: expected a turn to start, or to stop")
        return self._answer(command.start, emit)

    async def _answer(self, request: pb.StartTurn, emit: Callable[[pb.TurnEvent], None]) -> None:
        with about_turn(request.turn.turn_id), within(trace_from_wire(request.turn.trace)):
            await self._worker.answer(
                turn_from_wire(request.turn, self._worker.find_prefix),
                _source(request),
                lambda news: emit(_event(news)),
                timeout_s=_timeout_s(request.timeout_s),
            )


def _event(news: TurnNews) -> pb.TurnEvent:
    match news:
        case TokenDelta():
            return pb.TurnEvent(delta=delta_to_wire(news))
        case TurnResult():
            return pb.TurnEvent(end=result_to_wire(news))
        case MemoryReserved(ticket):
            reserved = message_of(pb.Reserved, news, ticket=ticket_to_wire(ticket))
            return pb.TurnEvent(reserved=reserved)
        case PrefillStarted():
            return pb.TurnEvent(prefill_started=message_of(pb.PrefillStarted, news))
        case SegueError():
            return pb.TurnEvent(error=error_to_wire(news))


def _source(request: pb.StartTurn) -> PromptSource:
    match request.WhichOneof("prompt_from"):
        case "writer":
            return value_of(PeerIdentity, request.writer)
        case "max_computed_tokens":
            return ComputedOnDecode(request.max_computed_tokens)
        case _:
            raise InvalidRequest("expected the turn's writer or max_computed_tokens, got neither")


def _timeout_s(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequest(f"timeout_s must be a number above 0, got {seconds}")
    return seconds


def services(worker: Decoder) -> Services:
    """The services that the router calls."""
    face = DecodeFace(worker)
    return [("segue.internal.v1.DecodeWorker", partial(add_DecodeWorkerServicer_to_server, face))]
