"""Runs one turn from its tokens to its end: place, reserve, dispatch, relay, clean up.

`lifecycle.py` is the state machine; this module performs the actions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from array import array
from collections.abc import AsyncGenerator

from router.placement.estimate import Decision, Mode, Placement
from router.turn import reported
from router.turn.answered import AnsweredTokens
from router.turn.calls import TurnCall, next_beat
from router.turn.dispatch import Dispatch, Started, TurnContext
from router.turn.lifecycle import (
    Dispatched,
    Ended,
    FirstToken,
    Over,
    Placed,
    PlacedOn,
    Received,
    Retried,
    Streaming,
    TicketTaken,
    TurnState,
    advance,
    holders,
    outcome_of,
)
from router.turn.reported import TurnEvents
from segue.api.errors import Cancelled, DeadlineExceeded, NotResident, SegueError, Unavailable
from segue.api.turn import ComputedOnDecode, FinishReason, TokenDelta, TurnEnd, TurnResult, TurnSpec
from segue.api.types import WorkerId

logger = logging.getLogger(__name__)

# How long TurnStarted waits for the first tokens: a separate message to the client would cost the
# router as much as everything else it does for a token.
_STARTED_WAITS_S = 0.02
# A client may end its call at the deadline a moment before the router's clock reaches it.
_CLIENT_IS_EARLY_S = 0.1
# Seconds between two attempts to place a turn for which no worker is ready.
_LOOK_AGAIN_S = 0.1


class Turn:
    """Runs once: iterate over `events`. However it ends, no worker holds anything for it."""

    def __init__(
        self,
        spec: TurnSpec,
        context: TurnContext,
        *,
        received_at: float,
        deadline_at: float,
        answered: AnsweredTokens,
    ) -> None:
        """`answered`: the part of the answer that the client already has."""
        self.spec = spec
        self.state: TurnState = Received()
        self._answered = answered
        self.failure: SegueError | None = None
        """The error that ended the turn, if it failed."""
        self._context = context
        self._first_streaming: Streaming | None = None
        self._num_failures = 0
        """Since the answer's last token."""
        self._deadline_at = deadline_at
        self._received_at = received_at
        self.computed_tokens = 0
        """Prompt tokens that the last placement expected to be computed."""
        self._router_s: float | None = None
        """The router's own time; None before the first placement."""
        self._avoid: set[WorkerId] = set()
        self._interruption: SegueError | None = None
        self._too_late = DeadlineExceeded(f"turn {spec.turn_id} ran out of its time")
        self._dispatch: Dispatch | None = None

    @property
    def answer(self) -> array[int]:
        """The tokens that the client has."""
        return self._answered.token_ids

    @property
    def num_generated(self) -> int:
        """The number of tokens that this run of the turn generated."""
        return len(self.answer) - self._answered.num_brought

    def interrupt(self, error: SegueError) -> None:
        """Ends the turn from outside: the call that it waits for raises `error`."""
        self._interruption = self._interruption or error
        if self._dispatch is not None:
            self._dispatch.fail(self._interruption)

    async def events(self) -> AsyncGenerator[TurnEvents, None]:
        """Yields the turn's events, batched if several are queued. The last is a TurnEnd. Raises
        SegueErrors."""
        outcome = "disconnected"
        deadline = asyncio.get_running_loop().call_later(
            max(self._deadline_at - self._context.clock(), 0.0), self.interrupt, self._too_late
        )
        try:
            if (end := self._take_up()) is None:
                await self._context.placing.look_up()
            while end is None:
                try:
                    async with contextlib.aclosing(self._attempt()) as arriving:
                        async for events in arriving:
                            if isinstance(events[-1], TurnEnd):
                                # The client may leave as soon as it has this event.
                                outcome = events[-1].finish_reason.value
                            yield events
                    return
                except SegueError as error:
                    end = self._after(error)
            outcome = end.finish_reason.value
            yield (end,)
        except SegueError as error:
            outcome, self.failure = outcome_of(error), error
            raise
        finally:
            deadline.cancel()
            self._context.placing.leave()
            early_at = self._deadline_at - _CLIENT_IS_EARLY_S
            if outcome == "disconnected" and self._context.clock() >= early_at:
                outcome = "deadline"
            self.state = advance(self.state, Ended(outcome))

    def _take_up(self) -> TurnEnd | None:
        """Continues a resumed turn after its client's last token. Returns the end if the client has
        the whole answer."""
        answered = self._answered
        if not answered.is_resumed:
            return None
        if (end := answered.end_of(self.spec, self._context.tokenizer)) is None:
            self._context.placing.resume(answered.rest_of(self.spec), ran_on=answered.workers)
        return end

    def _after(self, error: SegueError) -> TurnEnd | None:
        """The end, if the turn was cancelled or its client has the whole answer; None to try again.
        Raises `error` otherwise."""
        if error is self._interruption and isinstance(error, Cancelled):
            return self._answered.end(self.spec, FinishReason.CANCELLED)
        if not self._may_retry(error):
            raise error
        if (end := self._answered.end_of(self.spec, self._context.tokenizer)) is None:
            self._start_again(error)
        return end

    async def _attempt(self) -> AsyncGenerator[TurnEvents, None]:
        context, spec = self._context, self._answered.rest_of(self.spec)
        self._dispatch = dispatch = Dispatch(spec, context, error=self._interruption)
        try:
            placement, call, started = await self._start(dispatch)
            self.state = advance(self.state, TicketTaken(context.clock()))
            with dispatch.prefilling(call, placement, started):
                async for events in self._relay(call, placement):
                    yield events
        finally:
            dispatch.close()

    async def _start(self, dispatch: Dispatch) -> Started:
        """Places the turn, and makes the decode worker reserve memory for it."""
        decision, placing = await self._place_when_ready(), self._context.placing
        if decision.chosen.mode is Mode.LOCAL:
            local = ComputedOnDecode(placing.max_local_tokens)
            try:
                return await dispatch.start(decision.placement, local, self._time_left())
            except NotResident:
                placing.local_refused()
                self.state = advance(self.state, Retried())
                decision = self._place()
        placement = decision.placement
        return await dispatch.start(placement, placement.prefill, self._time_left())

    async def _place_when_ready(self) -> Decision:
        """A turn that has lost its worker waits for one that starts. Raises Unavailable."""
        clock = self._context.clock
        has_run = self._avoid or self._answered.is_resumed
        wait_until = clock() + (self._context.config.lost_worker_wait_s if has_run else 0.0)
        while True:
            try:
                return self._place()
            except Unavailable:
                if clock() >= wait_until:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_S)
            if self._interruption is not None:
                raise self._interruption

    def _place(self) -> Decision:
        started_at = self._context.clock()
        decision = self._context.placing.place(self._avoid)
        self._context.placed(started_at, decision)
        self.state = advance(self.state, PlacedOn(decision.placement))
        ended_at = self._context.clock()
        if self._router_s is None:
            self._router_s = ended_at - self._received_at
        else:
            # The time between two attempts was a wait.
            self._router_s += ended_at - started_at
        self.computed_tokens = decision.chosen.plan.computed_tokens
        return decision

    async def _relay(
        self, call: TurnCall, placement: Placement
    ) -> AsyncGenerator[TurnEvents, None]:
        """Yields queued events. TurnStarted shares a message with the first tokens if they arrive
        soon, and the end shares one with the last tokens."""
        loop = asyncio.get_running_loop()
        not_before = 0.0
        started = reported.started(self.spec, placement, self._context)
        # An answer starts once. After a retry, its client reads on.
        events: TurnEvents = () if self._answered.has_new else (started,)
        if events and not await call.has_news(within_s=_STARTED_WAITS_S):
            yield events
            events = ()
        if self.spec.scores_prompt and not self.answer:
            # Sent with the first tokens: until then the turn may be retried from its start.
            events = (*events, await call.prompt_logprobs())
        while True:
            news = await call.read(not_before=not_before)
            if isinstance(news, TokenDelta):
                self._on_tokens(news)
                events = (*events, news)
                if call.has_result:
                    news = await call.read()
            if isinstance(news, TurnResult):
                self._context.placing.ended(news)
                yield (*events, self._end(news, placement))
                return
            assert isinstance(news, TokenDelta), "after its first event a call has tokens"
            yield events
            events = ()
            not_before = next_beat(loop.time(), self._context.pause_s())

    def _end(self, result: TurnResult, placement: Placement) -> TurnEnd:
        return reported.ended(
            result,
            placement,
            self._first_streaming,
            received_at=self._received_at,
            router_s=self._router_s or 0.0,
            resumed=self._answered.resumed,
        )

    def _on_tokens(self, delta: TokenDelta) -> None:
        if isinstance(self.state, Dispatched):
            self.state = advance(self.state, FirstToken(self._context.clock()))
            if self._first_streaming is None and isinstance(self.state, Streaming):
                self._first_streaming = self.state
            self._context.placing.first_token()
        self._num_failures = 0
        self._answered.add(delta.token_ids)

    def _may_retry(self, error: SegueError) -> bool:
        self._num_failures += 1
        return (
            error.retry_is_safe
            # An interruption ends the turn for good.
            and error is not self._interruption
            and self._num_failures < self._context.config.max_attempts
            and isinstance(self.state, Placed | Dispatched | Streaming)
            and self._time_left() > 0
        )

    def _start_again(self, error: SegueError) -> None:
        logger.warning(
            "retrying the turn elsewhere",
            extra={"error": str(error), "answered_tokens": len(self.answer)},
        )
        self._context.tried_again(error, len(self.answer))
        if isinstance(self.state, Streaming):
            # The worker that computed the prompt has done its part.
            self._avoid = {self.state.placement.decode.worker_id}
            self._answered.resumed += 1
            self._context.placing.resume(self._answered.rest_of(self.spec))
        elif isinstance(error, Unavailable) and error.lost_worker:
            # Not the other worker, without which too few may be left for another attempt.
            self._avoid.add(WorkerId(error.lost_worker))
        else:
            self._avoid.update(worker.worker_id for worker in holders(self.state))
        self.state = advance(self.state, Retried())

    def _time_left(self) -> float:
        left = self._deadline_at - self._context.clock()
        if left <= 0:
            raise self._too_late
        return left

    @property
    def outcome(self) -> str:
        """The metrics' outcome label."""
        return self.state.outcome if isinstance(self.state, Over) else "running"
