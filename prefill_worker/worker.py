"""A prefill worker: takes turns, finds memory for them, computes, ships and commits them.

One event loop owns everything here; the engine thread computes, the shipping thread moves bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from kv_transfer.ranks.leading import Sending
from kv_transfer.resources import WorkerResources
from kv_transfer.ticket import Ticket
from kv_transfer.worker import HandoffWorker
from prefill_worker.config import PrefillConfig
from prefill_worker.engine import (
    Command,
    Computed,
    ConstraintMade,
    PrefillEngine,
    PrefillSequence,
)
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.pull import Puller
from prefill_worker.server import services
from prefill_worker.traces import PromptTimes, traced
from prefill_worker.units import PromptMemory, PromptUnits, check
from segue.api.errors import InvalidRequest, SegueError, TransferFailed
from segue.api.turn import PrefillOutcome, PrefixHolder, PromptLogprobs, TurnSpec
from segue.process.cancellation import Interruptible, uninterrupted
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import OFF, Tracer
from segue.wire.server import Services
from segue.worker.engine_thread import Drop, EngineLoop
from segue.worker.grammars import Making
from segue.worker.process.serving import Presence, leave_process

logger = logging.getLogger(__name__)


class PrefillWorker(HandoffWorker[Interruptible, Command]):
    def __init__(
        self,
        presence: Presence,
        resources: WorkerResources,
        config: PrefillConfig,
        metrics: PrefillMetrics,
        *,
        tracer: Tracer = OFF,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(
            presence,
            resources,
            metrics,
            max_waiting=config.max_waiting,
            tracer=tracer,
            clock=clock,
        )
        runner = resources.runner
        self._model = runner.config
        self._config = config
        self._metrics = metrics
        self._puller = Puller(self._exchange, self._memory.cache, runner.layout, clock)
        self.rates = self._puller.rates
        self._prompts = PromptMemory(
            self._memory,
            self._tier,
            self.rates,
            runner.layout,
            config,
            self._max_running,
        )
        progress = self.watchdog.progress
        engine = PrefillEngine(
            runner, metrics, chunk_tokens=config.chunk_tokens, progress=progress, clock=clock
        )
        self._engine = EngineLoop(
            "prefill-engine", engine.step, leave_process, progress, niceness=config.niceness
        )

    def services(self) -> Services:
        return [*services(self), *self._exchange.services()]

    async def prefill(
        self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None:
        """Computes the missing part of the prompt, ships the prompt into the ticket, and commits.
        Returns the prompt's log-probabilities if they are wanted; then all of it is computed.

        `holder` may have a longer prefix than this worker. If this raises, the turn holds nothing
        here, no write is in flight, and the reader got an abort if one could have been.
        """
        if self._is_draining:
            raise self._draining_error()
        if turn.turn_id in self._turns:
            raise InvalidRequest(f"turn {turn.turn_id} is being computed here already")
        check(turn, ticket, holder, model=self._model, page_tokens=self.layout.page_tokens)
        work = self._turns[turn.turn_id] = Interruptible()
        try:
            with traced(self._tracer, turn, self._clock) as times:
                return await work.run(self._run(turn, ticket, holder, times))
        finally:
            del self._turns[turn.turn_id]

    async def _run(
        self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None, times: PromptTimes
    ) -> PromptLogprobs | None:
        # The whole prompt, until the cached part is known.
        missing_tokens = len(turn.context)
        self._waiting_tokens += missing_tokens
        constraint = self._grammars.start(turn)
        try:
            await self._exchange.members.require(ticket.reader)
            if holder is not None and self._prompts.resumes(turn) and self._config.pull:
                await self._prompts.load(turn)
                times.pulled = await self._puller.pull(turn, holder)
                times.pulled_at = self._clock()
            units = await self._room.take(
                lambda: self._prompts.take(turn), lambda: self._prompts.load(turn)
            )
            times.held_tokens = units.hold.num_tokens
            self._waiting_tokens -= units.hold.num_tokens
            missing_tokens -= units.hold.num_tokens
            try:
                return await self._ship(turn, ticket, units, times, constraint)
            finally:
                self._room.wake()
        except asyncio.CancelledError:
            self._metrics.lost("stopped")
            raise
        except SegueError:
            self._metrics.lost("failed")
            raise
        finally:
            self._waiting_tokens -= missing_tokens

    async def _ship(
        self,
        turn: TurnSpec,
        ticket: Ticket,
        units: PromptUnits,
        times: PromptTimes,
        constraint: Making,
    ) -> PromptLogprobs | None:
        """Afterwards the units are in the cache or free."""
        start, pulled = units.hold.num_tokens, times.pulled
        try:
            async with self._exchange.send(ticket, pages=units.pages, slot=units.slot) as outgoing:
                computed = await self._compute(turn, outgoing, units, constraint)
                times.computed = computed
                shipped = await outgoing.finish()
                times.shipped, times.shipped_at = shipped, self._clock()
                kept_states = self._prompts.kept_states(turn, units)
                report = replace(
                    pulled,
                    shipped_bytes=shipped.shipped_bytes,
                    # The pulled part may have been evicted before it was held.
                    cached_tokens=max(start - pulled.pulled_tokens, 0),
                    queue_s=computed.started_at - times.received_at,
                    prefill_s=computed.ended_at - computed.started_at,
                    transfer_s=shipped.transfer_s,
                    exposed_transfer_s=shipped.exposed_transfer_s,
                    computed_tokens=len(turn.context) - start,
                    kept_tokens=max(kept_states, default=0),
                    kept_states=kept_states,
                )
                outgoing.outcome = PrefillOutcome(first_token=computed.first_token, report=report)
            times.committed_at = self._clock()
        except BaseException:
            self._prompts.give_back(units)
            raise
        self._prompts.keep(turn, units)
        self.rates.computed(report.computed_tokens, report.prefill_s)
        self.rates.moved(report.shipped_bytes, report.transfer_s)
        self._metrics.shipped(report, prefill=self.name, decode=ticket.reader.worker_id)
        return computed.prompt_logprobs

    async def _compute(
        self, turn: TurnSpec, outgoing: Sending, units: PromptUnits, constraint: Making
    ) -> Computed:
        """Returns or raises once the engine has released the units."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Computed | SegueError | None] = loop.create_future()

        def on_done(computed: Computed | SegueError | None) -> None:
            self._engine.publish(lambda: done.set_result(computed))

        checkpoint = units.hold.checkpoint
        sequence = PrefillSequence(
            turn=turn,
            pages=units.pages,
            slot=units.slot,
            outgoing=outgoing,
            done=on_done,
            start=units.hold.num_tokens,
            state_slot=checkpoint.slot if checkpoint else None,
            checkpoints=units.checkpoints,
            constraint=constraint,
        )
        self._engine.submit(sequence)
        if not constraint.done():
            constraint.add_done_callback(lambda _: self._engine.submit(ConstraintMade()))
        try:
            computed = await asyncio.shield(done)
        except asyncio.CancelledError:
            self._engine.submit(Drop(turn.turn_id))
            await uninterrupted(done)
            raise
        if isinstance(computed, SegueError):
            raise computed
        if computed is None:
            # The engine drops a turn by itself only if its handoff has ended: raises the reason.
            await outgoing.finish()
            raise TransferFailed(f"the handoff of turn {turn.turn_id} ended early")
        return computed

    @property
    def _num_running(self) -> int:
        """Without those that wait for memory."""
        return len(self._turns) - len(self._room)
