"""The calls to one worker, over one stream: commands up, events down.

One message carries everything that waits, in both directions. What arrives for a turn waits in its
`TurnCall` until somebody reads it; tokens that wait together are read together, so a slow reader
gets fewer and larger pieces and holds nobody up.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from segue.errors import SegueError, Unavailable
from segue.turn import TokenDelta, TurnResult
from segue.wire import worker_pb2 as pb
from segue.wire.convert_events import delta_from_wire
from segue.wire.convert_turns import result_from_wire
from segue.wire.outbox import Outbox
from segue.wire.status import error_from_rpc, error_from_wire
from segue.wire.transfer_pb2 import Ticket

if TYPE_CHECKING:
    # A name of the stub's type only: the generated module does not have it at run time.
    from segue.wire.worker_pb2_grpc import DecodeWorkerAsyncStub, PrefillWorkerAsyncStub

    Stream = grpc.aio.StreamStreamCall[pb.TurnCommands, pb.TurnEvents]


# Between two messages to one worker: commands that come faster wait for each other.
_MIN_GAP_S = 0.002


@dataclass(frozen=True, slots=True)
class Reserved:
    """The worker has set memory aside: a prefill worker may write into the ticket."""

    ticket: Ticket
    checkpoint_tokens: int
    """The longest prefix of the prompt whose state is there."""


@dataclass(frozen=True, slots=True)
class PrefillStarted:
    """The worker computes what it lacks of the prompt."""

    computed_tokens: int


@dataclass(frozen=True, slots=True)
class PromptPrefilled:
    """Decode has committed the prompt."""


News = Reserved | PrefillStarted | TokenDelta | TurnResult | PromptPrefilled


class TurnCall:
    """One turn on a decode worker, or its prompt on a prefill worker. One task reads; anybody may
    `fail` it."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._news: deque[News] = deque()
        self._error: SegueError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._is_paced = False
        """Whoever reads waits for a time, and not for more tokens."""
        self.has_result = False
        self.is_over = False
        """The worker has said its last word of the turn, or was told to stop."""

    async def read(self, *, not_before: float = 0.0) -> News:
        """What comes next; all tokens that wait, in one piece, and not before that time of the
        event loop. An answer's end waits for no time.

        Raises the error that ended the turn, there or here, at once: before what still waits.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._error is not None:
                raise self._error
            self._is_paced = not self.is_over and loop.time() < not_before
            if self._news and not self._is_paced:
                return self._next()
            await self._woken(not_before if self._is_paced else None)

    async def has_news(self, *, within_s: float) -> bool:
        """Whether `read` returns or raises at once; waits so long for it."""
        until = asyncio.get_running_loop().time() + within_s
        while not self._news and self._error is None:
            await self._woken(until)
            if asyncio.get_running_loop().time() >= until:
                break
        return bool(self._news) or self._error is not None

    async def _woken(self, at: float | None) -> None:
        """Returns when something arrived, at the latest `at` that time of the event loop."""
        loop = asyncio.get_running_loop()
        self._arrived = loop.create_future()
        timer = loop.call_at(at, self._wake) if at is not None else None
        try:
            await self._arrived
        finally:
            if timer is not None:
                timer.cancel()

    def fail(self, error: SegueError) -> None:
        """Whoever reads gets `error`; the first one counts."""
        self._error = self._error or error
        self._wake()

    def close(self) -> None:
        """Stops the turn there, unless it has ended. A second time changes nothing."""
        if not self.is_over:
            self.is_over = True
            self._stop()

    def push(self, event: pb.TurnEvent) -> None:
        match event.WhichOneof("event"):
            case "delta":
                self._news.append(delta_from_wire(event.delta))
                if self._is_paced:
                    return
            case "end":
                self.has_result = self.is_over = True
                self._news.append(result_from_wire(event.end))
            case "error":
                self.is_over = True
                self._error = self._error or error_from_wire(event.error)
            case "reserved":
                reserved = event.reserved
                self._news.append(Reserved(reserved.ticket, reserved.checkpoint_tokens))
            case "prefilled":
                self.is_over = True
                self._news.append(PromptPrefilled())
            case "prefill_started":
                self._news.append(PrefillStarted(event.prefill_started.computed_tokens))
        self._wake()

    def _next(self) -> News:
        first = self._news.popleft()
        if not isinstance(first, TokenDelta):
            return first
        together = [first]
        while self._news and isinstance(self._news[0], TokenDelta):
            together.append(self._news.popleft())  # type: ignore[arg-type]
        return joined(together)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


def _outbox() -> Outbox[pb.TurnCommand]:
    return Outbox(min_gap_s=_MIN_GAP_S)


def joined(deltas: list[TokenDelta]) -> TokenDelta:
    """One piece of an answer, from consecutive ones."""
    if len(deltas) == 1:
        return deltas[0]
    return TokenDelta(
        token_ids=tuple(itertools.chain.from_iterable(delta.token_ids for delta in deltas)),
        text="".join(delta.text for delta in deltas),
        logprobs=tuple(itertools.chain.from_iterable(delta.logprobs for delta in deltas)),
    )


class TurnCalls:
    """The stream is opened when the first call needs it, and again after it broke."""

    def __init__(self, stub: DecodeWorkerAsyncStub | PrefillWorkerAsyncStub, peer: str) -> None:
        self._stub = stub
        self._peer = peer
        self._numbers = itertools.count(1)
        self._calls: dict[int, TurnCall] = {}
        self._commands = _outbox()
        self._running: asyncio.Task[None] | None = None

    def start(self, command: pb.TurnCommand) -> TurnCall:
        """Numbers the command and sends it."""
        number = command.call = next(self._numbers)

        def stop() -> None:
            # Of a stream that broke meanwhile nothing is left there to stop.
            if self._calls.pop(number, None) is not None:
                self._commands.put(pb.TurnCommand(call=number, stop=pb.StopTurn()))

        call = self._calls[number] = TurnCall(stop)
        if self._running is None:
            self._commands = _outbox()
            self._running = asyncio.ensure_future(self._run(self._commands))
        self._commands.put(command)
        return call

    def fail(self, error: SegueError) -> None:
        """All calls end with `error`, and so does the stream."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.is_over = True
            call.fail(error)

    async def close(self) -> None:
        running = self._running
        self.fail(Unavailable(f"{self._peer}: the connection was closed"))
        if running is not None:
            await asyncio.wait({running})

    async def _run(self, commands: Outbox[pb.TurnCommand]) -> None:
        """Reads until the stream breaks, and fails what ran on it."""

        async def messages() -> AsyncIterator[pb.TurnCommands]:
            async for batch in commands.batches():
                yield pb.TurnCommands(commands=batch)

        stream: Stream = self._stub.Turns(messages())
        try:
            while isinstance(message := await stream.read(), pb.TurnEvents):
                for event in message.events:
                    self._hear(event)
            error: SegueError = Unavailable(f"{self._peer} ended its stream of turns")
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error, self._peer)
        finally:
            commands.close()
            stream.cancel()
        # Whatever broke it, a turn that had no token yet may be tried elsewhere.
        self._running = None
        self.fail(error if error.retry_is_safe else Unavailable(str(error)))

    def _hear(self, event: pb.TurnEvent) -> None:
        call = self._calls.get(event.call)
        if call is None:
            # It was stopped while this was on its way.
            return
        call.push(event)
        if call.is_over:
            del self._calls[event.call]
