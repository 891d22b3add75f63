"""One outgoing handoff, and the thread that ships all of them.

    compute thread      layer_ready(layer, pages) ─┐
    shipping thread                                └─▶ plan, checksum, transport.write: by batches
    event loop          await finish()   or   await stop(reason)

Until `finish` or `stop` has returned, the source pages that were ready and the slot must not be
written or freed. The lane's condition guards what the threads share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from kv_transfer.ticket import Checksums
from kv_transfer.transport.cache_memory import CacheMemory, combine
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.lane import Lane
from kv_transfer.writing.plan import Fragment, Piece, UnitRoute, batches, plan_units
from kv_transfer.writing.shipment import (
    AllQueued,
    AwaitingWrites,
    Failed,
    PieceArrived,
    PieceFailed,
    PieceQueued,
    PieceStarted,
    Shipped,
    Shipping,
    StopAsked,
    Stopped,
    WriterEvent,
    WriterState,
    advance_writer,
)
from segue.api.errors import Cancelled, TransferFailed
from segue.api.turn import PrefillOutcome
from segue.parallel.rank import Rank

logger = logging.getLogger(__name__)


class IncompleteHandoff(AssertionError):
    """`finish` was called before every unit was ready: the reader would decode nonsense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipLimits:
    """Limits on what may be queued or in flight at once."""

    max_batch_items: int = 512
    max_batch_bytes: int = 16 << 20
    """Also bounds how long a stop waits: for one batch."""
    max_waiting_bytes: int = 256 << 20
    """Beyond this, `layer_ready` blocks. Waiting costs no memory: the bytes stay in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipResult:
    shipped_bytes: int
    transfer_s: float
    """Time in which bytes were moving."""
    exposed_transfer_s: float
    """From the last `layer_ready` until everything had arrived."""
    started_at: float
    """When the first piece started, by the writer's clock."""
    arrived_at: float
    checksums: Checksums
    """Empty if checksums are off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippingTools:
    """Shared by all handoffs of a process."""

    lane: Lane
    transport: Transport
    limits: ShipLimits
    clock: Callable[[], float]
    memory: CacheMemory
    computes_checksums: bool


class Outgoing:
    """Made by `HandoffWriter.start`. Any thread may call its methods."""

    def __init__(self, route: UnitRoute, tools: ShippingTools, on_end: Callable[[], None]) -> None:
        self.state: WriterState = Shipping()
        self.outcome: PrefillOutcome | None = None
        """Sent with the commit."""
        self.target_segments = {memory.segment for memory in route.target.memories}
        self._route = route
        self._tools = tools
        self._on_end = on_end
        self._waiters: list[Future[None]] = []
        self._ready: set[tuple[int, int]] = set()
        self._last_ready_at = tools.clock()
        # Only the shipping thread writes these. They are read after the end.
        self._crcs: dict[tuple[Rank, int, int], Sequence[int]] = {}
        self._shipped_bytes = 0
        self._transfer_s = 0.0
        self._arrived_at = self._last_ready_at
        self._started_at: float | None = None
        self._result: ShipResult | None = None

    def announce(self, *, pages: range, with_slot: bool) -> None:
        """Called before a pass, with the units that it will make ready in each layer. Only other
        ranks need this: see `kv_transfer.ranks.leading`."""

    @property
    def is_open(self) -> bool:
        """False once it has failed, stopped or completed: there is no point in computing more."""
        return isinstance(self.state, Shipping | AwaitingWrites)

    def layer_ready(self, layer: int, *, pages: range, with_slot: bool = False) -> None:
        """Ships these pages of the sequence (0 is the prompt's first), complete in this layer.

        `with_slot`: also ships the layer's recurrent and convolution state, which are final. Skips
        pages that the reader already holds. A page named twice is shipped twice, and the last copy
        wins. Returns at once, unless more than `max_waiting_bytes` wait. Does nothing after a
        failure or stop.
        """
        computed = self._tools.memory.queued()
        for piece in self._route.pieces(layer, pages, with_slot=with_slot):
            self._queue(piece, computed)
        self._last_ready_at = self._tools.clock()

    def all_ready(self, num_pages: int) -> None:
        """Ships the sequence's first pages and its states, which are complete in all layers."""
        for layer in sorted({field.layer for field in self._route.source.layout.fields}):
            self.layer_ready(layer, pages=range(num_pages), with_slot=True)

    async def finish(self) -> ShipResult:
        """Call after the last `layer_ready`. Returns when every byte is in the reader's memory. A
        second call returns at once.

        Raises TransferFailed if a write failed, Cancelled if the handoff was stopped.
        """
        with self._tools.lane.changed:
            if isinstance(self.state, Shipping):
                self._require_complete()
            self._advance(AllQueued())
        await self._ended()
        match self.state:
            case Failed(reason):
                raise TransferFailed(reason)
            case Stopped(reason):
                raise Cancelled(f"the handoff was stopped: {reason}")
        self._result = self._result or self._sum_up()
        return self._result

    async def stop(self, reason: str) -> None:
        """Starts no further write, and returns when none is in flight. May be called repeatedly."""
        self.ask_to_stop(reason)
        await self._ended()

    def ask_to_stop(self, reason: str) -> None:
        """Like `stop`, without waiting."""
        self._advance(StopAsked(reason))

    def _queue(self, piece: Piece, computed: Callable[[], None]) -> None:
        lane = self._tools.lane
        with lane.changed:
            lane.wait_for_room(piece.num_bytes, lambda: self.is_open)
            self._advance(PieceQueued())
            if self.is_open:
                self._ready.update((piece.field_index, number) for number in piece.numbers)
                lane.put(lambda: self._ship(piece, computed), piece.num_bytes)

    def _ship(self, piece: Piece, computed: Callable[[], None]) -> None:
        """Runs on the shipping thread. `computed` waits until a GPU has computed the piece."""
        with self._tools.lane.changed:
            self._advance(PieceStarted())
            if not self.is_open:
                return
        if self._started_at is None:
            self._started_at = self._tools.clock()
        event: WriterEvent = PieceArrived()
        try:
            computed()
            self._move(piece)
        except TransferFailed as error:
            event = PieceFailed(str(error))
        except Exception as error:
            # The thread also ships for other turns. Only this handoff fails.
            logger.exception("a piece could not be shipped")
            event = PieceFailed(f"{type(error).__name__}: {error}")
        self._arrived_at = self._tools.clock()
        self._advance(event)

    def _move(self, piece: Piece) -> None:
        route = self._route
        source = route.source.region(piece.field_index, route.rank)
        for rank, parts in route.parts(piece.field_index):
            if self._tools.computes_checksums:
                places = [
                    (source.address(unit) + part.source_offset, part.num_bytes)
                    for unit, _ in route.pairs(piece)
                    for part in parts
                ]
                crcs = iter(self._tools.memory.crcs(places))
                for number in piece.numbers:
                    self._crcs[rank, piece.field_index, number] = [next(crcs) for _ in parts]
            target = route.target.region(piece.field_index, rank)
            fragments = plan_units(source, target, route.pairs(piece), parts)
            self._write(route.target.memories[rank.index].segment, fragments)

    def _write(self, segment: str, fragments: Sequence[Fragment]) -> None:
        limits = self._tools.limits
        for batch in batches(
            fragments, max_items=limits.max_batch_items, max_bytes=limits.max_batch_bytes
        ):
            if not self.is_open:
                return
            started_at = self._tools.clock()
            self._tools.transport.write(segment, batch)
            self._transfer_s += self._tools.clock() - started_at
            self._shipped_bytes += sum(fragment.num_bytes for fragment in batch)

    def _advance(self, event: WriterEvent) -> None:
        with self._tools.lane.changed:
            was_ended = self._is_ended
            self.state = advance_writer(self.state, event)
            self._tools.lane.changed.notify_all()
            if self._is_ended and not was_ended:
                self._on_end()
                for waiter in self._waiters:
                    waiter.set_result(None)

    @property
    def _is_ended(self) -> bool:
        return isinstance(self.state, Shipped | Failed | Stopped)

    async def _ended(self) -> None:
        waiter: Future[None] = Future()
        # Marked as running, so that a cancelled caller cannot cancel it under the shipping thread.
        waiter.set_running_or_notify_cancel()
        with self._tools.lane.changed:
            if self._is_ended:
                return
            self._waiters.append(waiter)
        await asyncio.wrap_future(waiter)

    def _require_complete(self) -> None:
        for index, field in enumerate(self._route.source.layout.fields):
            wanted = {(index, number) for number in range(self._route.num_units(field))}
            if missing := sorted(wanted - self._ready):
                raise IncompleteHandoff(
                    f"{len(missing)} {field.unit}s of layer {field.layer}'s {field.group} were "
                    f"never ready, the first is number {missing[0][1]}"
                )

    def _crcs_of(self, target: Rank, field_index: int) -> Iterator[int]:
        field = self._route.source.layout.fields[field_index]
        for number in range(self._route.num_units(field)):
            yield from self._crcs.get((target, field_index, number), ())

    def _sum_up(self) -> ShipResult:
        layout = self._route.source.layout
        checksums: dict[str, int] = {}
        if self._tools.computes_checksums:
            for target in self._route.target.ranks:
                crcs, source = partial(self._crcs_of, target), self._route.rank
                checksums |= combine(layout, crcs, source=source, target=target)
        return ShipResult(
            shipped_bytes=self._shipped_bytes,
            transfer_s=self._transfer_s,
            exposed_transfer_s=max(0.0, self._arrived_at - self._last_ready_at),
            started_at=self._arrived_at if self._started_at is None else self._started_at,
            arrived_at=self._arrived_at,
            checksums=checksums,
        )
