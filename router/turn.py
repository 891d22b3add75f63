"""One turn, from its tokens to its end: place, reserve, dispatch, relay, and clean up.

The state machine is `lifecycle.py`; this is what acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from router.lifecycle import (
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
from router.links import Links, TokenStream
from router.placement.decision import Decision, Placement
from router.placement.estimate import Mode
from router.placing import TurnPlacing
from segue.cluster_status import WorkerStatus
from segue.errors import Cancelled, DeadlineExceeded, NotResident, SegueError
from segue.telemetry import Clock
from segue.turn import (
    FinishReason,
    Timings,
    TurnEnd,
    TurnEvent,
    TurnResult,
    TurnSpec,
    TurnStarted,
    Usage,
)
from segue.types import TurnId, WorkerId
from segue.wire import worker_pb2 as pb
from segue.wire.convert_worker import turn_to_wire

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Dispatch = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    """What a turn needs of the router."""

    placing: TurnPlacing
    links: Links
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    """Runs clean-up that outlives the turn."""
    clock: Clock
    max_attempts: int


class Turn:
    """Runs once: iterate over `events`. Whatever happens, nothing stays held on the workers."""

    def __init__(
        self, spec: TurnSpec, context: TurnContext, *, received_at: float, deadline_at: float
    ) -> None:
        self.spec = spec
        self.state: TurnState = Received(received_at)
        self.num_relayed = 0
        self._context = context
        self._deadline_at = deadline_at
        self._received_at = received_at
        self._router_s = 0.0
        self._avoid: set[WorkerId] = set()
        self._name = spec.turn_id
        self._interruption: SegueError | None = None
        self._interrupt_wait: Callable[[], object] = lambda: None

    def interrupt(self, error: SegueError) -> None:
        """Ends the turn from outside: whatever it waits for raises `error`."""
        self._interruption = self._interruption or error
        self._interrupt_wait()

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """The turn's events; the last is a TurnEnd. Raises SegueErrors."""
        outcome = "disconnected"
        try:
            for attempt in range(1, self._context.max_attempts + 1):
                try:
                    async with contextlib.aclosing(self._attempt()) as events:
                        async for event in events:
                            yield event
                            if isinstance(event, TurnEnd):
                                outcome = event.finish_reason.value
                    return
                except SegueError as error:
                    if error is self._interruption and isinstance(error, Cancelled):
                        outcome = FinishReason.CANCELLED.value
                        yield self._cancelled()
                        return
                    if attempt == self._context.max_attempts or not self._may_retry(error):
                        outcome = outcome_of(error)
                        raise
                    self._start_again(error)
        finally:
            self._context.placing.leave()
            if outcome == "disconnected" and self._context.clock() >= self._deadline_at:
                outcome = "deadline"
            # A turn that decode ended holds nothing any more; every other end leaves something.
            held = () if outcome in ("stop", "length") else holders(self.state)
            self.state = advance(self.state, Ended(outcome))
            for worker in held:
                self._context.spawn(self._release(worker, self._name))

    async def _attempt(self) -> AsyncGenerator[TurnEvent, None]:
        context = self._context
        # Workers know the turn by a name of this attempt: a late release of an earlier attempt, or
        # of an earlier turn that the client named alike, must not hit it.
        self._name = TurnId(f"{self.spec.turn_id}/{uuid.uuid4().hex[:8]}")
        wire = turn_to_wire(replace(self.spec, turn_id=self._name))
        placement, prefill = await self._hold(wire)
        self.state = advance(self.state, TicketTaken(context.clock()))
        yield self._started(placement)

        decode = context.links.decode(placement.decode)
        stream = decode.decode(self._name, timeout_s=self._time_left())
        self._interrupt_wait = lambda: stream.interrupt(self._interruption or Cancelled(""))
        if self._interruption:
            self._interrupt_wait()
        with contextlib.ExitStack() as ending:
            ending.callback(stream.close)
            if prefill is not None:
                dispatched = asyncio.ensure_future(prefill())
                ending.callback(dispatched.cancel)
                dispatched.add_done_callback(lambda done: _interrupt_on_failure(done, stream))
            async for event in self._relay(stream, placement):
                yield event

    async def _hold(self, wire: pb.TurnSpec) -> tuple[Placement, Dispatch | None]:
        """Places the turn and has decode set memory aside. Returns how to tell prefill; None where
        decode computes the prompt's end itself.
        """
        context = self._context
        decision = self._place()
        if decision.chosen.mode is Mode.LOCAL:
            decode = context.links.decode(decision.placement.decode)
            limit = context.placing.max_local_tokens
            try:
                await self._interruptible(
                    decode.prefill_here(wire, limit, timeout_s=self._time_left())
                )
                return decision.placement, None
            except NotResident:
                context.placing.local_refused()
                self.state = advance(self.state, Retried())
                decision = self._place()
        placement = decision.placement
        decode = context.links.decode(placement.decode)
        reserve = decode.reserve(wire, placement.prefill, timeout_s=self._time_left())
        ticket, checkpoint_tokens = await self._interruptible(reserve)
        holder = context.placing.reserved(ticket.resident_tokens, checkpoint_tokens)

        def dispatch() -> Coroutine[Any, Any, None]:
            prefill = context.links.prefill(placement.prefill)
            return prefill.prefill(wire, ticket, holder, timeout_s=self._time_left())

        return placement, dispatch

    def _place(self) -> Decision:
        decision = self._context.placing.place(self._avoid)
        self.state = advance(self.state, PlacedOn(decision.placement))
        self._router_s = self._context.clock() - self._received_at
        return decision

    async def _relay(
        self, stream: TokenStream, placement: Placement
    ) -> AsyncGenerator[TurnEvent, None]:
        while True:
            event = await stream.read()
            if isinstance(event, TurnResult):
                self._context.placing.ended(event)
                yield self._end(event, placement)
                return
            if isinstance(self.state, Dispatched):
                self.state = advance(self.state, FirstToken(self._context.clock()))
                self._context.placing.first_token()
            self.num_relayed += len(event.token_ids)
            yield event

    async def _interruptible(self, wait: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.ensure_future(wait)
        self._interrupt_wait = task.cancel
        if self._interruption:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._interruption and not (current and current.cancelling()):
                raise self._interruption from None
            raise

    def _may_retry(self, error: SegueError) -> bool:
        return (
            error.retry_is_safe
            # Somebody wants it to end, here and everywhere.
            and error is not self._interruption
            and isinstance(self.state, Placed | Dispatched)
            and self._time_left() > 0
        )

    def _start_again(self, error: SegueError) -> None:
        logger.warning("trying the turn elsewhere", extra={"error": str(error)})
        for worker in holders(self.state):
            self._context.spawn(self._release(worker, self._name))
            self._avoid.add(worker.worker_id)
        self.state = advance(self.state, Retried())

    async def _release(self, worker: WorkerStatus, name: TurnId) -> None:
        try:
            await self._context.links.to(worker).release(name)
        except SegueError as error:
            # The worker is gone, or frees the turn itself when its ticket expires.
            logger.info("could not release a turn", extra={"error": str(error)})

    def _time_left(self) -> float:
        left = self._deadline_at - self._context.clock()
        if left <= 0:
            raise DeadlineExceeded(f"turn {self.spec.turn_id} ran out of its time")
        return left

    def _started(self, placement: Placement) -> TurnStarted:
        return TurnStarted(
            session_id=self.spec.session_id,
            turn_id=self.spec.turn_id,
            prompt_tokens=len(self.spec.prompt),
            prefill_worker=placement.prefill.worker_id,
            decode_worker=placement.decode.worker_id,
        )

    def _end(self, result: TurnResult, placement: Placement) -> TurnEnd:
        report = result.report
        dispatched_s = first_token_s = 0.0
        if isinstance(self.state, Streaming):
            dispatched_s = self.state.dispatched_at - self._received_at
            first_token_s = self.state.first_token_at - self._received_at
        return TurnEnd(
            finish_reason=result.finish_reason,
            usage=result.usage,
            timings=Timings(
                queue_s=dispatched_s + report.queue_s,
                prefill_s=report.prefill_s,
                transfer_s=report.transfer_s,
                exposed_transfer_s=report.exposed_transfer_s,
                first_token_s=first_token_s,
                decode_s=result.decode_s,
                router_s=self._router_s,
            ),
            prefill_worker=placement.prefill.worker_id,
            decode_worker=placement.decode.worker_id,
            stop_match=result.stop_match,
        )

    def _cancelled(self) -> TurnEnd:
        usage = Usage(
            prompt_tokens=len(self.spec.prompt),
            completion_tokens=self.num_relayed,
        )
        return TurnEnd(finish_reason=FinishReason.CANCELLED, usage=usage)

    @property
    def outcome(self) -> str:
        """How the turn ended, as metrics name it."""
        return self.state.outcome if isinstance(self.state, Over) else "running"


def _interrupt_on_failure(dispatched: asyncio.Future[None], stream: TokenStream) -> None:
    if dispatched.cancelled():
        return
    error = dispatched.exception()
    if isinstance(error, SegueError):
        stream.interrupt(error)
    elif error is not None:
        stream.interrupt(SegueError(f"{type(error).__name__}: {error}"))
