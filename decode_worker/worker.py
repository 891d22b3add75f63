"""A decode worker: reserves memory, takes committed prompts, streams their answers.

One event loop owns everything here; the engine thread owns the sequences that are being answered.

    answer, shipped ─▶ reserved ─ arrived ─▶ in the engine ─ Left ─▶ over: memory kept or given back
    answer, computed ─────────────────────────────┘
                          └──── cancelled, lost handoff ────▶ over
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from decode_worker.config import DecodeConfig
from decode_worker.engine.engine import DecodeEngine
from decode_worker.engine.events import Command, Event, NewTokens, TurnReleased
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.memory.adoption import Adoptions
from decode_worker.memory.moving import move_away
from decode_worker.memory.reservation import Reservations
from decode_worker.memory.residency import Residency, checkpoint_tokens, with_kept
from decode_worker.metrics import DecodeMetrics
from decode_worker.server import services
from decode_worker.traces import traced
from decode_worker.turn import DecodeTurn, Emit, MemoryReserved, PromptSource, Sequences
from kv_transfer.resources import WorkerResources
from kv_transfer.ticket import PeerIdentity
from kv_transfer.worker import HandoffWorker
from segue.api.cluster.drain import Adopted, DrainReport, HeldSession, MoveReport
from segue.api.errors import DeadlineExceeded, InvalidRequest, Overloaded, SegueError
from segue.api.turn import ComputedOnDecode, PrefillStarted, TurnSpec
from segue.api.types import TurnId
from segue.engine.device.launcher import Launcher
from segue.process.cancellation import uninterrupted
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import OFF, Tracer
from segue.wire.server import Services
from segue.worker.drain import Deadline, MoveSessions
from segue.worker.engine_thread import Drop, EngineLoop
from segue.worker.grammars import Making, made
from segue.worker.process.serving import Presence, leave_process

logger = logging.getLogger(__name__)


class DecodeWorker(HandoffWorker[DecodeTurn, Command]):
    def __init__(
        self,
        presence: Presence,
        resources: WorkerResources,
        config: DecodeConfig,
        metrics: DecodeMetrics,
        *,
        launcher: Launcher | None = None,
        tracer: Tracer = OFF,
        clock: Clock = time.monotonic,
    ) -> None:
        """A `launcher` has `max_running` rows. Without one, the host computes every step."""
        super().__init__(
            presence,
            resources,
            metrics,
            max_waiting=config.max_waiting,
            tracer=tracer,
            clock=clock,
            stepped=lambda _, entered: metrics.handoff_entered(entered),
        )
        runner = resources.runner
        self._metrics = metrics
        self.residency = Residency(self._memory, self._tier, config, clock)
        progress = self.watchdog.progress
        engine = DecodeEngine(
            runner, metrics, self._publish, config, progress, launcher=launcher, clock=clock
        )
        self._reservations = Reservations(
            self._memory,
            self.residency,
            self._exchange.reader,
            Sequences(runner.config, resources.tokenizer, device=runner.device),
            worker=self.name,
            num_drafts=lambda: engine.draft_count.reach,
        )
        self._engine = EngineLoop("decode-engine", engine.step, leave_process, progress)
        self._adoptions = Adoptions(self._exchange, self._memory.cache, self.residency)

    def services(self) -> Services:
        return [*services(self), *self._exchange.services()]

    async def answer(
        self, spec: TurnSpec, source: PromptSource, emit: Emit, *, timeout_s: float
    ) -> None:
        """Runs a turn: waits for room, then for its prompt, then until its answer has ended.

        `emit` gets all events from the reservation on. Raises Overloaded, InvalidRequest,
        Unavailable, DeadlineExceeded, NotResident if more of the prompt is missing here than may
        be computed, and TransferFailed if the prompt does not arrive. In each case, and after a
        cancellation, the turn is gone; memory that the writer may still write is in quarantine.
        """
        with traced(self._tracer, spec, self._clock) as times:
            if isinstance(source, PeerIdentity):
                times.is_shipped = True
                await self._exchange.members.require(source)
            constraint = self._grammars.start(spec)
            if isinstance(source, ComputedOnDecode):
                # Memory that is taken then belongs to the engine at once.
                await made(constraint)
            turn = await self._find_room(spec, source, emit, timeout_s)
            times.reserved_at, times.resident_tokens = self._clock(), turn.hold.num_tokens
            turn.times = times
            await turn.work.run(self._answer(turn, constraint))

    async def _find_room(
        self, spec: TurnSpec, source: PromptSource, emit: Emit, timeout_s: float
    ) -> DecodeTurn:
        """Waits until there is room for the whole turn, and takes it."""
        self._check_admissible(spec)
        started_at = self._clock()

        def attempt() -> DecodeTurn:
            # Check again: time has passed while the turn was queued or its prefix was loaded.
            self._check_admissible(spec)
            if len(self._turns) >= self._max_running:
                raise Overloaded(f"{self._max_running} turns run on {self.name}; retry later")
            left_s = started_at + timeout_s - self._clock()
            match source:
                case PeerIdentity():
                    turn = self._reservations.for_handoff(spec, emit, source, left_s)
                case ComputedOnDecode(max_tokens):
                    turn = self._reservations.to_compute(spec, emit, max_tokens)
            self._turns[spec.turn_id] = turn
            return turn

        try:
            async with asyncio.timeout(timeout_s):
                turn = await self._room.take(attempt, lambda: self.residency.load(spec.context))
        except TimeoutError:
            raise DeadlineExceeded(
                f"turn {spec.turn_id} waited {timeout_s:g} s for memory on {self.name}"
            ) from None
        self._metrics.reserved(self._clock() - started_at)
        return turn

    def _check_admissible(self, turn: TurnSpec) -> None:
        if self._is_draining:
            raise self._draining_error()
        if turn.turn_id in self._turns:
            raise InvalidRequest(f"turn {turn.turn_id} is here already; stop it first")

    async def _answer(self, turn: DecodeTurn, constraint: Making) -> None:
        sequence = turn.sequence
        if sequence is None:
            sequence = await self._receive(turn, constraint)
        else:
            sequence.constraint = constraint.result()
            turn.emit(PrefillStarted(sequence.num_prompt_left))
        turn.times.started_at = self._clock()
        self._engine.submit(sequence)
        try:
            await turn.over.wait()
        except asyncio.CancelledError:
            # The engine uses its memory until it has released the turn.
            self._engine.submit(Drop(turn.spec.turn_id))
            await uninterrupted(turn.over.wait())
            raise

    async def _receive(self, turn: DecodeTurn, constraint: Making) -> DecodeSequence:
        """Waits until the prompt has been written here."""
        assert turn.reservation is not None, "its prompt is not computed here"
        turn_id = turn.spec.turn_id
        try:
            with turn.reservation as reservation:
                turn.emit(MemoryReserved(reservation.ticket, checkpoint_tokens(turn.hold)))
                await made(constraint)
                arrival = await reservation.arrived()
            try:
                sequence = self._reservations.arrived(turn, arrival)
                sequence.constraint = constraint.result()
                return sequence
            except BaseException:
                # A bug may have left more units than the arrived ones without an owner.
                self._memory.reclaim(turn_id)
                raise
        except BaseException:
            self._forget(turn_id)
            raise

    def _publish(self, events: Sequence[Event]) -> None:
        """On the engine thread."""
        self._engine.publish(lambda: self._deliver(events))

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            turn = self._turns[event.turn_id]
            if isinstance(event, NewTokens):
                turn.emit(event.delta)
                continue
            try:
                self._leave(turn, event)
            except Exception as error:
                # A bug that affects one turn: its memory is freed, and the others continue.
                logger.exception("a turn failed", extra={"turn_id": event.turn_id})
                self._memory.reclaim(event.turn_id)
                turn.emit(SegueError(f"turn {event.turn_id}: {type(error).__name__}: {error}"))
            self._forget(event.turn_id)

    def _leave(self, turn: DecodeTurn, event: TurnReleased) -> None:
        """Caches the computed pages and states, unless the turn failed."""
        assert turn.own_pages is not None, "the engine had it"
        turn.times.left = event
        if event.error is not None:
            # Its last pages and states may be half written.
            self._memory.give_back(turn.own_pages, event.sequence.slots)
            turn.emit(event.error)
            return
        self.residency.keep(turn.spec.session_id, event.sequence, turn.own_pages, turn.hold)
        if event.result is not None:
            turn.emit(with_kept(event.result, turn.spec, turn.hold))

    def _forget(self, turn_id: TurnId) -> None:
        turn = self._turns.pop(turn_id)
        self._memory.cache.release(turn.hold)
        turn.over.set()
        self._room.wake()

    async def adopt(
        self, session: HeldSession, source: PeerIdentity, *, timeout_s: float
    ) -> Adopted:
        """Takes a session over from a worker that drains. Raises Unavailable if this one drains
        too, and what `Adoptions.adopt` raises.
        """
        if self._is_draining:
            raise self._draining_error()
        if len(self._room):
            raise Overloaded(f"turns wait for memory on {self.name}: it takes no session over")
        try:
            return await self._adoptions.adopt(session, source, timeout_s=timeout_s)
        finally:
            self._room.wake()

    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport:
        self._is_draining = True
        await self._adoptions.stop(self._draining_error())
        return await super().drain(until, move)

    async def _move_sessions(self, until: Deadline, move: MoveSessions | None) -> MoveReport:
        return await move_away(
            self.residency.leases,
            lambda: {turn.spec.session_id for turn in self._turns.values()},
            until,
            move,
            clock=self._clock,
        )

    def _owners(self) -> set[str]:
        return {*super()._owners(), *self._adoptions.owners()}

    async def close(self) -> None:
        # No session may be loaded back while the host tier closes.
        self.residency.close()
        await self._adoptions.stop(self._draining_error())
        await super().close()
