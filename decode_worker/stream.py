"""The turns of one router on this worker: commands come in, events go out, one message for all
that waits.

The stream is what a turn lives on: when it ends, its turns are stopped, so a router that dies, or
that lost sight of this worker, leaves nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import math
from array import array
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from decode_worker.turn import (
    Computed,
    PrefillStarted,
    PromptSource,
    Reserved,
    Shipped,
    Tell,
    TurnNews,
)
from kv_transfer.ticket import PeerIdentity
from kv_transfer.wire import ticket_to_wire
from segue.errors import InvalidRequest, SegueError
from segue.prefix_digest import PrefixName
from segue.telemetry import about_turn
from segue.turn import TokenDelta, TurnResult, TurnSpec
from segue.types import Epoch, TurnId, WorkerId
from segue.wire import worker_pb2 as pb
from segue.wire.convert_events import delta_to_wire
from segue.wire.convert_turns import result_to_wire, turn_from_wire
from segue.wire.outbox import Outbox
from segue.wire.status import error_to_wire, foreseen

logger = logging.getLogger(__name__)


class TurnRunner(Protocol):
    """What turns run on: a `DecodeWorker`."""

    def find_prefix(self, prefix: PrefixName) -> array[int]: ...
    async def start(
        self, turn: TurnSpec, source: PromptSource, tell: Tell, *, timeout_s: float
    ) -> None: ...
    def stop(self, turn_id: TurnId, reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Call:
    """A turn between its first command and its last event."""

    turn_id: TurnId
    starting: asyncio.Task[None] | None = None
    is_here: bool = False
    """The worker has taken it."""


class TurnStream:
    """Runs once. Raises InvalidRequest for commands that no router sends."""

    def __init__(self, runner: TurnRunner) -> None:
        self._runner = runner
        self._calls: dict[int, _Call] = {}
        self._events: Outbox[pb.TurnEvent] = Outbox()

    async def run(
        self, commands: AsyncIterator[pb.TurnCommands]
    ) -> AsyncGenerator[pb.TurnEvents, None]:
        """Until the commands end."""
        listening = asyncio.ensure_future(self._listen(commands))
        listening.add_done_callback(lambda _: self._events.close())
        try:
            async for events in self._events.batches():
                yield pb.TurnEvents(events=events)
            listening.result()
        finally:
            listening.cancel()
            for call in list(self._calls):
                self._stop(call, "its router left")

    async def _listen(self, commands: AsyncIterator[pb.TurnCommands]) -> None:
        async for message in commands:
            for command in message.commands:
                match command.WhichOneof("command"):
                    case "start":
                        self._start(command.call, command.start)
                    case "stop":
                        self._stop(command.call, "stopped")
                    case _:
                        raise InvalidRequest(f"call {command.call}: a command to start or to stop")

    def _start(self, number: int, request: pb.StartTurn) -> None:
        if number in self._calls:
            raise InvalidRequest(f"call {number} is running already: number each call anew")
        call = self._calls[number] = _Call(TurnId(request.turn.turn_id))

        def tell(news: TurnNews) -> None:
            # A call that was stopped hears nothing more, whatever its turn still does.
            if self._calls.get(number) is call:
                self._tell(number, call, news)

        call.starting = asyncio.ensure_future(self._take(request, tell))

    async def _take(self, request: pb.StartTurn, tell: Tell) -> None:
        with about_turn(request.turn.turn_id):
            try:
                turn = turn_from_wire(request.turn, self._runner.find_prefix)
                timeout_s = _timeout_s(request.timeout_s)
                await self._runner.start(turn, _source(request), tell, timeout_s=timeout_s)
            except Exception as error:
                tell(foreseen(error))

    def _tell(self, number: int, call: _Call, news: TurnNews) -> None:
        event = _event(number, news)
        call.is_here = True
        if isinstance(news, TurnResult | SegueError):
            del self._calls[number]
        self._events.put(event)

    def _stop(self, number: int, reason: str) -> None:
        """Late, for a turn that has just ended, it changes nothing."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        if call.is_here:
            self._runner.stop(call.turn_id, reason)
        elif call.starting is not None:
            call.starting.cancel()


def _event(number: int, news: TurnNews) -> pb.TurnEvent:
    match news:
        case TokenDelta():
            return pb.TurnEvent(call=number, delta=delta_to_wire(news))
        case TurnResult():
            return pb.TurnEvent(call=number, end=result_to_wire(news))
        case Reserved(ticket, checkpoint_tokens):
            reserved = pb.Reserved(
                ticket=ticket_to_wire(ticket), checkpoint_tokens=checkpoint_tokens
            )
            return pb.TurnEvent(call=number, reserved=reserved)
        case PrefillStarted(computed_tokens):
            started = pb.PrefillStarted(computed_tokens=computed_tokens)
            return pb.TurnEvent(call=number, prefill_started=started)
        case SegueError():
            return pb.TurnEvent(call=number, error=error_to_wire(news))


def _source(request: pb.StartTurn) -> PromptSource:
    match request.WhichOneof("prompt_from"):
        case "writer":
            writer = request.writer
            return Shipped(
                PeerIdentity(
                    worker_id=WorkerId(writer.worker_id),
                    epoch=Epoch(writer.epoch),
                    address=writer.address,
                )
            )
        case "max_computed_tokens":
            return Computed(request.max_computed_tokens)
        case _:
            raise InvalidRequest("a turn needs a writer of its prompt, or leave to compute it here")


def _timeout_s(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequest(f"timeout_s must be a number above 0, got {seconds}")
    return seconds
