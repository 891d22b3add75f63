"""The router: owns the workers' table, the sessions and the running turns. One event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import replace

from router.admission import Admission
from router.config import RouterConfig
from router.membership import Membership
from router.metrics import RouterMetrics
from router.placement.placing import Placing, TurnPlacing
from router.sessions.calls import SessionDesk
from router.sessions.finding import SessionFinder
from router.sessions.history import Completed, characters_before, complete
from router.sessions.prompt import Built, PromptBuilder
from router.sessions.table import SessionTable
from router.sessions.tokens import TokenDesk
from router.turn.context import TurnContext
from router.turn.links import Links
from router.turn.meter import TurnMeter
from router.turn.turn import Turn, TurnEvents
from segue.api.cluster_status import (
    ClusterStatus,
    ModelInfo,
    RouterStatus,
    WorkerHealth,
    WorkerStatus,
)
from segue.api.errors import Cancelled, InvalidRequest, SegueError, Unavailable
from segue.api.history import digests
from segue.api.turn import TokenDelta, TurnEnd
from segue.api.types import ChatInput, Role, SessionId, TurnId, TurnRequest
from segue.process.telemetry import Clock, RateMeter, about_turn
from segue.text.limits import num_characters

logger = logging.getLogger(__name__)

# Most messages to clients, over all turns: about half a core's work. Tokens that arrive faster wait
# for some milliseconds and share a message.
_MAX_MESSAGES_PER_S = 5_000
# Shortest time between two messages of one turn, however few run: a reader would not notice less.
_MIN_PAUSE_S = 0.005
# Above this, a request's digests are computed in a thread: more than about a millisecond.
_LONG_CHARACTERS = 500_000
# The outcomes of turns that `segue status` adds up.
_FINISHED = ("stop", "length")
_CANCELLED = ("cancelled", "disconnected", "deadline")
_NOT_FAILED = (*_FINISHED, *_CANCELLED)


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
        self.table = SessionTable(
            max_sessions=config.max_sessions, history_bytes=config.history_bytes
        )
        self._finder = SessionFinder(self.table)
        self.placing = Placing(config, self.table, metrics, clock=clock)
        self.membership = Membership(
            model_id=prompts.model_id,
            heartbeat_timeout_s=config.heartbeat_timeout_s,
            forget_lost_s=config.forget_lost_s,
            clock=clock,
            on_status=self._on_status,
            on_gone=self._on_gone,
        )
        self.links = Links()
        self._config = config
        self._prompts = prompts
        self.limits = prompts.limits(config.max_prompt_bytes)
        self._metrics = metrics
        self._model_name = model_name
        self._clock = clock
        self._admission = Admission(config.max_turns, clock=clock)
        self.sessions = SessionDesk(self.table, self.membership, self.links)
        self.tokens = TokenDesk(prompts, self.limits)
        self._turns: dict[TurnId, Turn] = {}
        self._ended: Counter[str] = Counter()
        self._rate = RateMeter()

    def _on_status(self, worker: WorkerStatus) -> None:
        self.placing.update_worker(worker)
        if worker.health is WorkerHealth.LOST:
            self.links.lost(worker)

    async def generate(
        self, request: TurnRequest, *, deadline_s: float | None
    ) -> AsyncGenerator[TurnEvents, None]:
        """Runs one turn. Yields its events, batched if several are queued. Raises SegueErrors.
        Leaving the iteration cancels the turn."""
        received_at = self._clock()
        if deadline_s is None:
            deadline_s = self._config.default_deadline_s
        meter = TurnMeter(self._metrics, self._clock, received_at)
        with about_turn(request.turn_id), meter.errors(), contextlib.ExitStack() as admitted:
            with meter.refusals():
                admitted.enter_context(self._admission.admit())
                named = await self._find_session(request)
                admitted.enter_context(self._finder.running(named.session_id))
                completed = self._complete(named, keeps_answer=request.session_hint is not None)
                built = await self._encode(completed)
            placing = self.placing.turn(built.spec, known=completed.known, num_kept=built.num_kept)
            turn = Turn(
                built.spec,
                self._context(placing, meter, built),
                received_at=received_at,
                deadline_at=received_at + deadline_s,
            )
            with self._running(turn, received_at, meter):
                async with contextlib.aclosing(turn.events()) as arriving:
                    async for events in arriving:
                        arrived_at = self._clock()
                        if isinstance(end := events[-1], TurnEnd):
                            end = self._with_reasoning(end, turn, built)
                            tokens = placing.tokens.with_answer(turn.answer)
                            end = self.table.record(
                                placing.session, completed, tokens, built.memory, end
                            )
                            events = (*events[:-1], end)
                        # Before they are sent: a client may leave as soon as it has the last one.
                        self._measure(events, meter, arrived_at)
                        yield events
                        if isinstance(events[0], TokenDelta):
                            meter.relayed(arrived_at)

    def cancel(self, turn_id: TurnId) -> bool:
        """Whether the turn was running. Its stream ends with finish reason CANCELLED."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return False
        turn.interrupt(Cancelled(f"turn {turn_id} was cancelled"))
        return True

    async def _find_session(self, request: TurnRequest) -> TurnRequest:
        """The request with the session that its chat continues, if its client does not know it.
        Raises InvalidRequest if the input is too large."""
        if request.session_hint is None:
            return request
        chat, hint = request.input, request.session_hint
        session_id = SessionId(hint)
        if isinstance(chat, ChatInput):
            self.limits.validate(chat, 0)
            is_long = num_characters(chat) > _LONG_CHARACTERS
            chain = await asyncio.to_thread(digests, chat) if is_long else digests(chat)
            session_id = self._finder.find(chat, chain, hint)
        return replace(request, session_id=session_id, session_hint=None)

    def _complete(self, request: TurnRequest, *, keeps_answer: bool) -> Completed:
        """Raises UnknownHistory, and InvalidRequest if the input is too large."""
        known = self.table.history(request.session_id)
        self.limits.validate(request.input, characters_before(request, known))
        return replace(complete(request, known), keeps_answer=keeps_answer)

    async def _encode(self, completed: Completed) -> Built:
        """The turn in tokens. Raises InvalidRequest, ContextOverflow, Overloaded."""
        built = await self._prompts.make(completed, self.placing.pools.now)
        if built.spec.turn_id in self._turns:
            raise InvalidRequest(
                f"turn {built.spec.turn_id} is already running; use another turn_id"
            )
        return built

    def _context(self, placing: TurnPlacing, meter: TurnMeter, built: Built) -> TurnContext:
        return TurnContext(
            placing=placing,
            workers=self.links,
            clock=self._clock,
            max_attempts=self._config.max_attempts,
            pause_s=self._pause_s,
            tried_again=meter.tried_again,
            lost_worker_wait_s=self._config.lost_worker_wait_s,
            tokenizer=self._prompts.tokenizer,
            starts_in_reasoning=built.starts_in_reasoning,
            parsers=self._prompts.parsers,
        )

    def _with_reasoning(self, end: TurnEnd, turn: Turn, built: Built) -> TurnEnd:
        num = self._prompts.encoder.thinking.num_in(turn.answer, is_open=built.starts_in_reasoning)
        return replace(end, usage=replace(end.usage, reasoning_tokens=num)) if num else end

    def _pause_s(self) -> float:
        """Each running turn gets an equal share of the messages that the router can write."""
        return max(len(self._turns) / _MAX_MESSAGES_PER_S, _MIN_PAUSE_S)

    @contextlib.contextmanager
    def _running(self, turn: Turn, received_at: float, meter: TurnMeter) -> Iterator[None]:
        self._turns[turn.spec.turn_id] = turn
        try:
            yield
        finally:
            del self._turns[turn.spec.turn_id]
            self._count_end(turn, received_at, meter)

    def _measure(self, events: TurnEvents, meter: TurnMeter, arrived_at: float) -> None:
        for event in events:
            if isinstance(event, TokenDelta):
                meter.arrived(event, arrived_at)
                self._rate.add(len(event.token_ids))
            elif isinstance(event, TurnEnd):
                meter.finished(event)

    def _count_end(self, turn: Turn, received_at: float, meter: TurnMeter) -> None:
        self._ended[turn.outcome] += 1
        meter.ended(
            turn.outcome, prompt_tokens=turn.spec.num_prompt, answer_tokens=len(turn.answer)
        )
        self._admission.turn_took(self._clock() - received_at)
        about = {
            "outcome": turn.outcome,
            "seconds": round(self._clock() - received_at, 3),
            "tokens": len(turn.answer),
        }
        if turn.failure is None:
            logger.info("turn ended", extra=about)
        else:
            error = f"{type(turn.failure).__name__}: {turn.failure}"
            logger.warning("turn failed", extra={**about, "error": error})

    def model(self) -> ModelInfo:
        return ModelInfo(
            name=self._model_name,
            model_id=self.membership.model_id,
            max_context=self.limits.max_context,
        )

    async def status(self, address: str, metrics_address: str) -> ClusterStatus:
        """The cluster now: asks every worker, and shows lost workers as they last reported."""
        workers = await asyncio.gather(*(self._ask(w) for w in self.membership.workers()))
        return ClusterStatus(
            ready=self._is_ready(workers),
            model=self._model_name,
            model_id=self.membership.model_id,
            workers=tuple(workers),
            router=RouterStatus(
                address=address,
                metrics_address=metrics_address,
                sessions=len(self.table),
                running_turns=self._admission.num_turns,
                finished_turns=sum(self._ended[how] for how in _FINISHED),
                failed_turns=self._ended.total() - sum(self._ended[how] for how in _NOT_FAILED),
                cancelled_turns=sum(self._ended[how] for how in _CANCELLED),
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

    def _on_gone(self, worker: WorkerStatus) -> None:
        """Drops everything about a worker that left or was forgotten. A later life is a new one."""
        self.placing.gone(worker)
        self.links.let_end(asyncio.ensure_future(self.links.forget(worker)))

    def is_ready(self) -> bool:
        return self._is_ready(self.membership.workers())

    def _is_ready(self, workers: Iterable[WorkerStatus]) -> bool:
        roles = {w.role for w in workers if w.health is WorkerHealth.READY}
        return roles == set(Role) and not self._admission.is_draining

    def watch(self) -> None:
        """Periodic work: call it several times a second."""
        self.membership.notice_silence()
        self._prompts.reap()
        self._observe_gauges()

    def _observe_gauges(self) -> None:
        """Sets the gauges that are states, not events."""
        self._metrics.load.turns_in_flight.set(self._admission.num_turns)
        self._metrics.load.sessions.set(len(self.table))
        self._metrics.load.history_bytes.set(self.table.history_bytes)
        counts = Counter((w.role.value, w.health.value) for w in self.membership.workers())
        for role in Role:
            for health in WorkerHealth:
                self._metrics.load.workers.labels(role.value, health.value).set(
                    counts[role.value, health.value]
                )

    async def drain(self) -> None:
        """Refuses new turns, waits up to `drain_s` for running ones, then cancels the rest."""
        await self._admission.drain(self._config.drain_s)
        for turn in self._turns.values():
            turn.interrupt(Unavailable("the router is shutting down; try again elsewhere"))

    async def close(self) -> None:
        await self.links.close()
        await self._prompts.close()
