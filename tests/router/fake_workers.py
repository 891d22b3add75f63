"""Fake workers that act at a test's command: late, twice or never."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from typing import Any

from router.turn.calls import NamedTurn, PromptSource, TurnCall
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import SegueError
from segue.api.turn import PrefixHolder, PromptLogprobs
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.transfer_pb2 import Ticket
from segue.v1 import session_pb2
from segue.wire.error_details import error_to_wire

LAST = ("end", "error")
LOGPROBS = PromptLogprobs(
    token_ids=array("I", [7, 8]),
    logprobs=array("f", [-0.5]),
    ranks=array("I", [1]),
    num_top=0,
    top_ids=array("I"),
    top_logprobs=array("f"),
)


async def settle() -> None:
    """Lets all tasks run until they wait, for longer than the shortest pause."""
    loop: Any = asyncio.get_running_loop()
    for _ in range(100):
        await asyncio.sleep(0)
        # asyncio has no public name for them.
        is_due = loop._scheduled and loop._scheduled[0].when() <= loop.time() + 1e-3
        if not loop._ready and not is_due:
            return


@dataclass(eq=False)
class FakeDecodeCall:
    """A turn on a decode worker, as the worker sees it."""

    worker: WorkerStatus
    turn: NamedTurn
    source: PromptSource
    num_stops: int = 0
    has_ended: bool = False
    call: TurnCall = field(init=False)

    def __post_init__(self) -> None:
        self.call = TurnCall(self._stop)

    def _stop(self) -> None:
        self.num_stops += 1

    def send(self, event: pb.TurnEvent) -> None:
        """Like the real stream, drops events of a call that was stopped or has ended."""
        if self.num_stops or self.has_ended:
            return
        self.has_ended = event.WhichOneof("event") in LAST
        if self.call.push(event):
            self.call.wake()

    def reserve(self) -> None:
        self.send(pb.TurnEvent(reserved=pb.Reserved(ticket=Ticket(turn_id=self.turn.name))))

    def start_prefill(self) -> None:
        self.send(pb.TurnEvent(prefill_started=pb.PrefillStarted(computed_tokens=64)))

    def token(self, token_id: int) -> None:
        delta = session_pb2.TokenDelta(token_ids=[token_id], text=f"{token_id} ")
        self.send(pb.TurnEvent(delta=delta))

    def end(self) -> None:
        end = pb.DecodeEnd(finish_reason=session_pb2.FINISH_REASON_STOP)
        self.send(pb.TurnEvent(end=end))

    def refuse(self, error: SegueError) -> None:
        self.send(pb.TurnEvent(error=error_to_wire(error)))

    def die(self, error: SegueError) -> None:
        """Breaks the stream to the worker."""
        if not self.num_stops and not self.has_ended:
            self.has_ended = self.call.is_over = True
            self.call.fail(error)


class FakeWorkers:
    """`WorkerCalls` without workers behind it."""

    def __init__(self) -> None:
        self.decodes: list[FakeDecodeCall] = []
        self.prefills: list[asyncio.Future[PromptLogprobs | None]] = []
        self.ending: list[asyncio.Task[object]] = []

    def start(
        self, decode: WorkerStatus, turn: NamedTurn, source: PromptSource, *, timeout_s: float
    ) -> TurnCall:
        started = FakeDecodeCall(decode, turn, source)
        self.decodes.append(started)
        return started.call

    async def prefill(
        self, prefill: WorkerStatus, turn: NamedTurn, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None:
        done: asyncio.Future[PromptLogprobs | None] = asyncio.get_running_loop().create_future()
        self.prefills.append(done)
        await done
        return LOGPROBS if turn.spec.scores_prompt else None

    def let_end(self, call: asyncio.Task[object]) -> None:
        self.ending.append(call)

    def finish_prefill(self, error: SegueError | None = None) -> None:
        """Ends the prefill of the last attempt, if one is waiting."""
        if self.prefills and not self.prefills[-1].done():
            if error is None:
                self.prefills[-1].set_result(None)
            else:
                self.prefills[-1].set_exception(error)
