"""One turn's call to a worker, on the stream that all turns share (`segue/wire/streams/client.py`).

Events are queued in the turn's `TurnCall` until they are read. Queued tokens are read as one piece,
so a slow reader gets fewer, larger pieces and does not delay other turns.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from segue.api.cluster.status import WorkerStatus
from segue.api.prompt import PrefixName
from segue.api.turn import (
    ComputedOnDecode,
    PrefillStarted,
    PrefixHolder,
    PromptLogprobs,
    TokenDelta,
    TurnResult,
    TurnSpec,
)
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.transfer_pb2 import Ticket
from segue.wire.convert.events import delta_from_wire, prompt_logprobs_from_wire
from segue.wire.convert.turns import result_from_wire
from segue.wire.error_details import error_from_wire
from segue.wire.status import foreseen
from segue.wire.streams.client import Call


@dataclass(frozen=True, slots=True)
class NamedTurn:
    """A turn as it is sent to a worker."""

    name: str
    """The name of this attempt at the turn."""
    spec: TurnSpec
    prefix: PrefixName | None
    """Names leading tokens that the worker probably has. They are not sent."""


PromptSource: TypeAlias = WorkerStatus | ComputedOnDecode
"""The prefill worker that computes the prompt and writes it to the decode worker; or the decode
worker computes it."""


@dataclass(frozen=True, slots=True)
class TurnReserved:
    """The decode worker has reserved memory: a prefill worker may write into the ticket."""

    ticket: Ticket
    checkpoint_tokens: int
    """The longest prefix of the prompt whose state is on the worker."""


@dataclass(frozen=True, slots=True)
class PromptPrefilled:
    """The decode worker has committed the prompt."""

    logprobs: PromptLogprobs | None = None
    """If requested."""


News = TurnReserved | PrefillStarted | TokenDelta | TurnResult | PromptPrefilled


class TurnCall(Call[pb.TurnEvent]):
    """One turn on a decode worker, or its prompt on a prefill worker."""

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__(stop)
        self._news: deque[News] = deque()
        self._is_paced = False
        """The reader waits until a point in time, not for more tokens."""
        self.has_result = False
        self._prompt_logprobs: PromptLogprobs | None = None

    def prefilled(self, prefill: asyncio.Future[PromptLogprobs | None]) -> None:
        """Takes the prefill's result. If the prefill failed, fails this call, whose prompt will not
        arrive."""
        if prefill.cancelled():
            return
        if (error := prefill.exception()) is not None:
            assert isinstance(error, Exception)
            self.fail(foreseen(error))
            return
        self._prompt_logprobs = prefill.result()
        self._wake()

    async def prompt_logprobs(self) -> PromptLogprobs:
        """Waits for the prefill. Raises what `read` would raise."""
        while self._prompt_logprobs is None:
            if self._error is not None:
                raise self._error
            await self._woken()
        return self._prompt_logprobs

    async def read(self, *, not_before: float = 0.0) -> News:
        """Returns the next event, or all queued tokens in one piece, at the event loop's time
        `not_before` or later. The end of an answer ignores `not_before`.

        An error that ended the turn, on the worker or here, is raised at once, ahead of the queue.
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
        """Waits up to `within_s`. Returns whether `read` would now return or raise at once."""
        until = asyncio.get_running_loop().time() + within_s
        while not self._news and self._error is None:
            await self._woken(until)
            if asyncio.get_running_loop().time() >= until:
                break
        return bool(self._news) or self._error is not None

    def push(self, event: pb.TurnEvent) -> bool:
        match event.WhichOneof("event"):
            case "delta":
                self.has_tokens = True
                self._news.append(delta_from_wire(event.delta))
                return not self._is_paced
            case "end":
                self.has_result = self.is_over = True
                self._news.append(result_from_wire(event.end))
            case "error":
                self.is_over = True
                self._error = self._error or error_from_wire(event.error)
            case "reserved":
                reserved = event.reserved
                self._news.append(TurnReserved(reserved.ticket, reserved.checkpoint_tokens))
            case "prefilled":
                self.is_over = True
                prefilled = event.prefilled
                has_logprobs = prefilled.HasField("logprobs")
                self._news.append(
                    PromptPrefilled(
                        prompt_logprobs_from_wire(prefilled.logprobs) if has_logprobs else None
                    )
                )
            case "prefill_started":
                self._news.append(PrefillStarted(event.prefill_started.computed_tokens))
        return True

    def _next(self) -> News:
        first = self._news.popleft()
        if not isinstance(first, TokenDelta):
            return first
        together = [first]
        while self._news and isinstance(self._news[0], TokenDelta):
            together.append(self._news.popleft())  # type: ignore[arg-type]
        return joined(together)


class WorkerCalls(Protocol):
    """How a turn reaches its workers."""

    def start(
        self, decode: WorkerStatus, turn: NamedTurn, source: PromptSource, *, timeout_s: float
    ) -> TurnCall:
        """Sends the turn. The worker frees it when the call ends or is closed."""

    async def prefill(
        self, prefill: WorkerStatus, turn: NamedTurn, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None:
        """Returns once the decode worker has the prompt, with log-probabilities if requested.
        Raises UnknownPrefix if the prefill worker lacks the named prefix."""

    def let_end(self, call: asyncio.Task[object]) -> None:
        """Lets a call finish in the background."""


def next_beat(now: float, beat_s: float) -> float:
    """The next tick of a clock that all turns share, so that their tokens share messages."""
    return (now // beat_s + 1) * beat_s


def joined(deltas: list[TokenDelta]) -> TokenDelta:
    """One piece of an answer, from consecutive ones."""
    if len(deltas) == 1:
        return deltas[0]
    return TokenDelta(
        token_ids=tuple(itertools.chain.from_iterable(delta.token_ids for delta in deltas)),
        text="".join(delta.text for delta in deltas),
        logprobs=tuple(itertools.chain.from_iterable(delta.logprobs for delta in deltas)),
    )
