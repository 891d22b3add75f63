"""A prefill worker: takes turns, finds memory, has them computed and shipped, commits them.

One event loop owns everything here; the engine thread computes, the shipping thread moves bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kv_transfer.endpoint import Endpoint
from kv_transfer.exchange import Exchange
from kv_transfer.outgoing import Outgoing
from kv_transfer.reader import ReaderHooks
from kv_transfer.source import PEER_TIMEOUT_S, give_up
from kv_transfer.ticket import Ticket
from prefill_worker.config import PrefillConfig
from prefill_worker.engine import Command, Computed, Drop, PrefillEngine, PrefillSequence, Start
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.puller import Puller
from prefill_worker.scheduler import checkpoint_stops
from prefill_worker.server import services
from segue.cache.accountant import UnitState
from segue.cache.memory import Memory
from segue.cache.prefix_cache import Hold
from segue.cache.room import WaitingRoom
from segue.cancellation import uninterrupted
from segue.engine.loop import EngineLoop
from segue.engine.runner import ModelRunner
from segue.errors import (
    Cancelled,
    InvalidRequest,
    Overloaded,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.telemetry import Clock
from segue.types import (
    PageId,
    PrefixHolder,
    ShipReport,
    SlotId,
    TurnId,
    TurnSpec,
    WorkerLoad,
    WorkerStatus,
)
from segue.wire.server import Services
from segue.worker_process import Presence, leave_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Units:
    """What a turn has while it is computed: a prefix that is shared, and units of its own."""

    hold: Hold
    pages: Sequence[PageId]
    slot: SlotId
    checkpoints: Mapping[int, SlotId]
    """For the states that are kept on the way: position to slot."""

    @property
    def slots(self) -> Sequence[SlotId]:
        return (self.slot, *self.checkpoints.values())


class PrefillWorker:
    def __init__(
        self,
        *,
        presence: Presence,
        runner: ModelRunner,
        endpoint: Endpoint,
        memory: Memory,
        config: PrefillConfig,
        metrics: PrefillMetrics,
        max_running: int,
        verify_checksums: bool,
        clock: Clock = time.monotonic,
    ) -> None:
        self.presence = presence
        self.name = presence.identity.worker_id
        self.model_id = runner.layout.model_id
        self._layout = runner.layout
        self._config = config
        self._metrics = metrics
        self._max_running = max_running
        self._clock = clock
        self._memory = memory
        self._room = WaitingRoom(config.max_waiting)
        self._turns: dict[TurnId, asyncio.Task[ShipReport]] = {}
        self._num_running = 0
        self._waiting_tokens = 0
        self._is_draining = False
        self._exchange = Exchange(
            endpoint,
            memory,
            address=presence.address,
            verify_checksums=verify_checksums,
            hooks=ReaderHooks(lost=self._pull_lost, freed=self._room.wake),
            clock=clock,
        )
        self._puller = Puller(self._exchange, memory, runner.layout, presence.identity, clock)
        engine = PrefillEngine(runner, metrics, chunk_tokens=config.chunk_tokens, clock=clock)
        self._engine: EngineLoop[Command] = EngineLoop("prefill-engine", engine.step, leave_process)

    def _pull_lost(self, turn_id: TurnId, reason: str) -> None:
        self._puller.lost(turn_id, reason)

    def services(self) -> Services:
        return [*services(self), *self._exchange.services(self._puller.on_commit)]

    async def prefill(
        self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None
    ) -> ShipReport:
        """Computes what is missing of the prompt, ships it into the ticket, commits.

        `holder` may have a longer prefix than is here. If it raises, nothing of the turn is held
        here, no write is in flight, and the reader was told.
        """
        if self._is_draining:
            raise Unavailable(f"{self.name} is draining; place the turn elsewhere")
        if turn.turn_id in self._turns:
            raise InvalidRequest(f"turn {turn.turn_id} is being computed here already")
        task = asyncio.ensure_future(self._run(turn, ticket, holder))
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

    async def _run(self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None) -> ShipReport:
        received_at = self._clock()
        num_tokens = len(turn.prompt)
        self._waiting_tokens += num_tokens
        try:
            pulled = ShipReport()
            if holder is not None and self._config.prefix_cache and self._config.pull:
                pulled = await self._puller.pull(turn, holder)
            units = await self._room.take(lambda: self._take(turn))
            self._num_running += 1
            try:
                return await self._ship(turn, ticket, units, pulled, received_at)
            finally:
                self._num_running -= 1
                self._memory.cache.release(units.hold)
                self._room.wake()
        except asyncio.CancelledError:
            self._metrics.lost("stopped")
            raise
        except SegueError:
            self._metrics.lost("failed")
            raise
        finally:
            self._waiting_tokens -= num_tokens

    def _take(self, turn: TurnSpec) -> _Units:
        """Holds the prefix that is here, takes units for the rest; or Overloaded, and neither."""
        if self._num_running >= self._max_running:
            raise Overloaded(f"{self._max_running} turns run on {self.name}; come back later")
        num_pages = self._layout.num_pages_for(len(turn.prompt))
        if num_pages > self._memory.pages.total:
            raise InvalidRequest(
                f"a prompt of {len(turn.prompt)} tokens needs {num_pages} pages, "
                f"{self.name} has {self._memory.pages.total}"
            )
        cache = self._memory.cache
        hold = cache.hold_checkpoint(cache.match(turn.prompt if self._config.prefix_cache else ()))
        stops = self._stops(turn, hold)
        num_pages -= len(hold.pages)
        # Without room for the states on the way, the turn still needs one for its own.
        if not cache.make_room(num_pages, 1 + len(stops)):
            stops = ()
            cache.make_room(num_pages, 1)
        try:
            pages = self._memory.pages.take(num_pages, UnitState.WORKING)
        except Overloaded:
            cache.release(hold)
            raise
        try:
            slot, *kept = self._memory.slots.take(1 + len(stops), UnitState.WORKING)
        except Overloaded:
            self._memory.pages.give_back(pages, UnitState.WORKING)
            cache.release(hold)
            raise
        return _Units(hold, pages, slot, dict(zip(stops, kept, strict=True)))

    def _stops(self, turn: TurnSpec, hold: Hold) -> tuple[int, ...]:
        if not self._config.prefix_cache:
            return ()
        return checkpoint_stops(
            turn.branch_points,
            hold.num_tokens,
            len(turn.prompt),
            page_tokens=self._layout.page_tokens,
            stride=self._config.checkpoint_stride,
        )

    async def _ship(
        self,
        turn: TurnSpec,
        ticket: Ticket,
        units: _Units,
        pulled: ShipReport,
        received_at: float,
    ) -> ShipReport:
        """Afterwards the units are in the cache or free."""
        peers = self._exchange.peers
        try:
            reader_map = await peers.meet(ticket.reader, timeout_s=PEER_TIMEOUT_S)
            outgoing = self._exchange.writer.begin(
                ticket,
                reader_map,
                source_pages=(*units.hold.pages, *units.pages),
                source_slot=units.slot,
            )
            try:
                computed = await self._compute(turn, outgoing, units)
                shipped = await outgoing.finish()
                start = units.hold.num_tokens
                report = ShipReport(
                    shipped_bytes=shipped.shipped_bytes,
                    cached_tokens=start - pulled.pulled_tokens,
                    queue_s=computed.started_at - received_at,
                    prefill_s=computed.ended_at - computed.started_at,
                    transfer_s=shipped.transfer_s,
                    exposed_transfer_s=shipped.exposed_transfer_s,
                    computed_tokens=len(turn.prompt) - start,
                    pulled_tokens=pulled.pulled_tokens,
                    pulled_bytes=pulled.pulled_bytes,
                    pull_s=pulled.pull_s,
                )
                await peers.commit(
                    ticket,
                    shipped.checksums,
                    computed.first_token,
                    report,
                    timeout_s=PEER_TIMEOUT_S,
                )
            except BaseException as error:
                # Also for a cancellation: pages must not be given back while a write is in flight.
                await uninterrupted(give_up(outgoing, ticket, peers, error))
                raise
        except BaseException:
            self._give_back(units.pages, units.slots)
            raise
        self._puller.rates.computed(report.computed_tokens, report.prefill_s)
        self._puller.rates.moved(report.shipped_bytes, report.transfer_s)
        self._keep(turn, units)
        self._metrics.shipped(report)
        return report

    def _keep(self, turn: TurnSpec, units: _Units) -> None:
        """The prompt's full pages and states become the cache's; the rest is freed."""
        if not self._config.prefix_cache:
            self._give_back(units.pages, units.slots)
            return
        checkpoints, slots = dict(units.checkpoints), [units.slot]
        if len(turn.prompt) % self._layout.page_tokens == 0:
            # The state after the prompt stands at a page boundary, so it is one too.
            checkpoints[len(turn.prompt)] = slots.pop()
        left = self._memory.cache.insert(
            turn.prompt, units.pages, hold=units.hold, checkpoints=checkpoints
        )
        self._give_back(left, slots)

    def _give_back(self, pages: Sequence[PageId], slots: Sequence[SlotId]) -> None:
        self._memory.pages.give_back(pages, UnitState.WORKING)
        self._memory.slots.give_back(slots, UnitState.WORKING)

    async def _compute(self, turn: TurnSpec, outgoing: Outgoing, units: _Units) -> Computed:
        """Returns, or raises, when the engine has let go of the units."""
        done: asyncio.Future[Computed | None] = asyncio.get_running_loop().create_future()

        def on_done(computed: Computed | None) -> None:
            self._engine.publish(lambda: done.set_result(computed))

        checkpoint = units.hold.checkpoint
        sequence = PrefillSequence(
            turn=turn,
            pages=(*units.hold.pages, *units.pages),
            slot=units.slot,
            outgoing=outgoing,
            done=on_done,
            start=units.hold.num_tokens,
            state_slot=checkpoint.slot if checkpoint else None,
            checkpoints=units.checkpoints,
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

    def status(self) -> WorkerStatus:
        load = WorkerLoad(
            pages=self._memory.pages.counts(),
            slots=self._memory.slots.counts(),
            running_turns=len(self._turns) - len(self._room),
            waiting_turns=len(self._room),
            waiting_tokens=self._waiting_tokens,
            tokens_per_s=self._metrics.rate.per_second(),
        )
        self._metrics.set_load(load)
        return self.presence.status(load)

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        self._exchange.members_changed(workers)

    async def drain(self) -> None:
        """Takes nothing more; returns when the turns that are here have ended."""
        self._is_draining = True
        if self._turns:
            await asyncio.wait(set(self._turns.values()))

    async def close(self) -> None:
        for turn_id in list(self._turns):
            await self.release(turn_id)
        await self._engine.close()
        await self._exchange.close()

    @property
    def num_evicted(self) -> int:
        """Pages and states that had to go."""
        cache = self._memory.cache
        return cache.num_evicted_pages + cache.num_evicted_slots

    def check_invariants(self) -> None:
        self._memory.check_invariants()
