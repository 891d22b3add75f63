"""Runs a client's turns, each to its end, on whichever router answers."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace

from segue.api.errors import (
    DeadlineExceeded,
    Overloaded,
    SegueError,
    Unavailable,
    UnknownHistory,
)
from segue.api.turn import TurnEvent
from segue.api.types import SamplingParams, TurnId, TurnInput, TurnRequest
from segue.sdk.resuming import FollowedTurn, is_patient, router_key
from segue.sdk.targets import RouterLink, Targets
from segue.wire.channel import require_sendable
from segue.wire.convert.events import events_from_wire
from segue.wire.convert.request import request_to_wire


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
        """Yields the turn's events, those that wait together. Leaving the iteration cancels it.
        Raises SegueErrors. `whole` replaces the input if the router lacks the history that it
        continues.
        """
        turn_id = request.turn_id or TurnId(uuid.uuid4().hex)
        request = replace(request, turn_id=turn_id, sampling=_seeded(request.sampling))
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
                    async with contextlib.aclosing(self._attempt(link, turn)) as arriving:
                        async for events in arriving:
                            yield events
                except SegueError as error:
                    await self._may_go_on(error, link, turn, was_broken=was_broken)
                    if turn.cancelled.is_set():
                        yield [turn.cancelled_end()]
                        return
        finally:
            if self._running.get(turn_id) is turn:
                del self._running[turn_id]

    def knows(self, turn_id: str) -> bool:
        """Whether it is a running turn of this client."""
        return turn_id in self._running

    def cancel(self, turn_id: str) -> bool:
        """Ends a turn of this client at the latest when its stream breaks. Returns whether it waits
        for a router: no router has it then.
        """
        turn = self._running.get(turn_id)
        if turn is None:
            return False
        turn.cancelled.set()
        return turn.is_waiting

    async def _attempt(
        self, link: RouterLink, turn: FollowedTurn
    ) -> AsyncGenerator[list[TurnEvent], None]:
        """Yields the events of one stream. Raises SegueErrors."""
        if self._targets.is_closed:
            raise Unavailable(f"{link.peer}: the connection was closed")
        with link.errors(turn.timeout_s):
            left_s = turn.left_s(time.monotonic())
            if left_s is not None and left_s <= 0:
                raise DeadlineExceeded("the turn ran out of its time")
            wire = request_to_wire(turn.to_send())
            require_sendable("the turn", wire.ByteSize())
            answering = link.turns.answer(wire, left_s, turn.api_key)
            async with contextlib.aclosing(answering) as messages:
                async for some in messages:
                    link.answered()
                    events = [event for one in some for event in events_from_wire(one)]
                    if shown := list(filter(turn.take, events)):
                        yield shown
        if not turn.has_ended:
            raise Unavailable.unreachable(f"{link.peer} ended the stream before the turn's end")

    async def _may_go_on(
        self, error: SegueError, link: RouterLink, turn: FollowedTurn, *, was_broken: bool
    ) -> None:
        """Returns when the turn may be sent again. Raises `error` if that would not help."""
        if isinstance(error, UnknownHistory) and turn.send_whole():
            return
        waits = self._reconnect_s > 0 and is_patient(
            error,
            is_begun=turn.is_begun,
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
            turn.broke(now)
        if goes_elsewhere:
            return
        if turn.lost_at is not None and now - turn.lost_at >= self._reconnect_s:
            raise Unavailable(
                f"{error}; the turn was sent again for {self._reconnect_s:g} s"
            ) from error
        # Clients that lost one router do not come back all at once.
        wait_s = turn.next_wait_s() * random.uniform(0.5, 1.0)
        if isinstance(error, Overloaded):
            wait_s = max(wait_s, error.retry_after_s)
        await turn.wait(wait_s, now)


def _seeded(sampling: SamplingParams) -> SamplingParams:
    """A seed of the client's own: with it, any router continues the same answer."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(63))
