"""A decode worker: reserves memory, takes committed prompts, streams their answers.

One event loop owns everything here; the engine thread owns the sequences that are being answered.

    reserve ─▶ expected ─ commit ─▶ in the engine ─ Left ─▶ over: memory kept or given back
    prefill_here ───────────────────────┘
                  └──── release, lost handoff, nobody listens ────▶ over
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from decode_worker.config import DecodeConfig
from decode_worker.endings import fail, leave
from decode_worker.engines import engine_for
from decode_worker.events import Admit, Command, Drop, Event, Said
from decode_worker.metrics import DecodeMetrics
from decode_worker.reservation import Reservations
from decode_worker.residency import Residency, checkpoint_tokens
from decode_worker.sequence import DecodeSequence
from decode_worker.server import services
from decode_worker.turn import Sequences, Turn
from kv_transfer.endpoint import Endpoint
from kv_transfer.exchange import Exchange
from kv_transfer.reader import ReaderHooks
from kv_transfer.ticket import CommittedHandoff, PeerIdentity, Ticket
from segue.cache.host_tier import HostTier, Tiers
from segue.cache.room import WaitingRoom
from segue.cache.strays import Strays
from segue.cluster_status import WorkerLoad, WorkerStatus
from segue.engine.loop import EngineLoop
from segue.engine.runner import ModelRunner
from segue.engine.stepper import Stepper
from segue.errors import (
    Cancelled,
    InvalidRequest,
    NotFound,
    Overloaded,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.telemetry import Clock
from segue.text.tokenizer import Tokenizer
from segue.turn import ShipReport, TokenDelta, TurnResult, TurnSpec
from segue.types import SampledToken, TurnId
from segue.wire.server import Services
from segue.worker_process import Presence, leave_process

logger = logging.getLogger(__name__)

Taken = TypeVar("Taken")


class DecodeWorker:
    def __init__(
        self,
        *,
        presence: Presence,
        runner: ModelRunner,
        stepper: Stepper | None,
        tokenizer: Tokenizer,
        endpoint: Endpoint,
        tiers: Tiers,
        config: DecodeConfig,
        metrics: DecodeMetrics,
        max_running: int,
        verify_checksums: bool,
        clock: Clock = time.monotonic,
    ) -> None:
        """`stepper` launches steps ahead; without one the host drives each step."""
        self.presence = presence
        self.name = presence.identity.worker_id
        self.model_id = runner.layout.model_id
        self.layout = runner.layout
        self._config = config
        self._metrics = metrics
        self._max_running = max_running
        self._clock = clock
        self._memory = tiers.device
        self._room = WaitingRoom(config.max_waiting)
        self._tier = HostTier(tiers, freed=self._room.wake, loaded=metrics.loaded, clock=clock)
        self.residency = Residency(self._memory, self._tier, config, clock)
        self._turns: dict[TurnId, Turn] = {}
        self._is_draining = False
        self._exchange = Exchange(
            endpoint,
            self._memory,
            address=presence.address,
            vocab_size=runner.config.vocab_size,
            verify_checksums=verify_checksums,
            hooks=ReaderHooks(
                lost=self._handoff_lost,
                freed=self._room.wake,
                stepped=lambda _, entered: metrics.handoff_entered(entered),
            ),
            clock=clock,
        )
        engine = engine_for(
            runner, stepper, metrics, self._publish, config, num_rows=max_running, clock=clock
        )
        self._reservations = Reservations(
            self.residency,
            self._exchange.reader,
            Sequences(runner.config, tokenizer, device=runner.device),
            runner.layout,
            worker=self.name,
            num_drafts=lambda: engine.draft_reach,
        )
        self._engine: EngineLoop[Command] = EngineLoop("decode-engine", engine.step, leave_process)

    def services(self) -> Services:
        return [*services(self), *self._exchange.services(self._on_commit)]

    async def reserve(
        self, turn: TurnSpec, writer: PeerIdentity, *, deadline_s: float | None
    ) -> tuple[Ticket, int]:
        """Waits for room and sets it aside. Returns the ticket, and how many tokens of the prompt
        have a state here. Raises Overloaded, InvalidRequest, Unavailable.
        """
        await self._exchange.members.require(writer)
        lifetime_s = deadline_s or self._config.ticket_lifetime_s
        ticket = await self._admit(turn, lambda: self._reserve(turn, writer, lifetime_s))
        return ticket, checkpoint_tokens(self._turns[turn.turn_id].hold)

    async def prefill_here(self, turn: TurnSpec, max_computed_tokens: int) -> int:
        """Waits for room, and computes what is not here of the prompt: so many tokens.

        Raises NotResident when these are more than may be computed, and what `reserve` raises.
        """
        sequence = await self._admit(turn, lambda: self._resume(turn, max_computed_tokens))
        num_computed = sequence.num_prompt_left
        self._engine.submit(Admit(sequence))
        return num_computed

    async def _admit(self, turn: TurnSpec, take: Callable[[], Taken]) -> Taken:
        """The turn is here from now on, unless nobody listens to it in time."""
        self._check_welcome(turn)
        started_at = self._clock()

        def attempt() -> Taken:
            # Again: what it needs was loaded meanwhile, or it stood in line.
            self._check_welcome(turn)
            if len(self._turns) >= self._max_running:
                raise Overloaded(f"{self._max_running} turns run on {self.name}; come back later")
            return take()

        taken = await self._room.take(attempt, lambda: self.residency.load(turn.prompt))
        self._metrics.reserved(self._clock() - started_at)
        self._turns[turn.turn_id].listener = asyncio.get_running_loop().call_later(
            self._config.attach_s, self._end, turn.turn_id, "nobody listened"
        )
        return taken

    def _check_welcome(self, turn: TurnSpec) -> None:
        if self._is_draining:
            raise Unavailable(f"{self.name} is draining; place the turn elsewhere")
        if turn.turn_id in self._turns:
            raise InvalidRequest(f"turn {turn.turn_id} is here already; release it first")

    def _reserve(self, spec: TurnSpec, writer: PeerIdentity, lifetime_s: float) -> Ticket:
        turn, ticket = self._reservations.for_handoff(spec, writer, lifetime_s)
        self._turns[spec.turn_id] = turn
        return ticket

    def _resume(self, spec: TurnSpec, max_computed_tokens: int) -> DecodeSequence:
        turn, sequence = self._reservations.to_compute(spec, max_computed_tokens)
        self._turns[spec.turn_id] = turn
        return sequence

    async def decode(self, turn_id: TurnId) -> AsyncGenerator[TokenDelta | TurnResult, None]:
        """The turn's tokens from its commit on, and last its result.

        Raises TransferFailed when the handoff is lost. Ending early gives the turn up.
        """
        turn = self._turns.get(turn_id)
        if turn is None:
            raise NotFound(f"turn {turn_id} is not (or no longer) on {self.name}; reserve it first")
        if turn.listener is None:
            raise InvalidRequest(f"somebody listens to turn {turn_id} already")
        turn.listener.cancel()
        turn.listener = None
        try:
            while True:
                event = await turn.events.get()
                if isinstance(event, SegueError):
                    raise event
                yield event
                if isinstance(event, TurnResult):
                    return
        finally:
            self._end(turn_id, "its listener left")

    async def release(self, turn_id: TurnId) -> bool:
        """Stops a turn. Returns when its memory is free, or in quarantine."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return False
        turn.events.put_nowait(Cancelled(f"turn {turn_id} was released"))
        self._end(turn_id, "released")
        await turn.over.wait()
        return True

    def _on_commit(
        self, committed: CommittedHandoff, first_token: SampledToken, report: ShipReport
    ) -> None:
        turn = self._turns.get(committed.turn_id)
        if turn is None:
            # Given up while its bytes were being verified.
            self.residency.give_back(committed.pages, [committed.slot])
            self._room.wake()
            return
        try:
            sequence = self._reservations.arrived(turn, committed, first_token, report)
        except Exception as error:
            fail(self.residency, turn, error)
            self._forget(committed.turn_id)
            return
        self._engine.submit(Admit(sequence))

    def _publish(self, events: Sequence[Event]) -> None:
        """On the engine thread."""
        self._engine.publish(lambda: self._deliver(events))

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            turn = self._turns[event.turn_id]
            if isinstance(event, Said):
                turn.events.put_nowait(event.delta)
                continue
            try:
                leave(self.residency, turn, event)
            except Exception as error:
                fail(self.residency, turn, error)
            self._forget(event.turn_id)

    def _end(self, turn_id: TurnId, reason: str) -> None:
        """Lets go of a turn wherever it is. Memory follows when the engine or the writer has."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return
        if turn.is_in_engine:
            self._engine.submit(Drop(turn_id))
            return
        self._forget(turn_id)
        self._exchange.reader.give_up(turn_id, reason)

    def _handoff_lost(self, turn_id: TurnId, reason: str) -> None:
        turn = self._turns.get(turn_id)
        if turn is not None:
            turn.events.put_nowait(TransferFailed(f"turn {turn_id} did not arrive: {reason}"))
            self._forget(turn_id)

    def _forget(self, turn_id: TurnId) -> None:
        turn = self._turns.pop(turn_id)
        self.residency.release(turn.hold)
        if turn.listener is not None:
            turn.listener.cancel()
        turn.over.set()
        self._room.wake()

    def status(self) -> WorkerStatus:
        counts = self._tier.counts(self._owners())
        load = WorkerLoad(
            pages=counts.pages,
            slots=counts.slots,
            host_pages=counts.host_pages,
            host_slots=counts.host_slots,
            running_turns=len(self._turns),
            waiting_turns=len(self._room),
            waiting_tokens=0,
            tokens_per_s=self._metrics.rate.per_second(),
            page_tokens=self.layout.page_tokens,
        )
        self._metrics.set_load(load)
        self._metrics.set_cache(self._memory.cache, self._tier)
        return self.presence.status(load)

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        self._exchange.members_changed(workers)

    async def drain(self) -> None:
        """Takes nothing more; returns when the turns that are here have ended."""
        self._is_draining = True
        for turn in list(self._turns.values()):
            await turn.over.wait()

    async def close(self) -> None:
        for turn_id in list(self._turns):
            await self.release(turn_id)
        await self._engine.close()
        await self._exchange.close()
        self.residency.close()
        await self._tier.close()

    def _owners(self) -> set[str]:
        """Who will give back what it has."""
        return {*self._turns, *self._exchange.reader.owners(), *self._tier.owners()}

    def strays(self) -> Strays:
        return self._memory.strays(self._owners())

    def check_invariants(self) -> None:
        self._memory.check_invariants()
        self._tier.check_invariants()
