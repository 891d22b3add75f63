"""A prefill worker's gRPC service: converts each request, calls the worker, converts the reply."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import grpc

from kv_transfer.ticket import Ticket
from kv_transfer.wire import ticket_from_wire
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import InvalidRequest
from segue.api.prompt import PrefixName, Prompt
from segue.api.turn import PrefixHolder, PromptLogprobs, TurnSpec
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.worker_pb2_grpc import (
    PrefillWorkerServicer,
    add_PrefillWorkerServicer_to_server,
)
from segue.process.telemetry import about_turn
from segue.process.tracing.context import within
from segue.wire.convert.events import prompt_logprobs_to_wire
from segue.wire.convert.trace import trace_from_wire
from segue.wire.convert.turns import holder_from_wire, turn_from_wire
from segue.wire.convert.worker import worker_to_wire
from segue.wire.membership_calls import drained
from segue.wire.server import Services
from segue.wire.streams.outbox import numbered
from segue.wire.streams.server import CallStream
from segue.worker.process.serving import Presence

Context = grpc.aio.ServicerContext[Any, Any]


class Prefiller(Protocol):
    """The interface of a `PrefillWorker` to its gRPC service."""

    model_id: str
    presence: Presence

    def find_prefix(self, prefix: PrefixName) -> Prompt: ...
    async def prefill(
        self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None: ...
    def status(self) -> WorkerStatus: ...


class PrefillFace(PrefillWorkerServicer):
    def __init__(self, worker: Prefiller) -> None:
        self._worker = worker

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Context
    ) -> AsyncIterator[pb.TurnEvents]:
        stream = CallStream(
            self._make_call,
            is_last=lambda event: True,
            failed=lambda status: pb.TurnEvent(error=status),
        )
        async with contextlib.aclosing(stream.run(request_iterator)) as batches:
            async for number, events in numbered(batches):
                yield pb.TurnEvents(events=events, number=number)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        status = worker_to_wire(self._worker.status())
        return pb.StatusResponse(status=status, model_id=self._worker.model_id)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        return await drained(self._worker.presence, request)

    def _make_call(
        self, command: pb.TurnCommand, emit: Callable[[pb.TurnEvent], None]
    ) -> Coroutine[Any, Any, None]:
        if command.WhichOneof("command") != "prefill":
            raise InvalidRequest(f"call {command.call}: expected a prompt to prefill, or to stop")
        return self._prefill(command.prefill, emit)

    async def _prefill(
        self, request: pb.PrefillPrompt, emit: Callable[[pb.TurnEvent], None]
    ) -> None:
        with about_turn(request.turn.turn_id), within(trace_from_wire(request.turn.trace)):
            turn = turn_from_wire(request.turn, self._worker.find_prefix)
            ticket = ticket_from_wire(request.ticket)
            holder = holder_from_wire(request.holder) if request.HasField("holder") else None
            logprobs = await self._worker.prefill(turn, ticket, holder)
            wire = None if logprobs is None else prompt_logprobs_to_wire(logprobs)
            emit(pb.TurnEvent(prefilled=pb.PromptPrefilled(logprobs=wire)))


def services(worker: Prefiller) -> Services:
    """The services that the router calls."""
    face = PrefillFace(worker)
    return [("segue.internal.v1.PrefillWorker", partial(add_PrefillWorkerServicer_to_server, face))]
