"""Runs a client's turns, each to its end, over as many streams and routers as it takes.

If a stream breaks, the turn is sent again with the tokens received so far, to the same router once
it is back or to another one. Tokens depend only on context, seed and position, so the answer
continues unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
import uuid
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from segue.api.errors import (
    DeadlineExceeded,
    Draining,
    Overloaded,
    SegueError,
    Unavailable,
    UnknownHistory,
)
from segue.api.history import digests
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, TurnStarted, Usage
from segue.api.types import ChatInput, Resume, TurnId, TurnInput, TurnRequest
from segue.sdk.targets import RouterLink, Targets
from segue.v1 import session_pb2 as pb
from segue.wire.channel import require_sendable
from segue.wire.convert.events import events_from_wire
from segue.wire.convert.request import request_to_wire
from segue.wire.streams.generate import TurnStream

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0


class TurnRunner:
    """One event loop owns it."""

    def __init__(self, targets: Targets, *, reconnect_s: float) -> None:
        """`reconnect_s`: how long a turn whose stream broke waits for a router."""
        self._targets = targets
        self._reconnect_s = reconnect_s
        self._running: dict[str, FollowedTurn] = {}

    async def events(
        self,
        request: TurnRequest,
        *,
        whole: TurnInput | None = None,
        timeout_s: float | None = None,
        api_key: str = "",
    ) -> AsyncGenerator[list[TurnEvent], None]:
        """Yields lists of the turn's events. Leaving the iteration cancels the turn. Raises
        SegueErrors. `whole` replaces the input if the router lacks the history that it continues.
        """
        turn_id = request.turn_id or TurnId(uuid.uuid4().hex)
        # With a seed, any router continues the same answer.
        seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
        sampling = replace(request.sampling, seed=seed)
        request = replace(request, turn_id=turn_id, sampling=sampling)
        turn = FollowedTurn(
            request=request,
            key=router_key(request) if len(self._targets.links) > 1 else "",
            whole=whole,
            timeout_s=timeout_s,
            api_key=api_key,
            started_at=time.monotonic(),
        )
        self._running[turn_id] = turn
        try:
            while not turn.has_ended:
                link = self._targets.choose(turn.key, turn.tried)
                was_broken = link.turns.is_broken
                try:
                    with link.errors(timeout_s):
                        answering = self._start(link, turn)
                        try:
                            while some := await answering.read():
                                link.answered()
                                if shown := turn.take(some):
                                    yield shown
                        finally:
                            answering.close()
                    if not turn.has_ended:
                        raise Unavailable.unreachable(
                            f"{link.peer} ended the stream before the turn's end"
                        )
                except SegueError as error:
                    await self._may_go_on(error, link, turn, was_broken=was_broken)
                    if turn.cancelled.is_set():
                        yield [turn.cancelled_end()]
                        return
        finally:
            if self._running.get(turn_id) is turn:
                del self._running[turn_id]

    def knows(self, turn_id: str) -> bool:
        """Whether this client runs the turn."""
        return turn_id in self._running

    def cancel(self, turn_id: str) -> bool:
        """Ends a turn of this client at the latest when its stream breaks. Returns whether the turn
        is waiting for a router, so that no router runs it.
        """
        turn = self._running.get(turn_id)
        if turn is None:
            return False
        turn.cancelled.set()
        return turn.is_waiting

    def _start(self, link: RouterLink, turn: FollowedTurn) -> TurnStream:
        """Sends the turn. Raises SegueErrors."""
        if self._targets.is_closed:
            raise Unavailable(f"{link.peer}: the connection was closed")
        left_s = turn.left_s(time.monotonic())
        if left_s is not None and left_s <= 0:
            raise DeadlineExceeded("the turn ran out of its time")
        wire = request_to_wire(turn.to_send())
        require_sendable("the turn", wire.ByteSize())
        return link.turns.start(wire, left_s, turn.api_key)

    async def _may_go_on(
        self, error: SegueError, link: RouterLink, turn: FollowedTurn, *, was_broken: bool
    ) -> None:
        """Returns when the turn may be sent again. Raises `error` if that would not help."""
        if isinstance(error, UnknownHistory) and turn.send_whole():
            return
        waits = self._reconnect_s > 0 and is_patient(
            error,
            has_started=turn.has_started,
            was_reached=link.was_reached,
            was_broken=was_broken,
        )
        turn.tried.add(link)
        has_others = len(turn.tried) < len(self._targets.links)
        goes_elsewhere = has_others and isinstance(error, Unavailable)
        if self._targets.is_closed or not (waits or goes_elsewhere):
            raise error
        now = time.monotonic()
        if waits:
            turn.broke(now, is_there=isinstance(error, Draining))
        if goes_elsewhere:
            return
        if turn.lost_at is not None and now - turn.lost_at >= self._reconnect_s:
            raise Unavailable(
                f"{error}; gave up after retrying the turn for {self._reconnect_s:g} s"
            ) from error
        # The clients of a lost router must not all return at once.
        wait_s = turn.next_wait_s() * random.uniform(0.5, 1.0)
        if isinstance(error, Overloaded):
            wait_s = max(wait_s, error.retry_after_s)
        await turn.wait(wait_s, now)


@dataclass(slots=True, kw_only=True)
class FollowedTurn:
    request: TurnRequest
    """With a turn id and a seed."""
    key: str = ""
    """Selects its router."""
    whole: TurnInput | None = None
    """Replaces the input if the router lacks the history that it continues."""
    timeout_s: float | None = None
    """For the whole turn."""
    api_key: str = ""
    started_at: float
    has_started: bool = False
    """It has tokens, or a stream of it broke: it is resumed if it is sent again."""
    started: TurnStarted | None = None
    token_ids: array[int] = field(default_factory=lambda: array("I"))
    has_ended: bool = False
    lost_at: float | None = None
    """When the first stream since the last event broke, or a router last reported its drain."""
    tried: set[RouterLink] = field(default_factory=set)
    """The routers on which it has failed since the last event."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its client cancels it."""
    is_waiting: bool = False
    """It waits for a router; none runs it."""
    _num_rounds: int = 0
    _has_moved: bool = False
    """In this attempt."""
    _num_resumed: int = 0

    def to_send(self) -> TurnRequest:
        if not self.has_started:
            return self.request
        request, started = self.request, self.started
        resume = Resume(
            token_ids=tuple(self.token_ids),
            resumed=self._num_resumed,
            prefill_worker=started.prefill_worker if started else "",
            decode_worker=started.decode_worker if started else "",
        )
        if started is None:
            return replace(request, resume=resume)
        stop = replace(request.stop, max_tokens=started.max_tokens or request.stop.max_tokens)
        session_id = started.session_id or request.session_id
        return replace(request, session_id=session_id, stop=stop, resume=resume)

    def left_s(self, now: float) -> float | None:
        return None if self.timeout_s is None else self.started_at + self.timeout_s - now

    def send_whole(self) -> bool:
        """Replaces a continued history by the whole one. Returns whether there is one."""
        if self.whole is None:
            return False
        self.request, self.whole = replace(self.request, input=self.whole), None
        return True

    def take(self, some: Sequence[pb.GenerateEvent]) -> list[TurnEvent]:
        """The events for the caller."""
        self.lost_at, self._has_moved = None, True
        self._num_rounds = 0
        self.tried.clear()
        return [event for one in some for event in events_from_wire(one) if self._shows(event)]

    def _shows(self, event: TurnEvent) -> bool:
        match event:
            case TokenDelta():
                self.token_ids.extend(event.token_ids)
                # From here on, the router's own refusals end the turn only if they last.
                self.has_started = True
            case TurnStarted():
                self.started = event
                # An answer starts once.
                return not self.token_ids
            case TurnEnd():
                self.has_ended = True
        return True

    def broke(self, now: float, *, is_there: bool = False) -> None:
        """Its stream broke, so it has to be resumed. `is_there`: the router answers that it drains,
        which may take long."""
        self.has_started = True
        self.lost_at = now if self.lost_at is None or is_there else self.lost_at
        self._num_resumed += self._has_moved and len(self.token_ids) > 0
        self._has_moved = False

    def next_wait_s(self) -> float:
        """The wait after all routers have failed: longer each time."""
        self.tried.clear()
        self._num_rounds += 1
        longer: float = _FIRST_WAIT_S * 2.0 ** (self._num_rounds - 1)
        return min(longer, _LONGEST_WAIT_S)

    async def wait(self, seconds: float, now: float) -> None:
        """Waits; returns early if its client cancels it or its time is over."""
        left_s = self.left_s(now)
        self.is_waiting = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds if left_s is None else min(seconds, left_s)):
                    await self.cancelled.wait()
        finally:
            self.is_waiting = False

    def cancelled_end(self) -> TurnEnd:
        started = self.started
        usage = Usage(
            prompt_tokens=started.prompt_tokens if started else 0,
            completion_tokens=len(self.token_ids),
            resumed=self._num_resumed,
        )
        return TurnEnd(finish_reason=FinishReason.CANCELLED, usage=usage)


def router_key(request: TurnRequest) -> str:
    """Selects a turn's router: the same for all turns of a session, or of a conversation if the
    router finds the session."""
    chat = request.input
    if request.session_hint is None or not isinstance(chat, ChatInput):
        return request.session_id or request.turn_id
    is_question = (message.role == "user" for message in chat.messages)
    num_first = next((num for num, asks in enumerate(is_question, 1) if asks), len(chat.messages))
    start = digests(ChatInput(messages=chat.messages[:num_first]))
    return f"{request.session_hint} {start[-1].hex() if start else ''}"


def is_patient(
    error: SegueError, *, has_started: bool, was_reached: bool, was_broken: bool
) -> bool:
    """Whether to wait for a router that will continue a turn that ended with the error.

    `has_started`: the turn has tokens, or a stream of it broke before. `was_reached`: the router
    has answered before. `was_broken`: the connection had broken before the turn was sent. So a
    wrong address and a cluster without workers are reported at once. A draining router will have a
    successor.
    """
    if isinstance(error, Unavailable) and error.is_unreachable:
        return has_started or was_reached or error.was_sent
    if isinstance(error, Draining):
        return True
    if isinstance(error, Unavailable):
        return has_started or was_broken
    # After a restart, all clients of a router return at once.
    return has_started and isinstance(error, Overloaded)
