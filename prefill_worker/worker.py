"""A prefill worker: takes turns, finds memory, has them computed and shipped, commits them.

One event loop owns everything here; the engine thread computes, the shipping thread moves bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from kv_transfer.outgoing import Outgoing
from kv_transfer.peers import Peers
from kv_transfer.ticket import Ticket
from kv_transfer.writer import HandoffWriter
from prefill_worker.config import PrefillConfig
from prefill_worker.engine import Command, Computed, Drop, PrefillEngine, PrefillSequence, Start
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.server import services
from segue.cache.accountant import UnitState, page_accountant, slot_accountant
from segue.cache.room import WaitingRoom
from segue.cancellation import uninterrupted
from segue.engine.loop import EngineLoop
from segue.engine.runner import ModelRunner
from segue.errors import Cancelled, InvalidRequest, SegueError, TransferFailed, Unavailable
from segue.telemetry import Clock
from segue.types import PageId, ShipReport, SlotId, TurnId, TurnSpec, WorkerLoad, WorkerStatus
from segue.wire.server import Services
from segue.worker_process import Presence, leave_process

logger = logging.getLogger(__name__)

# A peer that does not answer its handoff calls within this time is treated as failed.
_PEER_TIMEOUT_S = 10.0


class PrefillWorker:
    def __init__(
        self,
        *,
        presence: Presence,
        runner: ModelRunner,
        writer: HandoffWriter,
        peers: Peers,
        config: PrefillConfig,
        metrics: PrefillMetrics,
        num_pages: int,
        num_slots: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self.presence = presence
        self.name = presence.identity.worker_id
        self.model_id = runner.layout.model_id
        self._layout = runner.layout
        self._writer = writer
        self._peers = peers
        self._metrics = metrics
        self._clock = clock
        self._pages = page_accountant(num_pages)
        self._slots = slot_accountant(num_slots)
        self._room = WaitingRoom(config.max_waiting)
        self._turns: dict[TurnId, asyncio.Task[ShipReport]] = {}
        self._waiting_tokens = 0
        self._is_draining = False
        engine = PrefillEngine(runner, metrics, chunk_tokens=config.chunk_tokens, clock=clock)
        self._engine: EngineLoop[Command] = EngineLoop("prefill-engine", engine.step, leave_process)

    def services(self) -> Services:
        return services(self, self._writer)

    async def prefill(self, turn: TurnSpec, ticket: Ticket) -> ShipReport:
        """Computes the prompt, ships it into the ticket, commits. If it raises, nothing of the turn
        is held here, no write is in flight, and the reader was told.
        """
        if self._is_draining:
            raise Unavailable(f"{self.name} is draining; place the turn elsewhere")
        if turn.turn_id in self._turns:
            raise InvalidRequest(f"turn {turn.turn_id} is being computed here already")
        task = asyncio.ensure_future(self._run(turn, ticket))
        self._turns[turn.turn_id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.done() and not (current and current.cancelling()):
                raise Cancelled(f"turn {turn.turn_id} was released") from None
            await self.release(turn.turn_id)
            raise
        finally:
            if task.done():
                self._turns.pop(turn.turn_id, None)

    async def release(self, turn_id: TurnId) -> bool:
        """Stops a turn. Returns when nothing of it is held and no write is in flight."""
        task = self._turns.get(turn_id)
        if task is None:
            return False
        task.cancel()
        await uninterrupted(asyncio.wait({task}))
        self._turns.pop(turn_id, None)
        return True

    async def _run(self, turn: TurnSpec, ticket: Ticket) -> ShipReport:
        received_at = self._clock()
        num_tokens = len(turn.prompt)
        self._waiting_tokens += num_tokens
        try:
            pages, slot = await self._room.take(lambda: self._take(num_tokens))
            try:
                return await self._ship(turn, ticket, pages, slot, received_at)
            finally:
                self._pages.give_back(pages, UnitState.WORKING)
                self._slots.give_back([slot], UnitState.WORKING)
                self._room.wake()
        except asyncio.CancelledError:
            self._metrics.lost("stopped")
            raise
        except SegueError:
            self._metrics.lost("failed")
            raise
        finally:
            self._waiting_tokens -= num_tokens

    def _take(self, num_tokens: int) -> tuple[Sequence[PageId], SlotId]:
        num_pages = self._layout.num_pages_for(num_tokens)
        if num_pages > self._pages.total:
            raise InvalidRequest(
                f"a prompt of {num_tokens} tokens needs {num_pages} pages, "
                f"{self.name} has {self._pages.total}"
            )
        pages = self._pages.take(num_pages, UnitState.WORKING)
        try:
            (slot,) = self._slots.take(1, UnitState.WORKING)
        except SegueError:
            self._pages.give_back(pages, UnitState.WORKING)
            raise
        return pages, slot

    async def _ship(
        self,
        turn: TurnSpec,
        ticket: Ticket,
        pages: Sequence[PageId],
        slot: SlotId,
        received_at: float,
    ) -> ShipReport:
        reader_map = await self._peers.meet(ticket.reader, timeout_s=_PEER_TIMEOUT_S)
        outgoing = self._writer.begin(ticket, reader_map, source_pages=pages, source_slot=slot)
        try:
            computed = await self._compute(turn, outgoing, pages, slot)
            shipped = await outgoing.finish()
            report = ShipReport(
                shipped_bytes=shipped.shipped_bytes,
                queue_s=computed.started_at - received_at,
                prefill_s=computed.ended_at - computed.started_at,
                transfer_s=shipped.transfer_s,
                exposed_transfer_s=shipped.exposed_transfer_s,
            )
            await self._peers.commit(
                ticket,
                shipped.checksums,
                computed.first_token,
                report,
                timeout_s=_PEER_TIMEOUT_S,
            )
        except BaseException as error:
            # Also for a cancellation: pages must not be given back while a write may be in flight.
            await uninterrupted(self._give_up(outgoing, ticket, error))
            raise
        self._metrics.shipped(report)
        return report

    async def _compute(
        self, turn: TurnSpec, outgoing: Outgoing, pages: Sequence[PageId], slot: SlotId
    ) -> Computed:
        """Returns, or raises, when the engine has let go of pages and slot."""
        done: asyncio.Future[Computed | None] = asyncio.get_running_loop().create_future()

        def on_done(computed: Computed | None) -> None:
            self._engine.publish(lambda: done.set_result(computed))

        sequence = PrefillSequence(
            turn=turn, pages=pages, slot=slot, outgoing=outgoing, done=on_done
        )
        self._engine.submit(Start(sequence))
        try:
            computed = await asyncio.shield(done)
        except asyncio.CancelledError:
            self._engine.submit(Drop(turn.turn_id))
            await uninterrupted(done)
            raise
        if computed is None:
            # The engine drops a turn on its own only when its handoff has ended: say why.
            await outgoing.finish()
            raise TransferFailed(f"the handoff of turn {turn.turn_id} ended early")
        return computed

    async def _give_up(self, outgoing: Outgoing, ticket: Ticket, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        await outgoing.stop(reason)
        try:
            await self._peers.abort(ticket, reason, timeout_s=_PEER_TIMEOUT_S)
        except SegueError as unreachable:
            # The reader asks by itself (its fence), or is gone.
            logger.info(
                "abort not delivered",
                extra={"ticket_id": ticket.ticket_id, "error": str(unreachable)},
            )

    def status(self) -> WorkerStatus:
        load = WorkerLoad(
            pages=self._pages.counts(),
            slots=self._slots.counts(),
            running_turns=len(self._turns) - len(self._room),
            waiting_turns=len(self._room),
            waiting_tokens=self._waiting_tokens,
            tokens_per_s=self._metrics.rate.per_second(),
        )
        self._metrics.set_load(load)
        return self.presence.status(load)

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        """A writer learns of a dead reader from its failed writes; nothing to do."""

    async def drain(self) -> None:
        """Takes nothing more; returns when the turns that are here have ended."""
        self._is_draining = True
        if self._turns:
            await asyncio.wait(set(self._turns.values()))

    async def close(self) -> None:
        for turn_id in list(self._turns):
            await self.release(turn_id)
        await self._engine.close()
        await asyncio.to_thread(self._writer.close)
        await self._peers.close()

    def check_invariants(self) -> None:
        self._pages.check_invariants()
        self._slots.check_invariants()
