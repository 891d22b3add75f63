"""The router: owns the table of workers, the sessions and the running turns. One event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from router.admission import Admission
from router.config import RouterConfig
from router.history import Histories, Transcript
from router.lifecycle import outcome_of
from router.links import Links
from router.membership import Membership
from router.metrics import RouterMetrics
from router.placing import Placing
from router.prompt import PromptBuilder
from router.sessions import SessionDesk
from router.turn import Turn, TurnContext
from segue.cluster_status import ClusterStatus, RouterStatus, WorkerHealth, WorkerStatus
from segue.errors import Cancelled, InvalidRequest, SegueError, Unavailable
from segue.telemetry import Clock, RateMeter, about_turn
from segue.turn import TokenDelta, TurnEnd, TurnEvent, TurnSpec
from segue.types import ChatInput, Role, TextInput, TokenInput, TurnId, TurnInput, TurnRequest

logger = logging.getLogger(__name__)

# Longer inputs are rendered and tokenised beside the event loop, which must not stall.
_INLINE_PROMPT_SIZE = 16_384


class Router:
    def __init__(
        self,
        config: RouterConfig,
        prompts: PromptBuilder,
        metrics: RouterMetrics,
        *,
        model_name: str,
        clock: Clock = time.monotonic,
    ) -> None:
        self.placing = Placing(config, metrics, clock=clock)
        self.membership = Membership(
            model_id=prompts.model_id,
            heartbeat_timeout_s=config.heartbeat_timeout_s,
            forget_lost_s=config.forget_lost_s,
            clock=clock,
            heard=self.placing.heard,
            gone=self._worker_gone,
        )
        self.links = Links()
        self._config = config
        self._prompts = prompts
        self._metrics = metrics
        self._model_name = model_name
        self._clock = clock
        self._admission = Admission(config.max_turns)
        self._histories = Histories(config.history_bytes)
        self.sessions = SessionDesk(
            self.placing.directory, self._histories, self.membership, self.links
        )
        self._turns: dict[TurnId, Turn] = {}
        self._ended: Counter[str] = Counter()
        self._rate = RateMeter()
        self._clean_up: set[asyncio.Task[None]] = set()

    async def generate(
        self, request: TurnRequest, *, deadline_s: float | None
    ) -> AsyncGenerator[TurnEvent, None]:
        """Runs one turn. Raises SegueErrors; ending the iteration early cancels the turn."""
        received_at = self._clock()
        with about_turn(request.turn_id), contextlib.ExitStack() as admitted:
            spec, transcript = await self._admit(request, admitted)
            turn = Turn(
                spec,
                self._context(spec),
                received_at=received_at,
                deadline_at=received_at + (deadline_s or self._config.default_deadline_s),
            )
            self._turns[request.turn_id] = turn
            try:
                async with contextlib.aclosing(self._observed(turn, transcript)) as events:
                    async for event in events:
                        yield event
            finally:
                del self._turns[request.turn_id]
                self._count_end(turn, received_at)

    def cancel(self, turn_id: TurnId) -> bool:
        """True when such a turn is running; its stream ends with finish reason CANCELLED."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return False
        turn.interrupt(Cancelled(f"turn {turn_id} was cancelled"))
        return True

    async def _admit(
        self, request: TurnRequest, admitted: contextlib.ExitStack
    ) -> tuple[TurnSpec, Transcript]:
        """Takes a place for as long as `admitted` is open. Refusals are counted by their kind."""
        try:
            admitted.enter_context(self._admission.admit())
            request = self._histories.complete(request)
            spec = await self._tokenise(request)
            if request.turn_id in self._turns:
                raise InvalidRequest(f"turn {request.turn_id} is running already; name it anew")
        except SegueError as error:
            self._metrics.load.turns.labels(outcome_of(error)).inc()
            raise
        return spec, Transcript(self._histories, request, spec)

    async def _tokenise(self, request: TurnRequest) -> TurnSpec:
        if _size(request.input) <= _INLINE_PROMPT_SIZE:
            return self._prompts.build(request)
        return await asyncio.to_thread(self._prompts.build, request)

    def _context(self, spec: TurnSpec) -> TurnContext:
        return TurnContext(
            placing=self.placing.turn(spec),
            links=self.links,
            spawn=self._spawn,
            clock=self._clock,
            max_attempts=self._config.max_attempts,
        )

    async def _observed(
        self, turn: Turn, transcript: Transcript
    ) -> AsyncGenerator[TurnEvent, None]:
        """The turn's events, measured as they pass."""
        metrics = self._metrics
        last_token_at: float | None = None
        async with contextlib.aclosing(turn.events()) as events:
            async for event in events:
                arrived_at = self._clock()
                event = transcript.hear(event)
                yield event
                match event:
                    case TokenDelta():
                        metrics.latency.relay_s.observe(self._clock() - arrived_at)
                        if last_token_at is not None:
                            metrics.latency.inter_token_s.observe(arrived_at - last_token_at)
                        last_token_at = arrived_at
                        self._rate.add(len(event.token_ids))
                        metrics.tokens.completion.inc(len(event.token_ids))
                    case TurnEnd():
                        self._observe_end(event)

    def _observe_end(self, end: TurnEnd) -> None:
        metrics = self._metrics
        if end.timings.first_token_s:
            metrics.latency.first_token_s.observe(end.timings.first_token_s)
            metrics.latency.queue_s.observe(end.timings.queue_s)
            metrics.latency.dispatch_s.observe(end.timings.router_s)
        metrics.tokens.prompt.inc(end.usage.prompt_tokens)
        metrics.tokens.cached.inc(end.usage.cached_tokens)
        metrics.tokens.rerendered.inc(end.usage.rerendered_tokens)
        metrics.tokens.rerendered_turns.inc(end.usage.rerendered_tokens > 0)

    def _count_end(self, turn: Turn, received_at: float) -> None:
        self._ended[turn.outcome] += 1
        self._metrics.load.turns.labels(turn.outcome).inc()
        self._admission.turn_took(self._clock() - received_at)
        logger.info(
            "turn ended",
            extra={
                "outcome": turn.outcome,
                "seconds": round(self._clock() - received_at, 3),
                "tokens": turn.num_relayed,
            },
        )

    def _spawn(self, clean_up: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(clean_up)
        self._clean_up.add(task)
        task.add_done_callback(self._clean_up.discard)
        return task

    async def status(self, address: str, metrics_address: str) -> ClusterStatus:
        """The cluster as it is now: every worker is asked, the silent ones as last heard."""
        workers = await asyncio.gather(*(self._ask(w) for w in self.membership.workers()))
        roles = {w.role for w in workers if w.health is WorkerHealth.READY}
        return ClusterStatus(
            ready=roles == set(Role) and not self._admission.is_draining,
            model=self._model_name,
            model_id=self.membership.model_id,
            workers=tuple(workers),
            router=RouterStatus(
                address=address,
                metrics_address=metrics_address,
                sessions=len(self.placing.directory),
                running_turns=self._admission.num_turns,
                finished_turns=self._ended["stop"] + self._ended["length"],
                failed_turns=self._ended["failed"] + self._ended["overloaded"],
                cancelled_turns=self._ended["cancelled"] + self._ended["disconnected"],
                completion_tokens_per_s=self._rate.per_second(),
                draining=self._admission.is_draining,
            ),
        )

    async def _ask(self, worker: WorkerStatus) -> WorkerStatus:
        if worker.health is WorkerHealth.LOST:
            return worker
        try:
            return await self.links.to(worker).status()
        except SegueError:
            return worker.as_lost()

    def _worker_gone(self, worker: WorkerStatus) -> None:
        """It left or was forgotten: nothing is kept for it. A later life is a new worker."""
        self.placing.gone(worker)
        self._spawn(self.links.forget(worker))

    def is_ready(self) -> bool:
        roles = {w.role for w in self.membership.workers() if w.health is WorkerHealth.READY}
        return roles == set(Role) and not self._admission.is_draining

    def observe_gauges(self) -> None:
        """Sets the gauges that are states, not events."""
        self._metrics.load.turns_in_flight.set(self._admission.num_turns)
        self._metrics.load.sessions.set(len(self.placing.directory))
        self._metrics.load.history_bytes.set(self._histories.size_bytes)
        counts = Counter((w.role.value, w.health.value) for w in self.membership.workers())
        for role in Role:
            for health in WorkerHealth:
                self._metrics.load.workers.labels(role.value, health.value).set(
                    counts[role.value, health.value]
                )

    async def drain(self) -> None:
        """Refuses new turns, waits for the running ones as long as configured, cancels the rest."""
        self._admission.is_draining = True
        deadline_at = self._clock() + self._config.drain_s
        while self._admission.num_turns and self._clock() < deadline_at:
            await asyncio.sleep(0.05)
        for turn in self._turns.values():
            turn.interrupt(Unavailable("the router was told to stop; try again elsewhere"))
        await asyncio.gather(*self._clean_up, return_exceptions=True)

    async def close(self) -> None:
        await asyncio.gather(*self._clean_up, return_exceptions=True)
        await self.links.close()


def _size(turn_input: TurnInput) -> int:
    """Characters to render and tokenise, or tokens to look at."""
    match turn_input:
        case ChatInput(messages=messages, tools=tools):
            return sum(len(m.content) for m in messages) + sum(len(tool) for tool in tools)
        case TextInput(text):
            return len(text)
        case TokenInput(token_ids):
            return len(token_ids)
