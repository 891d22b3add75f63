"""The router: owns the workers' table, the sessions and the running turns. One event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from router.admission.admission import (
    Admission,
    AdmissionRequest,
    capacity_of,
    draining_error,
)
from router.config import RouterConfig
from router.drain.desk import DrainDesk
from router.membership.membership import Membership
from router.metrics import RouterMetrics
from router.orders import LauncherDesk
from router.placement.placing import Placing, TurnPlacing
from router.sessions.calls import SessionDesk, TokenDesk
from router.sessions.finding import SessionFinder
from router.sessions.history import Completed, characters_before, complete
from router.sessions.prompt import EncodedTurn, PromptBuilder
from router.sessions.table import SessionTable
from router.status import StatusDesk
from router.telemetry.recent import Entry, RecentTurns
from router.telemetry.traces import TurnTrace
from router.tenants.accounts import TenantAccounts
from router.tenants.tenant import OPEN, Tenant
from router.turn.answered import AnsweredTokens
from router.turn.dispatch import TurnContext
from router.turn.links import Links
from router.turn.meter import TurnMeter, log_end
from router.turn.ongoing import Ongoing, OngoingTurns
from router.turn.reported import TurnEvents
from router.turn.turn import Turn
from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import ModelInfo, WorkerHealth, WorkerStatus
from segue.api.errors import Cancelled
from segue.api.turn import FinishReason, TokenDelta, TurnEnd
from segue.api.types import TurnId, TurnRequest
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import OFF, Tracer
from segue.security.config import OPEN as OPEN_CLUSTER
from segue.security.config import Security

# Most messages to clients for all turns together, which take about half a core. Tokens that arrive
# faster wait for some milliseconds and share a message.
_MAX_MESSAGES_PER_S = 5_000
# Shortest time between two messages of one turn: a reader would not notice less.
_MIN_PAUSE_S = 0.005
# Time after a restart by which the workers have rejoined the router: a worker tries every 0.5 s,
# and reconnects within a second.
_JOINED_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.1


class Router:
    def __init__(
        self,
        config: RouterConfig,
        prompts: PromptBuilder,
        metrics: RouterMetrics,
        *,
        model_name: str,
        security: Security = OPEN_CLUSTER,
        tracer: Tracer = OFF,
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
        self.links = Links(security)
        self._config = config
        self._prompts = prompts
        self.limits = prompts.limits(config.max_prompt_bytes)
        self._metrics = metrics
        self._model_name = model_name
        self._clock = clock
        self._joined_by = clock() + _JOINED_WITHIN_S
        self._tracer = tracer
        self._admission = Admission(config, clock=clock)
        self._accounts = TenantAccounts(metrics.tenants, clock, lambda: self.membership.num_routers)
        self.launcher = LauncherDesk(clock, self.placing.apply)
        self.status = StatusDesk(
            model_name,
            self.membership,
            self.links,
            self._admission,
            self.table,
            metrics,
            self.placing,
            self.launcher,
        )
        self.sessions = SessionDesk(self.table, self.membership, self.links)
        self.drains = DrainDesk(
            self.table, self.membership, self.links, lambda: self._admission.is_draining, clock
        )
        self.tokens = TokenDesk(prompts, self.limits)
        self._ongoing = OngoingTurns(self._admission)
        self.recent = RecentTurns(clock)
        self._num_running = 0

    def _on_status(self, worker: WorkerStatus) -> None:
        self.placing.update_worker(worker)
        self._admission.set_capacity(capacity_of(self.membership.workers()))
        if worker.health in (WorkerHealth.LOST, WorkerHealth.STUCK):
            self.links.lost(worker)

    async def generate(
        self,
        request: TurnRequest,
        *,
        deadline_s: float | None,
        tenant: Tenant = OPEN,
        size_bytes: int = 0,
    ) -> AsyncGenerator[TurnEvents, None]:
        """Runs one turn of a tenant. Yields its events, batched if several are queued. Raises
        SegueErrors. Leaving the iteration cancels the turn. `size_bytes`: the request's size."""
        received_at = self._clock()
        if deadline_s is None:
            deadline_s = self._config.default_deadline_s
        deadline_at = received_at + deadline_s
        trace = TurnTrace(self._clock, self._tracer, self._model_name)
        name = tenant.name, request.turn_id
        admission = AdmissionRequest(
            name=name,
            tenant=tenant.name,
            priority=request.priority,
            size_bytes=size_bytes,
            deadline_s=deadline_s,
        )
        meter = TurnMeter(
            self._metrics, self._clock, received_at, tenant.name, request.input, trace
        )
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(meter.turn(request.turn_id))
            with meter.refusals():
                ongoing = await held.enter_async_context(
                    self._ongoing.entered(name, takes_over=request.resume is not None)
                )
                held.enter_context(self._accounts.turn(tenant))
                if not await self._admitted(admission, meter):
                    yield (TurnEnd(finish_reason=FinishReason.CANCELLED),)
                    return
                held.callback(self._admission.leave)
                admitted_at = self._clock()
                found = await self._finder.named(tenant.own(request), tenant, self.limits)
                held.enter_context(self._finder.running(found.session_id))
                completed = self._complete(found, keeps_answer=request.session_hint is not None)
                meter.has_whole(completed.request.input)
                await self._workers_joined(ongoing, deadline_at)
                built = await self._prompts.make(completed, self.placing.pools.now)
                answered = AnsweredTokens.of(request.resume, built.spec, self._prompts)
                trace.built(admitted_at, built.spec, tenant.shown(built.spec.session_id))
            placing = self.placing.turn(built.spec, known=completed.known, num_kept=built.num_kept)
            turn = Turn(
                built.spec,
                self._context(placing, meter, built, tenant),
                received_at=received_at,
                deadline_at=deadline_at,
                answered=answered,
            )
            ongoing.runs(turn)
            entry = self.recent.started(tenant, received_at, placing)
            held.enter_context(self._running(turn, tenant, received_at, meter, entry))
            arriving = await held.enter_async_context(contextlib.aclosing(turn.events()))
            async for events in arriving:
                arrived_at = self._clock()
                if isinstance(end := events[-1], TurnEnd):
                    end = self._with_reasoning(end, turn, built)
                    tokens = placing.tokens.with_answer(turn.answer)
                    end = self.table.record(placing.session, completed, tokens, built.memory, end)
                    events, entry.end = (*events[:-1], end), end
                # Before they are sent: a client may leave as soon as it has the last one.
                meter.measure(events, arrived_at)
                yield events
                if isinstance(events[0], TokenDelta):
                    meter.relayed(arrived_at)

    def cancel(self, turn_id: TurnId, tenant: Tenant = OPEN) -> bool:
        """Returns whether the turn was running or waiting. Its stream ends with the finish reason
        CANCELLED."""
        error = Cancelled(f"turn {turn_id} was cancelled")
        return self._ongoing.cancel((tenant.name, turn_id), error)

    async def _admitted(self, admission: AdmissionRequest, meter: TurnMeter) -> bool:
        """Waits for a place. Returns False if the turn was cancelled in the meantime.
        Raises what `Admission.enter` raises.
        """
        with meter.waiting():
            try:
                await self._admission.enter(admission)
            except Cancelled:
                meter.count(FinishReason.CANCELLED.value)
                return False
        return True

    async def _workers_joined(self, ongoing: Ongoing, deadline_at: float) -> None:
        """A router that has just started waits, because the workers' memory limits the answer."""
        wait_until = min(self._joined_by, deadline_at)
        while not (all(self.placing.pools.now) or ongoing.is_interrupted):
            if (left_s := wait_until - self._clock()) <= 0:
                return
            await asyncio.sleep(min(left_s, _LOOK_AGAIN_S))

    def _complete(self, request: TurnRequest, *, keeps_answer: bool) -> Completed:
        """Raises UnknownHistory, and InvalidRequest if the input is too large."""
        known = self.table.history(request.session_id)
        self.limits.validate(request.input, characters_before(request, known))
        return replace(complete(request, known), keeps_answer=keeps_answer)

    def _context(
        self, placing: TurnPlacing, meter: TurnMeter, built: EncodedTurn, tenant: Tenant
    ) -> TurnContext:
        return TurnContext(
            placing=placing,
            workers=self.links,
            clock=self._clock,
            config=self._config,
            pause_s=self._pause_s,
            tried_again=meter.tried_again,
            placed=meter.trace.placed,
            tokenizer=self._prompts.tokenizer,
            session_id=tenant.shown(built.spec.session_id),
            starts_in_reasoning=built.starts_in_reasoning,
            parsers=self._prompts.parsers,
        )

    def _with_reasoning(self, end: TurnEnd, turn: Turn, built: EncodedTurn) -> TurnEnd:
        num = self._prompts.encoder.thinking.num_in(turn.answer, is_open=built.starts_in_reasoning)
        return replace(end, usage=replace(end.usage, reasoning_tokens=num)) if num else end

    def _pause_s(self) -> float:
        """Each running turn gets an equal share of the messages that the router can write."""
        return max(self._num_running / _MAX_MESSAGES_PER_S, _MIN_PAUSE_S)

    @contextlib.contextmanager
    def _running(
        self, turn: Turn, tenant: Tenant, received_at: float, meter: TurnMeter, entry: Entry
    ) -> Iterator[None]:
        """Records how the turn ended, and charges its tenant."""
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            outcome, took_s = turn.outcome, self._clock() - received_at
            entry.ended(outcome)
            computed = meter.computed(turn.computed_tokens)
            self._accounts.charge(tenant, computed=computed, generated=turn.num_generated)
            meter.ended(outcome, prompt_tokens=turn.spec.num_prompt, answer_tokens=len(turn.answer))
            self._admission.turn_took(took_s)
            log_end(outcome, took_s, turn.num_generated, turn.failure)

    def model(self) -> ModelInfo:
        return ModelInfo(
            name=self._model_name,
            model_id=self.membership.model_id,
            max_context=self.limits.max_context,
        )

    def _on_gone(self, worker: WorkerStatus) -> None:
        """Drops everything about an epoch of a worker that left or was forgotten."""
        self.placing.gone(worker)
        self._admission.set_capacity(capacity_of(self.membership.workers()))
        self.links.let_end(asyncio.ensure_future(self.links.forget(worker)))

    def is_ready(self) -> bool:
        return self.status.is_ready(self.membership.workers())

    def watch(self) -> None:
        """Periodic work: call it several times a second."""
        self.membership.notice_silence()
        self._prompts.reap()
        self.status.observe()

    async def drain(self, timeout_s: float | None = None) -> DrainReport:
        """Refuses new turns, waits `timeout_s` or `drain_s` for running ones, and cuts the rest."""
        limit_s = self._config.drain_s if timeout_s is None else timeout_s
        drained = await self._admission.drain(limit_s)
        self._ongoing.end_all(draining_error())
        return drained

    async def close(self) -> None:
        await self.links.close()
        await self._prompts.close()
