"""A router's stream of turns on this worker: commands in, events out."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from decode_worker.turn import Emit, MemoryReserved, PromptSource, TurnNews, WrittenByPrefill
from kv_transfer.ticket import PeerIdentity
from kv_transfer.wire import ticket_to_wire
from segue.api.errors import InvalidRequest, SegueError
from segue.api.prompt import PrefixName, Prompt
from segue.api.turn import ComputedOnDecode, PrefillStarted, TokenDelta, TurnResult, TurnSpec
from segue.internal.v1 import worker_pb2 as pb
from segue.process.telemetry import about_turn
from segue.process.tracing.context import within
from segue.wire.convert.events import delta_to_wire
from segue.wire.convert.same_names import value_of
from segue.wire.convert.trace import trace_from_wire
from segue.wire.convert.turns import result_to_wire, turn_from_wire
from segue.wire.error_details import error_to_wire
from segue.wire.streams.server import CallStream


class TurnRunner(Protocol):
    """The interface of a `DecodeWorker` to its stream of turns."""

    def find_prefix(self, prefix: PrefixName) -> Prompt: ...
    async def answer(
        self, turn: TurnSpec, source: PromptSource, emit: Emit, *, timeout_s: float
    ) -> None: ...


def turn_stream(runner: TurnRunner) -> CallStream[pb.TurnCommand, pb.TurnEvent]:
    def make_call(
        command: pb.TurnCommand, emit: Callable[[pb.TurnEvent], None]
    ) -> Coroutine[Any, Any, None]:
        if command.WhichOneof("command") != "start":
            raise InvalidRequest(f"call {command.call}: expected a turn to start, or to stop")
        return answer(command.start, emit)

    async def answer(request: pb.StartTurn, emit: Callable[[pb.TurnEvent], None]) -> None:
        with about_turn(request.turn.turn_id), within(trace_from_wire(request.turn.trace)):
            await runner.answer(
                turn_from_wire(request.turn, runner.find_prefix),
                _source(request),
                lambda news: emit(_event(news)),
                timeout_s=_timeout_s(request.timeout_s),
            )

    return CallStream(
        make_call,
        lambda event: event.WhichOneof("event") in ("end", "error"),
        lambda status: pb.TurnEvent(error=status),
    )


def _event(news: TurnNews) -> pb.TurnEvent:
    match news:
        case TokenDelta():
            return pb.TurnEvent(delta=delta_to_wire(news))
        case TurnResult():
            return pb.TurnEvent(end=result_to_wire(news))
        case MemoryReserved(ticket, checkpoint_tokens):
            reserved = pb.Reserved(
                ticket=ticket_to_wire(ticket), checkpoint_tokens=checkpoint_tokens
            )
            return pb.TurnEvent(reserved=reserved)
        case PrefillStarted(computed_tokens):
            started = pb.PrefillStarted(computed_tokens=computed_tokens)
            return pb.TurnEvent(prefill_started=started)
        case SegueError():
            return pb.TurnEvent(error=error_to_wire(news))


def _source(request: pb.StartTurn) -> PromptSource:
    match request.WhichOneof("prompt_from"):
        case "writer":
            return WrittenByPrefill(value_of(PeerIdentity, request.writer))
        case "max_computed_tokens":
            return ComputedOnDecode(request.max_computed_tokens)
        case _:
            raise InvalidRequest("expected the turn's writer or max_computed_tokens, got neither")


def _timeout_s(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequest(f"timeout_s must be a number above 0, got {seconds}")
    return seconds
